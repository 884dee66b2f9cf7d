"""The tunnels that are measured side by side, each started here with keys, configuration and ports of its own.

All lead from loopback to loopback, by two processes or families of processes: the near one listens for programs, the
far one connects to the service. Each carries two services, bulk and echo: where a tunnel has one connection for both,
a ping is beside the bulk there. What cannot be started is no error: the row is missing, with the reason.
"""

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.cli.bench.load import Counter
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed, Processes, Started
from fairlead.cli.stage.stage import LOOPBACK, Stage
from fairlead.cli.stage.town import Town

SYSTEM = "/usr/sbin:/sbin"
"""Where Debian has servers, and where people's PATH does not lead."""
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
PRIVILEGES = Path("/run/sshd")
"""sshd wants it there when root starts it."""
LOAD = (sys.executable, "-m", "fairlead.cli.bench.load")


class Absent(Exception):
    """A tunnel cannot be had on this machine."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where one half of every tunnel runs."""

    address: str = LOOPBACK
    within: tuple[str, ...] = ()
    """Runs a command there, when that is not this machine itself."""
    inside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


@dataclass(slots=True)
class Peer:
    """A tunnel that carries both services."""

    ground: "Ground"
    bulk: tuple[str, int]
    echo: tuple[str, int]
    ends: list[Started]
    note: str = ""

    @property
    def pids(self) -> list[int]:
        """Of its processes that were started directly."""
        return [one.pid for one in self.ends]


@dataclass(slots=True)
class Ground:
    """The folder, the two sides, and the services behind every tunnel. Whoever makes it closes its processes."""

    folder: Path
    processes: Processes
    ports: Iterator[int]
    views: Iterator[str]
    near: Side = field(default_factory=Side)
    far: Side = field(default_factory=Side)
    bulk: int = 0
    echo: int = 0
    made: list[Path] = field(default_factory=list)
    """Folders outside *folder* that were not there."""

    @property
    def counter(self) -> Path:
        """The file in which the sink counts."""
        return self.folder / "received"

    def open(self) -> None:
        """Start what answers behind the tunnels. Raises Failed."""
        Counter.make(self.counter)
        self.bulk, self.echo = next(self.ports), next(self.ports)
        self.start("bulk", [*LOAD, "bulk", LOOPBACK, str(self.bulk), "--counter", str(self.counter)], self.far)
        self.start("echo", [*LOAD, "echo", LOOPBACK, str(self.echo)], self.far)
        until("the services behind the tunnels answer", lambda: serves(self.far, LOOPBACK, self.bulk, self.echo))

    def start(self, name: str, command: list[str], side: Side) -> Started:
        """A process that stays, on one side; what it says is in a log of its name."""
        return self.processes.start(name, command, self.folder / f"{name}.log", within=side.within)

    def ready(self, name: str, bulk: tuple[str, int], echo: tuple[str, int], *ends: Started) -> Peer:
        """A tunnel with these entries, once a byte comes back through it. Raises Failed: one of *ends* has ended."""
        peer = Peer(self, bulk, echo, list(ends))

        def look() -> bool:
            for one in peer.ends:
                if one.process.poll() is not None:
                    raise Failed(f"{one.name} ended: {self.said(one.name)}")
            return echoes(self.near, *peer.echo)

        until(f"{name} carries a byte", look)
        return peer

    def close(self) -> None:
        """Take away what was made outside the folder; the processes have been ended."""
        for path in self.made:
            with contextlib.suppress(OSError):
                path.rmdir()

    def said(self, name: str) -> str:
        """The last line of a log."""
        said = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it said nothing"


def serves(side: Side, host: str, bulk: int, echo: int) -> bool:
    """Whether both services are there: they are two processes, and either may be the later."""
    try:
        with side.inside(), socket.create_connection((host, bulk), timeout=5):
            pass
    except OSError:
        return False
    return echoes(side, host, echo)


def echoes(side: Side, host: str, port: int) -> bool:
    """Whether a byte comes back from there."""
    try:
        with side.inside(), socket.create_connection((host, port), timeout=5) as sock:
            sock.settimeout(5)
            sock.sendall(b"?")
            return sock.recv(1) == b"?"
    except OSError:
        return False


def program(name: str) -> str:
    """Where a tool is. Raises Absent."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM}")
    if found is None:
        raise Absent(f"{name} is not installed")
    return found


# -- each of them -----------------------------------------------------------------------------------------------------

def raw(ground: Ground) -> Peer:
    """No tunnel. Over a link: straight to the far side, where the services listen on its loopback only."""
    if ground.far.within:
        return _direct(ground)
    return ground.ready("raw", (LOOPBACK, ground.bulk), (LOOPBACK, ground.echo))


def _direct(ground: Ground) -> Peer:
    """The services again, at the far side's own address."""
    bulk, echo = next(ground.ports), next(ground.ports)
    where = ground.far.address
    ground.start("bulk, direct", [*LOAD, "bulk", where, str(bulk), "--counter", str(ground.counter)], ground.far)
    ground.start("echo, direct", [*LOAD, "echo", where, str(echo)], ground.far)
    until("the services at the far side's address answer", lambda: serves(ground.far, where, bulk, echo))
    return ground.ready("raw", (where, bulk), (where, echo))


