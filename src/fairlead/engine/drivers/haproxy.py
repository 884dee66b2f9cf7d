"""The driver ``haproxy``: the engine's own HAProxy, whose listeners and back ends documents describe.

Rules, and what each stops:

1. It is run only where the engine's settings, as they are now, say so, and listens only in networks that they name: a
   document that is held from before is no leave.
2. All documents make one configuration, rendered here from values of their own forms: no document brings a line.
3. `haproxy -c` sees it first, and addresses that another process has are found before; then the running one reloads:
   new workers take over the listeners, connections that are there go on. When either refuses, the old configuration
   stays, in the file too.
4. Its words on how the reload went come from its own notifications to a socket that only this user can write to.
5. It dies with us (`base.leash`); when it ends by itself, it is started again.
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from fairlead.base import files, leash
from fairlead.base.backoff import FullJitter
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.base.sockets import holder
from fairlead.engine.drivers import program
from fairlead.engine.settings import HaproxySettings
from fairlead.link.documents import BackEnd, Haproxy, Listener, Server, read

FOLDER = "haproxy"
FILE = "haproxy.cfg"
READY_S = 10.0
"""For a start or a reload: binding is tried for two seconds, a slow machine has the rest."""
ANSWER_S = 2.0
LONGEST_PATH = 90
"""A socket's path has 107 characters at most, and HAProxy adds its own while it starts."""
_PREFIX = re.compile(r"^\[[A-Z]+\]\s+\([0-9]+\) : |\[?/[^ ]*haproxy\.cfg(\.new)?:")

log = structlog.get_logger("fairlead.engine")

Resolve = Callable[[str, str | None], tuple[str, int] | None]
"""Where this node reaches a service (of that owner); None: it may not, or there is none."""


class HaproxyDriver:
    """Renders, checks, runs and reloads."""

    def __init__(self, state: Path, settings: Callable[[], HaproxySettings | None], resolve: Resolve) -> None:
        """*settings*: as they are now; None: no HAProxy here."""
        self._folder = state / FOLDER
        self._settings = settings
        self._resolve = resolve
        self._running: _Running | None = None
        self._file = ""
        """The configuration in force."""
        self._watching: asyncio.Task[None] | None = None

    async def apply(self, name: str, text: str, others: Mapping[str, str]) -> None:
        """Run with *text* in place of what the document *name* said; see `engine.documents.Driver`."""
        if refusal := self._refusal(read("haproxy", text)):
            raise refusal
        await self._become({**others, name: text})

    async def remove(self, name: str, others: Mapping[str, str]) -> None:
        """Run without the document *name*; without any, not at all."""
        await self._become({other: text for other, text in others.items() if other != name})

    async def restore(self, held: Mapping[str, str]) -> None:
        """Run as the documents *held* say, without those that the settings, as they are now, do not allow.

        Raises FairleadError; Refused for such a one, when all others are in force.
        """
        await self._become(held)
        for name, text in sorted(held.items()):
            if refusal := self._refusal(read("haproxy", text)):
                raise Refused(refusal.code, f"{name}: {refusal.message}", refusal.remedy)

    @property
    def problems(self) -> list[str]:
        """That it does not run, while it should."""
        if self._running is None or self._running.alive:
            return []
        return ["HAProxy has ended and is being started again [FL-DRIVER-HAPROXY]"]

    async def close(self) -> None:
        """End it."""
        running, self._running = self._running, None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if running is not None:
            await running.close()

    async def _run(self, binary: str) -> None:
        await self.close()
        self._running = await _Running.start(binary, self._folder / FILE)
        self._watching = asyncio.get_running_loop().create_task(self._watch(binary, self._running))

    async def _watch(self, binary: str, running: "_Running") -> None:
        """When it ends by itself, start it again, ever more patiently."""
        delay = FullJitter(0.5, 30.0)
        while True:
            await running.child.wait()
            log.error("haproxy.ended", code="FL-DRIVER-HAPROXY", reason=program.last("\n".join(running.words[-5:])))
            await running.close()
            await asyncio.sleep(delay.next())
            with contextlib.suppress(FairleadError):
                self._running = running = await _Running.start(binary, self._folder / FILE)

    async def _become(self, documents: Mapping[str, str]) -> None:
        settings = self._settings()
        bodies = {name: body for name, text in documents.items() if not self._refusal(body := read("haproxy", text))}
        if not bodies or settings is None:
            await self.close()
            self._file = ""
            if documents and settings is None:
                raise _off()
            return
        wanted = render(bodies, self._resolve, settings)
        running = self._running
        if wanted == self._file and running is not None and running.alive:
            return
        files.make_private_folder(self._folder)
        tried = self._folder / f"{FILE}.new"
        files.write_private(tried, wanted.encode())
        try:
            await program.run([settings.program, "-c", "-f", str(tried)], essence=_essence)
        finally:
            files.remove(tried)
        self._check_free(wanted)
        former, self._file = self._file, wanted
        try:
            files.write_private(self._folder / FILE, wanted.encode())
            if running is None or not running.alive:
                await self._run(settings.program)
            else:
                await running.reload()
        except BaseException:
            await self._back(former)
            raise

    async def _back(self, former: str) -> None:
        self._file = former
        if not former:
            await self.close()
            files.remove(self._folder / FILE)
            return
        files.write_private(self._folder / FILE, former.encode())
        if self._running is not None and self._running.alive:
            with contextlib.suppress(FairleadError):
                await self._running.reload()

    def _refusal(self, body: Haproxy) -> Refused | None:
        """Why the settings, as they are now, do not allow it."""
        settings = self._settings()
        if settings is None:
            return _off()
        networks = [ipaddress.ip_network(text) for text in settings.bind]
        for listener in body.listeners:
            for bind in listener.bind:
                address = ipaddress.ip_address(bind.rpartition(":")[0].strip("[]"))
                if not any(address in network for network in networks):
                    return Refused("FL-DRIVER-BIND", f"this engine's HAProxy may not listen on {bind}",
                                   f"its settings allow {', '.join(settings.bind)}: [haproxy] bind in fairlead.toml")
        return None

    def _check_free(self, wanted: str) -> None:
        """An address that is new in *wanted* is nobody's yet. Raises Refused FL-DRIVER-TAKEN."""
        for bind in sorted(_binds(wanted) - _binds(self._file)):
            host, _, port = bind.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host.strip("[]"), int(port)))
                except OSError as error:
                    who = holder(host.strip("[]"), int(port))
                    raise Refused("FL-DRIVER-TAKEN", f"{bind} cannot be listened on: {error.strerror}"
                                  + (f", {who} has it" if who else ""), "choose another, or end what has it") from None


