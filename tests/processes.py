"""The product as people run it: daemons and commands as processes, each with its state folder, on loopback.

Everything that is started ends with its `Site`, and with the test process however that ends (setpriv --pdeathsig).
What a daemon logs stands in its ``log``, and in what pytest shows of a failed test. Nothing waits for a time: `until`
looks again until what is awaited is there, and fails at its deadline.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Self, TypeVar

import tomli_w

from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient

T = TypeVar("T")
COMMAND = (sys.executable, "-m", "fairlead.cli.main")
POOL = IPv4Address("127.64.0.0")
DEADLINE_S = 60.0
"""Room for a machine that is busy with other tests; only what fails takes so long."""
CODE = re.compile(r"\[FL-[A-Z0-9-]+\]")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output."""
        return json.loads(self.out)

    def done(self) -> Self:
        """Itself, when it succeeded."""
        assert self.code == 0, self
        return self

    def refused(self, code: str, *, alone: bool = True) -> str:
        """Its refusal: exit code 1, one line with *code*, the last on standard error, and the only one if *alone*."""
        lines = self.err.splitlines()
        assert self.code == 1, self
        assert "Traceback" not in self.err, self.err
        assert [line for line in lines if CODE.search(line)] == lines[-1:], self.err
        assert lines[-1].endswith(f"[{code}]"), lines[-1]
        assert not alone or len(lines) == 1, self.err
        return lines[-1]


def fairlead(*arguments: object, state: Path | None = None, given: str | None = None,
             env: Mapping[str, str] | None = None, before: Sequence[str] = (), cwd: Path | None = None,
             within_s: float = 2 * DEADLINE_S) -> Result:
    """Run one command to its end; *before* are commands that run it, such as ``faketime``."""
    with command(*arguments, state=state, env=env, before=before, cwd=cwd) as process:
        try:
            out, err = process.communicate(given, timeout=within_s)
        finally:
            process.kill()
    return Result(process.returncode, out, err)


def command(*arguments: object, state: Path | None = None, env: Mapping[str, str] | None = None,
            before: Sequence[str] = (), cwd: Path | None = None) -> "subprocess.Popen[str]":
    """One command, running; the caller ends it."""
    where = [] if state is None else ["--state", str(state)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*before, *COMMAND, *map(str, arguments), *where], env=surroundings(env), cwd=cwd,
                            stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def surroundings(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, without what would speak for the person who runs the tests."""
    ours = ("FAIRLEAD_STATE", "AVICNTRL", "AVICNTRL_AUTHTOKEN", "AVICNTRL_CLUSTERUUID", "NOTIFY_SOCKET")
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "XDG_CONFIG_HOME": "/nonexistent"} | dict(more or {})


def until(look: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """What *look* finds as soon as that is true; a daemon that does not answer yet is nothing found."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            if found := look():
                return found
        except FairleadError:
            pass
        assert time.monotonic() < end, f"not within {deadline_s:g} seconds: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on, outside the range from which the kernel takes ports itself."""
    while True:
        port = random.randint(10_000, 30_000)
        with socket.socket() as one, socket.socket(socket.AF_INET6) as other, contextlib.suppress(OSError):
            one.bind(("0.0.0.0", port))
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("::", port))
            return port


def an_address() -> str:
    """A loopback address that no view has, for somebody in between."""
    return f"127.{random.randint(1, 60)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


def a_view() -> str:
    """A network for one node's view, outside the pool."""
    return f"127.{random.randint(128, 254)}.{random.randint(0, 15) * 16}.0/20"