def relay(ground: Ground) -> Peer:
    """Two haproxy processes without encryption: what two hops cost when nothing else is done."""
    haproxy = program("haproxy")
    middle, entry = _two(ground), _two(ground)
    ends = []
    for name, side, host, listen, to, there in (
            ("relay-far", ground.far, ground.far.address, middle, LOOPBACK, (ground.bulk, ground.echo)),
            ("relay-near", ground.near, LOOPBACK, entry, ground.far.address, middle)):
        path = ground.folder / f"{name}.cfg"
        path.write_text("global\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n"
                        "  timeout server 1h\n" + "".join(
                            f"listen {what}\n  bind {host}:{here}\n  server {what} {to}:{port}\n"
                            for what, here, port in zip(("bulk", "echo"), listen, there, strict=True)))
        ends.append(ground.start(name, [haproxy, "-db", "-f", str(path)], side))
    return ground.ready("relay", (LOOPBACK, entry[0]), (LOOPBACK, entry[1]), *ends)


def ssh_default(ground: Ground) -> Peer:
    """``ssh -L`` as installed."""
    peer = ssh(ground, "ssh-default", "")
    peer.note = "the cipher that client and server choose, chacha20-poly1305"
    return peer


def ssh_best(ground: Ground, rate: Callable[[Peer], float]) -> Peer:
    """``ssh -L`` with its best cipher, of those that have hardware behind them, by a short trial (*rate* it)."""
    tried = {cipher: ssh(ground, f"ssh-{cipher.partition('@')[0]}", cipher) for cipher in CIPHERS}
    rates = dict.fromkeys(CIPHERS, 0.0)
    for order in (CIPHERS, CIPHERS[::-1]):
        for cipher in order:
            rates[cipher] += rate(tried[cipher])
    best = max(CIPHERS, key=lambda cipher: rates[cipher])
    for cipher, peer in tried.items():
        if cipher != best:
            for one in peer.ends:
                ground.processes.end(one)
    tried[best].note = best.partition("@")[0]
    return tried[best]


def ssh_gcm(ground: Ground) -> Peer:
    """``ssh -L`` with the first of those ciphers: over a link that is slower than any of them, a trial says nothing."""
    peer = ssh(ground, "ssh-best", CIPHERS[0])
    peer.note = f"{CIPHERS[0].partition('@')[0]}, without a trial"
    return peer


def ssh(ground: Ground, name: str, cipher: str, *settings: str) -> Peer:
    """One client and a server of its own, with throw-away keys; more *settings* are for the server. Raises Absent."""
    client = program("ssh")
    server, port, folder = sshd(ground, name, *settings)
    entry = _two(ground)
    known = folder / "known_hosts"
    known.write_text(f"[{ground.far.address}]:{port} {(folder / 'host.pub').read_text()}")
    forwards = [option for here, there in zip(entry, (ground.bulk, ground.echo), strict=True)
                for option in ("-L", f"{LOOPBACK}:{here}:{LOOPBACK}:{there}")]
    command = [client, "-F", "none", "-N", "-i", str(folder / "user"), "-p", str(port), *forwards,
               *(["-c", cipher] if cipher else [])]
    for option in ("IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", "StrictHostKeyChecking=yes",
                   f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=none", "ExitOnForwardFailure=yes",
                   "ConnectTimeout=10"):
        command += ["-o", option]
    started = ground.start(name, [*command, f"{user()}@{ground.far.address}"], ground.near)
    return ground.ready(name, (LOOPBACK, entry[0]), (LOOPBACK, entry[1]), started, server)


def sshd(ground: Ground, name: str, *settings: str) -> tuple[Started, int, Path]:
    """A server that listens, its port, and the folder of its keys ``host`` and ``user``. Raises Absent, Failed."""
    server, keygen = program("sshd"), program("ssh-keygen")
    folder, port = ground.folder / f"{name}.keys", next(ground.ports)
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        ground.processes.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(folder / key)]).done()
    if os.geteuid() == 0 and not PRIVILEGES.exists():
        PRIVILEGES.mkdir(mode=0o755)
        ground.made.append(PRIVILEGES)
    path = folder / "sshd_config"
    path.write_text("\n".join((
        f"ListenAddress {ground.far.address}:{port}", f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'user.pub'}", "StrictModes no", "UsePAM no", "PidFile none", "UseDNS no",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
        "LogLevel ERROR", *settings)) + "\n")
    started = ground.start(f"{name}.sshd", [server, "-D", "-e", "-f", str(path)], ground.far)

    def listens() -> bool:
        if started.process.poll() is not None:
            raise Failed(f"sshd ended: {ground.said(started.name)}")
        with contextlib.suppress(OSError), ground.far.inside(), socket.create_connection(
                (ground.far.address, port), timeout=5) as sock:
            return sock.recv(4) == b"SSH-"
        return False

    until("sshd answers", listens)
    return started, port, folder