def render(documents: Mapping[str, Haproxy], resolve: Resolve, settings: HaproxySettings) -> str:
    """The configuration of all *documents*, by name. Raises Refused FL-DRIVER-SERVICE, FL-DRIVER-TAKEN."""
    lines = [
        "# written by fairlead from its documents; changes are lost",
        "global",
        "    log stderr format raw daemon",
        f"    hard-stop-after {settings.drain_s * 1000:.0f}ms",
        "    stats socket unix@stats.sock mode 600 level admin expose-fd listeners",
        "defaults",
        "    log global",
        "    option dontlognull",
        "    option redispatch",
        "    default-server inter 2s fall 2 rise 1"]
    taken: dict[str, str] = {}
    for name, body in sorted(documents.items()):
        timeouts = [f"    timeout {which} {seconds * 1000:.0f}ms" for which, seconds in (
            ("connect", body.timeouts.connect), ("client", body.timeouts.client), ("server", body.timeouts.server))]
        for listener in body.listeners:
            for bind in listener.bind:
                if bind in taken:
                    raise Refused("FL-DRIVER-TAKEN", f"{bind} belongs to the document {taken[bind]}",
                                  "give it another address, or delete the other document")
                taken[bind] = name
            lines += [*_front(name, listener), timeouts[1]]
        for back_end in body.back_ends:
            lines += [*_back(name, back_end, resolve), timeouts[0], timeouts[2]]
    return "\n".join(lines) + "\n"


def _front(document: str, listener: Listener) -> list[str]:
    most = [f"    maxconn {listener.most_connections}"] if listener.most_connections else []
    return [f"frontend {document}.{listener.name}", f"    mode {listener.mode}", *most,
            *(f"    bind {bind}" for bind in listener.bind), f"    default_backend {document}.{listener.back_end}"]


def _back(document: str, back_end: BackEnd, resolve: Resolve) -> list[str]:
    health = [f"    option httpchk GET {back_end.health_path}"] if back_end.health_path else []
    return [f"backend {document}.{back_end.name}", f"    mode {back_end.mode}", f"    balance {back_end.balance}",
            *health, *(_server(server, resolve) for server in back_end.servers)]


def _server(server: Server, resolve: Resolve) -> str:
    address = server.address
    if server.service is not None:
        found = resolve(server.service, server.owner)
        if found is None:
            raise Refused("FL-DRIVER-SERVICE", f"this engine may not reach the service {server.service}"
                          + (f" of {server.owner}" if server.owner else ""),
                          "declare it, and allow the engine: `fairlead policy explain` says what is missing")
        address = f"{found[0]}:{found[1]}"
    return f"    server {server.name} {address} weight {server.weight}" + (" check" if server.check else "")