@dataclass(slots=True)
class Daemon:
    """One node: its state folder, and its daemon when it runs."""

    role: str
    name: str
    state: Path
    view: str
    ports: dict[str, int] = field(default_factory=dict)
    """A Controller's: api, portal, ssh."""
    before: Sequence[str] = ()
    """Commands that run the daemon, and what is asked of it, such as those of another network namespace."""
    process: "subprocess.Popen[bytes] | None" = None
    log: str = ""
    _pump: threading.Thread | None = None

    def start(self, *, ready: bool = True) -> Self:
        """Run the daemon, and wait until it answers on its control socket."""
        self.process = process = subprocess.Popen(
            [*self.before, "setpriv", "--pdeathsig", "KILL", *COMMAND, self.role, "run", "--state", str(self.state)],
            env=surroundings(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._pump = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._pump.start()
        return self.started() if ready else self

    def started(self) -> Self:
        """Itself, once it answers."""
        until(lambda: not self.runs or self.get("/api/version"), f"{self.name} runs")
        assert self.runs, f"{self.name} ended: {self.log}"
        return self

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            text = line.decode(errors="replace")
            self.log += text
            sys.stderr.write(f"{self.name}| {text}")

    @property
    def runs(self) -> bool:
        """Whether its daemon has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon."""
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """The daemon's exit code, once it has ended."""
        assert self.process is not None
        code = self.process.wait(deadline_s)
        if self._pump is not None:
            self._pump.join(deadline_s)
        return code

    def stop(self) -> None:
        """End the daemon, whatever its state."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
        self.ended()

    def get(self, path: str) -> Any:
        """Ask the daemon, as the command line does. Raises FairleadError while it does not answer."""
        return ControlClient(self.state, 10.0).get(path)

    def listed(self, what: str) -> list[dict[str, Any]]:
        """The rows of ``node list``, ``token list``, ``tunnel list``, ``service list``."""
        rows: list[dict[str, Any]] = self.get(f"/api/{what}")["results"]
        return rows

    def node(self, name: str) -> dict[str, Any]:
        """One row of ``node list``; empty when there is none."""
        return next((row for row in self.listed("node") if row["name"] == name), {})

    def cli(self, *arguments: object, given: str | None = None, within_s: float = 2 * DEADLINE_S) -> Result:
        """A command about this node."""
        return fairlead(*arguments, state=self.state, given=given, before=self.before, within_s=within_s)

    def see(self, internal: str) -> str:
        """Where this node finds an internal address."""
        base = IPv4Network(self.view).network_address
        return str(base + (int(IPv4Address(internal)) - int(POOL)))

    def configure(self, **settings: object) -> None:
        """Add settings to ``fairlead.toml``; they count from the next start, or reload."""
        file = self.state / "fairlead.toml"
        file.write_text(tomli_w.dumps(tomllib.loads(file.read_text()) | settings))

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log's records of one event; why a daemon has not started is no record."""
        return [record for line in self.log.splitlines() if line.startswith("{")
                and (record := json.loads(line))["event"] == event]


class Site:
    """One machine on which a Controller and engines run side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[Daemon] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.signal(signal.SIGCONT)
                daemon.signal(signal.SIGTERM)  # all at once: they drain side by side
        for daemon in self._daemons:
            daemon.stop()

    def daemon(self, role: str, name: str, state: Path, view: str, **ports: int) -> Daemon:
        """A node that exists already, to be started; it ends with this site."""
        made = Daemon(role, name, state, view, ports)
        self._daemons.append(made)
        return made

    def controller(self, name: str = "ctl", *, address: str = "127.0.0.1", everywhere: bool = False,
                   password: str = "not asked for in these tests", **settings: object) -> Daemon:
        """A new Controller, running; *everywhere*: listening on all addresses, else on 127.0.0.1."""
        made = self.daemon("controller", name, self.folder / name, a_view(), api=free_port(), portal=free_port(),
                           ssh=free_port())
        made.cli(*init_arguments(made, address), *([] if everywhere else ["--listen", "127.0.0.1"]),
                 "--admin-password-file", "-", given=password).done()
        made.configure(**settings)
        return made.start()

    def bundle(self, controller: Daemon, *options: object) -> Path:
        """A new bundle for an engine."""
        file = self.folder / f"{random.getrandbits(32):08x}.bundle"
        controller.cli("bundle", "export", "--role", "engine", "--output", file, *options).done()
        return file

    def join(self, controller: Daemon, name: str) -> Daemon:
        """A new engine that has joined and does not run yet."""
        made = self.daemon("engine", name, self.folder / name, a_view())
        made.cli("engine", "join", self.bundle(controller), "--name", name, "--view", made.view).done()
        return made

    def engine(self, controller: Daemon, name: str) -> Daemon:
        """A new engine, running and up, with its first plan on its disk."""
        made = self.join(controller, name).start()
        until(lambda: controller.node(name)["state"] == "up", f"{name} is up")
        until((made.state / "plan.json").exists, f"{name} has a plan")
        return made


def init_arguments(made: Daemon, address: str = "127.0.0.1") -> list[object]:
    """The ``controller init`` of *made*."""
    flags = [flag for name, port in made.ports.items() for flag in (f"--{name}-port", port)]
    return ["controller", "init", "--name", made.name, "--address", address, "--view", made.view, *flags]


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None], host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A TCP service: *answer* is called with each connection, in a thread of its own. Gives the port."""
    with socket.create_server((host, port)) as listener:

        def host_one(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                answer(sock)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=host_one, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            thread.join()


def read_all(sock: socket.socket) -> bytes:
    """Everything until the peer ends its side."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def echo(sock: socket.socket) -> None:
    """A service that gives back what it gets, as it comes."""
    while data := sock.recv(65536):
        sock.sendall(data)


def connect(host: str, port: int) -> socket.socket:
    """A connection whose every wait ends."""
    return socket.create_connection((host, port), timeout=DEADLINE_S)


def ask(host: str, port: int, question: bytes = b"?") -> bytes:
    """Send *question*, end our side, read the answer; empty when there is nobody, or the stream was cut."""
    try:
        with connect(host, port) as sock:
            sock.sendall(question)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)
    except TimeoutError:
        raise
    except OSError:
        return b""


def listens(host: str, port: int) -> bool:
    """Whether anybody accepts a connection there."""
    try:
        connect(host, port).close()
    except ConnectionRefusedError:
        return False
    return True


def relay(sock: socket.socket, target: tuple[str, int], passes: Callable[[bytes], bool] = lambda _: True) -> None:
    """Join *sock* to *target*, as something in between would; an answer that does not pass ends both."""
    with connect(*target) as other:

        def forth() -> None:
            with contextlib.suppress(OSError):
                echo_to(sock, other)

        thread = threading.Thread(target=forth, daemon=True)
        thread.start()
        with contextlib.suppress(OSError):
            while (data := other.recv(65536)) and passes(data):
                sock.sendall(data)
        for one in (sock, other):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        thread.join()


def echo_to(one: socket.socket, other: socket.socket) -> None:
    """Pass on what comes, then the end."""
    while data := one.recv(65536):
        other.sendall(data)
    other.shutdown(socket.SHUT_WR)