def stunnel(ground: Ground) -> Peer:
    """Two stunnel processes: TLS, a connection for each connection."""
    tool = program("stunnel")
    certificate, key = tls_pair(ground)
    middle, entry = _two(ground), _two(ground)
    ends = []
    for name, side, client, host, listen, to, there in (
            ("stunnel-far", ground.far, "no", ground.far.address, middle, LOOPBACK, (ground.bulk, ground.echo)),
            ("stunnel-near", ground.near, "yes", LOOPBACK, entry, ground.far.address, middle)):
        path = ground.folder / f"{name}.conf"
        path.write_text(f"foreground = yes\npid =\nsyslog = no\ndebug = 3\nclient = {client}\n" + (
            f"cert = {certificate}\nkey = {key}\n" if client == "no" else "") + "".join(
                f"[{what}]\naccept = {host}:{here}\nconnect = {to}:{port}\n"
                for what, here, port in zip(("bulk", "echo"), listen, there, strict=True)))
        ends.append(ground.start(name, [tool, str(path)], side))
    return ground.ready("stunnel", (LOOPBACK, entry[0]), (LOOPBACK, entry[1]), *ends)


def nginx(ground: Ground) -> Peer:
    """Two nginx with their stream modules: TLS between them, a connection for each connection."""
    tool = program("nginx")
    module = _stream_module(tool)
    certificate, key = tls_pair(ground)
    middle, entry = _two(ground), _two(ground)
    ends = []
    for name, side, host, listen, listening, to, there, how in (
            ("nginx-far", ground.far, ground.far.address, middle, " ssl", LOOPBACK, (ground.bulk, ground.echo),
             f"ssl_certificate {certificate}; ssl_certificate_key {key};"),
            ("nginx-near", ground.near, LOOPBACK, entry, "", ground.far.address, middle, "proxy_ssl on;")):
        path = ground.folder / f"{name}.conf"
        path.write_text(
            f"{module}\ndaemon off;\nworker_processes auto;\npid {ground.folder}/{name}.pid;\n"
            "error_log stderr error;\nevents { worker_connections 4096; }\nstream {\n" + how + "\n" + "".join(
                f"server {{ listen {host}:{here}{listening}; proxy_pass {to}:{port}; proxy_timeout 1h; }}\n"
                for here, port in zip(listen, there, strict=True)) + "}\n")
        ends.append(ground.start(name, [tool, "-p", str(ground.folder), "-e", "stderr", "-c", str(path)], side))
    return ground.ready("nginx", (LOOPBACK, entry[0]), (LOOPBACK, entry[1]), *ends)


def _stream_module(tool: str) -> str:
    built = subprocess.run([tool, "-V"], capture_output=True, text=True, check=False).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    where = re.search(r"--modules-path=(\S+)", built)
    path = Path(where[1] if where else "/usr/lib/nginx/modules") / "ngx_stream_module.so"
    if not path.exists():
        raise Absent("nginx has no stream module")
    return f"load_module {path};"


def fairlead(ground: Ground, name: str, environment: Mapping[str, str]) -> Peer:
    """A Controller and an engine, with services of the Controller that the engine reaches through its listeners."""
    stage = Stage(ground.folder / name, ground.processes, free=ground.ports, views=ground.views,
                  environment=dict(environment))
    stage.folder.mkdir()
    stage.init("ctl-1")
    stage.run("ctl-1", "controller")
    stage.join(stage.export("se-1", "--node", "se-1"), "se-1").done()
    stage.run("se-1", "engine")
    return offered(ground, name, stage)


def fairlead_in(ground: Ground, name: str, town: Town, environment: Mapping[str, str]) -> Peer:
    """The same on two hosts that are there."""
    town.environment = dict(environment)
    town.found("ctl-1")
    town.enrol("engine", "se-1", "ctl-1")
    town.run("se-1", "engine")
    return offered(ground, name, town)


def offered(ground: Ground, name: str, stage: Stage) -> Peer:
    """Both services, of the Controller ctl-1, where the engine se-1 reaches them. Raises Failed."""
    stage.ports |= {"bulk server": ground.bulk, "echo server": ground.echo}
    for what in ("bulk", "echo"):
        stage.offer(what, "ctl-1", f"{what} server", "engines")
    where = stage.address("ctl-1", "se-1")
    ends = [node.started for node in (stage.node("se-1"), stage.node("ctl-1")) if node.started is not None]
    return ground.ready(name, (where, stage.port("bulk")), (where, stage.port("echo")), *ends)


def _two(ground: Ground) -> tuple[int, int]:
    return next(ground.ports), next(ground.ports)


def user() -> str:
    """Who we are, and as whom we log in at a server of our own."""
    return pwd.getpwuid(os.geteuid()).pw_name


def tls_pair(ground: Ground) -> tuple[Path, Path]:
    """A throw-away certificate for TLS, and its key."""
    certificate, key = ground.folder / "tls.pem", ground.folder / "tls.key"
    if not certificate.exists():
        ground.processes.run([
            program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=bench", "-days", "2", "-keyout", str(key), "-out", str(certificate)]).done()
    return certificate, key