def _essence(words: str) -> str:
    """What HAProxy complains of, without its notices, process ids and the name of our file."""
    lines = (_PREFIX.sub("", line) for line in words.splitlines() if not line.startswith("[NOTICE]"))
    return "\n".join(line for line in lines if not line.startswith(("config : Error(s)", "config : Fatal errors")))


def _binds(configuration: str) -> set[str]:
    return {line.split()[1] for line in configuration.splitlines() if line.startswith("    bind ")}


def _off() -> Refused:
    return Refused("FL-DRIVER-OFF", "this engine runs no HAProxy",
                   "write [haproxy] into its fairlead.toml, and reload it")


@dataclass(slots=True)
class _Running:
    """A master and its workers, with a folder for their sockets."""

    child: asyncio.subprocess.Process
    sockets: Path
    told: socket.socket
    words: list[str]
    ready: asyncio.Event
    """It has said that it is, or it has ended."""
    tasks: list[asyncio.Task[None]]

    @classmethod
    async def start(cls, binary: str, configuration: Path) -> "_Running":
        """Start it. Raises Refused FL-DRIVER-HAPROXY with its words, OperatorError."""
        sockets = configuration.parent / "run"
        if len(str(sockets)) > LONGEST_PATH:
            raise OperatorError("FL-DRIVER-HAPROXY", f"the path {sockets} is too long for sockets",
                                f"choose a state folder with a shorter path, at most {LONGEST_PATH} characters with "
                                "this")
        found = shutil.which(binary)
        if found is None:
            raise Refused("FL-DRIVER-PROGRAM", f"{binary} is not installed", "install HAProxy on the engine")
        shutil.rmtree(sockets, ignore_errors=True)  # of one that was killed
        files.make_private_folder(sockets)
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            told.setblocking(False)
            told.bind(str(sockets / "notify.sock"))
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), found, "-Ws", "-S",
                "unix@master.sock", "-f", str(configuration), cwd=sockets, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
                env=program.environment() | {"NOTIFY_SOCKET": str(sockets / "notify.sock")})
        except OSError as error:
            told.close()
            shutil.rmtree(sockets, ignore_errors=True)
            raise OperatorError("FL-DRIVER-PROGRAM", f"{binary} cannot be started: {error.strerror}",
                                "see its file's owner and mode") from None
        loop = asyncio.get_running_loop()
        running = cls(child, sockets, told, [], asyncio.Event(), [])
        running.tasks += [loop.create_task(running._listen()), loop.create_task(running._watch())]
        loop.add_reader(told.fileno(), running._hear)
        try:
            await running._ready()
        except BaseException:
            await running.close()
            raise
        return running

    @property
    def alive(self) -> bool:
        """Whether its master runs."""
        return self.child.returncode is None

    async def reload(self) -> None:
        """Have it read its file again. Raises Refused FL-DRIVER-HAPROXY: then it runs as it did before."""
        self.ready.clear()
        self.words.clear()
        self.child.send_signal(signal.SIGUSR2)
        await self._ready()

    async def close(self) -> None:
        """End it, with all that it has started."""
        if self.alive:
            self.child.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self.child.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        await self.child.wait()
        for task in self.tasks:
            task.cancel()
        if self.told.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.told.fileno())
        self.told.close()
        shutil.rmtree(self.sockets, ignore_errors=True)

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await self.ready.wait()
                if self.alive and not await self._failures():
                    return
        except (TimeoutError, OSError, ValueError):  # its CLI may be gone before it answers
            pass
        words = program.last(_essence("\n".join(self.words)))
        raise Refused("FL-DRIVER-HAPROXY", f"HAProxy does not take it: {words}", "mend the document")

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while said := self.told.recv(4096):
                if b"READY=1" in said.split():
                    self.ready.set()

    async def _watch(self) -> None:
        await self.child.wait()
        self.ready.set()  # whoever waits sees that it has ended

    async def _failures(self) -> int:
        """How many reloads in a row its master counts as failed."""
        reader, writer = await asyncio.open_unix_connection(str(self.sockets / "master.sock"))
        try:
            writer.write(b"show proc\n")
            while line := await reader.readline():
                if b" master " in line:
                    return int(line.partition(b"failed: ")[2].partition(b"]")[0] or 0)
        finally:
            writer.close()
        raise ValueError("its master does not say how it is")

    async def _listen(self) -> None:
        """Its words go into our log, and the last ones are kept."""
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            text = line.decode(errors="replace").strip()
            if text:
                self.words.append(text)
                del self.words[:-50]
                log.debug("haproxy", line=text[:500])
