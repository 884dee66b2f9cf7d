"""etcd as a child of the Controller: started, watched, started again, and never left behind.

Rules, and the fault or attack that each stops:

1. It listens on the node's internal address and nowhere else, with mutual TLS on both ports. The door for members asks
   for a certificate with the members' name; the door for clients for one whose use is TLS clients, which members and
   etcd's clients have and no other certificate of the same CA (`pki.certificate`).
2. The peer's address is not compared with its certificate: members reach each other through tunnels, and all of them
   seem to come from this host. Its name counts.
3. It gets an empty environment: etcd takes settings from ``ETCD_*``, proxies from ``HTTPS_PROXY``, and would speak to
   systemd in our name. Secrets stand in files of mode 0600, never among the arguments, which everybody may read.
4. It dies with us (`leash`). An etcd that holds the data all the same, or somebody on its ports, is named, and waited
   for.
5. What it logs is a line of ours: never more than one of a kind in a minute above debug.
6. A certificate and its key are one file, replaced at once: etcd reads it anew at every handshake, as a server and as
   a client (seen with 3.4.23). The CAs that it trusts it reads at its start and never again: others need a restart, one
   member after the other (`restart`). What was connected before stays connected, whatever the files say since.
"""

import asyncio
import contextlib
import fcntl
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from fairlead.base import leash, strict
from fairlead.base.backoff import FullJitter
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.base.files import make_private_folder, read_private, write_private
from fairlead.base.sockets import holder
from fairlead.cluster.members import Calls, Status, abreast, status
from fairlead.pki.certificate import ders_of, member_name
from fairlead.pki.verify import client_context

CLIENT_PORT = 2379
PEER_PORT = 2380
HEARTBEAT_MS = 60
"""Three round trips of 20 ms: a heartbeat is on time though one packet is sent again."""
ELECTION_MS = 600
"""Ten heartbeats: a disk that syncs slowly starts no election, and a dead leader is missed after half a second to one.
Leases live one second at least (one and a half of this, rounded up)."""
MOST_OPERATIONS = 512
"""In one transaction: a change, its audit records and their compares."""
QUOTA_BYTES = 2 * 1024 * 1024 * 1024
MOST_QUOTA_BYTES = 4 * QUOTA_BYTES
"""What etcd's makers advise not to go beyond."""
SNAPSHOT_COUNT = 10_000
"""Entries of the log kept in memory, ours are small and few; a member that was away for longer gets a snapshot."""
CIPHERS = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
           "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")
"""Of TLS 1.2, which is the oldest that etcd speaks: forward secrecy, authenticated. TLS 1.3 has no others."""

FIRST_DELAY_S = 0.2
MOST_DELAY_S = 15.0
STEADY_S = 10.0
"""A life of this length was a success: the next delay begins small again."""
STOP_S = 2.0
"""From SIGTERM to SIGKILL: etcd's leader gives the lead away meanwhile, if there is anybody to take it."""
LOOK_S = 5.0
SAID_FOR_S = 60.0
POLL_S = 0.1
MOST_LINE = 64 * 1024
MOST_KINDS = 256

_VERSION = re.compile(r"^etcd Version: (\d{1,3})\.(\d{1,3})\.(\d{1,3})", re.MULTILINE)
_REMEDY = "install etcd 3.4 or 3.5 (3.5.3 or later), such as Debian's package etcd-server"
_NOISE = (b'"ignoring common name in gRPC-gateway proxy request"',  # at every request of the gateway's clients
          b'"simple token is not cryptographically signed"')  # we use none
_LOUD = frozenset(("warn", "error", "dpanic", "panic", "fatal"))

log = structlog.get_logger("fairlead.etcd")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a member is started with. Once its data exists, etcd goes by that: `initial`, `existing` are for birth."""

    node: str
    internal_address: str
    cluster_uuid: UUID
    initial: Mapping[str, str]
    """Node names and internal addresses of all members, this one included."""
    existing: bool
    """Whether it joins a cluster that runs, in place of being born with the others."""
    quota_bytes: int = QUOTA_BYTES
    alone: bool = False
    """Whether the other members are lost: it forgets them all, and goes on with what it has. They must never run again
    beside it."""


def client_url(internal_address: str) -> str:
    """Where clients of the member find it."""
    return f"https://{internal_address}:{CLIENT_PORT}"


def peer_url(internal_address: str) -> str:
    """Where its peers find the member."""
    return f"https://{internal_address}:{PEER_PORT}"


def check_etcd() -> Path:
    """The etcd that is installed. Raises OperatorError FL-ETCD-MISSING, FL-ETCD-VERSION."""
    found = shutil.which("etcd")
    if found is None:
        raise OperatorError("FL-ETCD-MISSING", "there is no etcd on this machine", _REMEDY)
    try:
        said = subprocess.run([found, "--version"], env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=10, check=False).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError("FL-ETCD-VERSION", f"{found} does not say its version: {error}", _REMEDY) from None
    match = _VERSION.search(said)
    if match is None:
        raise OperatorError("FL-ETCD-VERSION", f"{found} does not say its version", _REMEDY)
    version = tuple(int(part) for part in match.groups())
    if version[:2] not in ((3, 4), (3, 5)) or (3, 5) <= version < (3, 5, 3):  # 3.5.0 to 3.5.2 lose data in a crash
        raise OperatorError("FL-ETCD-VERSION", f"{found} is etcd {'.'.join(match.groups())}, which is not supported",
                            _REMEDY)
    return Path(found)


def environment() -> Mapping[str, str]:
    """All the environment that etcd gets."""
    # etcd 3.4 refuses to run there unless it is told that we know; it is fit for it since (3.5 names it as supported)
    return {"ETCD_UNSUPPORTED_ARCH": "arm64"} if platform.machine() == "aarch64" else {}


def folder(state: Path) -> Path:
    """Where all of etcd lies in a state folder."""
    return state / "etcd"


def put_identity(state: Path, certificate_pem: bytes, key_pem: bytes, ca_pem: bytes) -> None:
    """Write what the member proves itself with, and whom it believes. Raises OperatorError.

    A new certificate and key count from the next handshake; other CAs from the next start.
    """
    make_private_folder(folder(state))
    write_private(folder(state) / "ca.pem", ca_pem)
    write_private(folder(state) / "member.pem", certificate_pem + key_pem)


def certificate(state: Path) -> bytes:
    """What the member proves itself with, PEM; its key follows. Raises OperatorError FL-ETCD-IDENTITY."""
    try:
        return read_private(folder(state) / "member.pem")
    except FileNotFoundError:
        raise _no_identity(state) from None


def trusted(state: Path) -> Sequence[bytes]:
    """The CAs (DER) whose members are believed. Raises OperatorError FL-ETCD-IDENTITY, or that of a file in disorder.
    """
    try:
        return ders_of(read_private(folder(state) / "ca.pem"))
    except (FileNotFoundError, Refused):
        raise _no_identity(state) from None


def member_context(state: Path) -> ssl.SSLContext:
    """For connections to members, as a member. Raises OperatorError FL-ETCD-IDENTITY, or that of a file in disorder."""
    pair = folder(state) / "member.pem"
    try:
        context = client_context(trusted(state))
        read_private(pair)
        context.load_cert_chain(pair)
    except (FileNotFoundError, ssl.SSLError, FairleadError) as error:
        if isinstance(error, OperatorError):
            raise
        raise _no_identity(state) from None
    return context


def _no_identity(state: Path) -> OperatorError:
    return OperatorError("FL-ETCD-IDENTITY", f"{folder(state)} has no certificate and key that can be used",
                         "have them made anew")


def arguments(state: Path, plan: Plan) -> Sequence[str]:
    """etcd's command line, but for the program."""
    here = folder(state)
    clients, peers = client_url(plan.internal_address), peer_url(plan.internal_address)
    settings: dict[str, object] = {
        "name": plan.node,
        "data-dir": here / "data",
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "initial-cluster": ",".join(f"{name}={peer_url(address)}" for name, address in sorted(plan.initial.items())),
        "initial-cluster-state": "existing" if plan.existing else "new",
        "initial-cluster-token": plan.cluster_uuid,
        "cert-file": here / "member.pem",
        "key-file": here / "member.pem",
        "trusted-ca-file": here / "ca.pem",
        "client-cert-auth": "true",
        "peer-cert-file": here / "member.pem",
        "peer-key-file": here / "member.pem",
        "peer-trusted-ca-file": here / "ca.pem",
        "peer-client-cert-auth": "true",
        "peer-cert-allowed-hostname": member_name(plan.cluster_uuid),
        "experimental-peer-skip-client-san-verification": "true",  # of the address only, see rule 2
        "cipher-suites": ",".join(CIPHERS),
        "cors": clients,  # by default any web page may ask, with the certificate of whoever reads it
        "heartbeat-interval": HEARTBEAT_MS,
        "election-timeout": ELECTION_MS,
        "pre-vote": "true",  # a member that comes back disturbs nobody's term
        "max-txn-ops": MOST_OPERATIONS,
        "quota-backend-bytes": plan.quota_bytes,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",  # when nobody leads who does it (`upkeep`)
        "snapshot-count": SNAPSHOT_COUNT,
        "experimental-watch-progress-notify-interval": "1s",  # who watches tells quiet from dead
        "experimental-initial-corrupt-check": "true",
        "logger": "zap",
        "log-outputs": "stderr",
    }
    if plan.alone:
        settings["force-new-cluster"] = "true"
    return [f"--{name}={value}" for name, value in settings.items()]


class Etcd:
    """One member's process. *own*: calls to this very member and no other; whoever hands it in closes it."""

    def __init__(self, binary: Path, state: Path, plan: Plan, own: Calls, *, delay: FullJitter | None = None,
                 look_s: float = LOOK_S) -> None:
        self._binary = binary
        self._state = state
        self._plan = plan
        self._own = own
        self._delay = delay or FullJitter(FIRST_DELAY_S, MOST_DELAY_S)
        self._look_s = look_s
        self._process: asyncio.subprocess.Process | None = None
        self._down = ""
        self._status: Status | None = None
        self._silent = ""
        self._last = ""
        self._removed = False
        self._trusts: Sequence[bytes] = ()
        self._asked_to_end = False
        self._said: dict[str, float] = {}

    @property
    def pid(self) -> int | None:
        """Of the process that runs, if one does."""
        return None if self._process is None else self._process.pid

    @property
    def problems(self) -> Sequence[str]:
        """A line for each thing that is wrong with this member."""
        found = [self._down] if self._down else []
        if not self._down and self._silent:
            found.append(f"this node's etcd does not answer: {printable(self._silent, 200)} [FL-ETCD-SILENT]")
        if self._status is not None:
            found.extend(_ALARMS[alarm.kind].format(member=f"{alarm.member:x}") for alarm in self._status.alarms
                         if alarm.kind in _ALARMS)
            if not self._silent and not self._status.healthy:
                found.append("this node's etcd sees no leader: fewer than half of the members are with it "
                             "[FL-ETCD-LEADER]")
        return list(dict.fromkeys(found))

    async def chokes(self) -> bool:
        """Whether etcd takes no writes for want of space, and this member is the one that leads it."""
        await self._ask()
        found = self._status
        return (found is not None and not self._silent and found.leader == found.id
                and any(alarm.kind == "NOSPACE" for alarm in found.alarms))

    async def run(self) -> None:
        """Keep etcd running until cancelled, then end it. Call it in the main thread, whose end is etcd's.

        Raises OperatorError when the state folder is not in order.
        """
        make_private_folder(folder(self._state))
        make_private_folder(folder(self._state) / "data")
        member_context(self._state)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(), name="etcd")
            tasks.create_task(self._look(), name="etcd's health")

    @property
    def stale(self) -> bool:
        """Whether the process that runs trusts other CAs than those that lie there now. Raises as `trusted`."""
        return self._process is not None and set(self._trusts) != set(trusted(self._state))

    async def restart(self) -> None:
        """Have another process in the place of the one that runs; return when it serves and lacks nothing.

        The caller sees that no other member does so meanwhile.
        """
        process = self._process
        if process is not None:
            self._asked_to_end = True
            log.info("etcd.restart", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.terminate()  # it gives the lead away first
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        while True:
            await self.ready()
            try:
                return await abreast(self._own)
            except FairleadError:
                await asyncio.sleep(POLL_S)

    async def ready(self) -> Status:
        """Wait until the member answers and follows a leader, for as long as that takes."""
        while True:
            await self._ask()
            if self._status is not None and not self._silent and self._status.healthy:
                return self._status
            await asyncio.sleep(POLL_S)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            await self._ask()

    async def _ask(self) -> None:
        process = self._process
        if process is None:
            self._silent = "it does not run"
            return
        try:
            self._status = await status(self._own)
            self._silent = ""
            if process is self._process:  # not before it serves: one that dies at each start is down all the while
                self._down = ""
        except FairleadError as error:
            self._silent = error.message

    async def _keep(self) -> None:
        while True:
            try:
                await self._obstacle()
                started = time.monotonic()
                ended = await self._live()
            except OperatorError as error:
                self._report(error.line(), error.code)
            except OSError as error:  # no descriptors, no memory
                self._report(f"this node's etcd cannot be started: {error.strerror} [FL-ETCD-DOWN]", "FL-ETCD-DOWN")
            else:
                if self._asked_to_end:
                    self._asked_to_end = False
                    continue
                if time.monotonic() - started > STEADY_S:
                    self._delay.reset()
                code, remedy = ("FL-ETCD-REMOVED", "this node is no member any more: have it join anew") \
                    if self._removed else ("FL-ETCD-DOWN", "it is started again")
                self._report(f"this node's etcd ended ({ended}: {printable(self._last, 300)}); {remedy} [{code}]", code)
            await asyncio.sleep(self._delay.next())

    def _report(self, line: str, code: str) -> None:
        self._down = line
        log.warning("etcd.down", code=code, reason=line)

    async def _live(self) -> str:
        """One life, from start to end; how it ended."""
        self._last = "it said nothing"
        self._removed = False
        self._trusts = trusted(self._state)  # before etcd reads them: rather one restart too many
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(self._binary),
            *arguments(self._state, self._plan), env=environment(), cwd="/", start_new_session=True,  # no Ctrl-C for it
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
        try:
            log.info("etcd.started", pid=process.pid)
            assert process.stderr is not None
            async for line in _lines(process.stderr):
                self._tell(line)
            code = await process.wait()
        finally:
            self._process = None
            await _end(process)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def _obstacle(self) -> None:
        """Raise OperatorError FL-ETCD-HELD or FL-ETCD-PORT: what etcd would wait for, or die of, without a word."""
        database = folder(self._state) / "data" / "member" / "snap" / "db"
        if _locked(database):
            who = await asyncio.to_thread(_user, database)
            raise OperatorError("FL-ETCD-HELD", f"an etcd of an earlier life still runs on {folder(self._state)}"
                                + (f": pid {who}" if who else ""), f"kill {who}" if who else "end it")
        for port in (PEER_PORT, CLIENT_PORT):
            other = await asyncio.to_thread(holder, self._plan.internal_address, port)
            if other is not None:
                raise OperatorError("FL-ETCD-PORT", f"{self._plan.internal_address}:{port} is taken by {other}",
                                    "end that, or have it listen on other addresses only")

    def _tell(self, line: bytes) -> None:
        """One line of etcd's as one of ours."""
        if any(known in line for known in _NOISE):
            return
        record: Any = None
        with contextlib.suppress(ValueError):
            record = strict.loads(line)
        if not isinstance(record, dict):
            record = {"level": "info", "msg": line.decode(errors="replace")}
        level, message = str(record.pop("level", "")), printable(str(record.pop("msg", "")), 500)
        record.pop("ts", None)
        record.pop("stacktrace", None)
        loud = level in _LOUD
        if loud:
            error = record.get("error")
            self._removed = self._removed or (message == "server error" and "permanently removed" in str(error))
            self._last = f"{message}: {error}" if error else message
            loud = self._new(message)
        (log.warning if loud else log.debug)("etcd.said", message=message, detail=record)

    def _new(self, message: str) -> bool:
        """Whether a message of this kind was not loud in the last minute."""
        now = time.monotonic()
        if now - self._said.get(message, float("-inf")) < SAID_FOR_S:
            return False
        if len(self._said) >= MOST_KINDS:
            self._said.clear()
        self._said[message] = now
        return True


_ALARMS = {
    "NOSPACE": "etcd has reached its quota and takes no writes: it is compacted and defragmented; if this stays, raise "
               "store_quota_mib in fairlead.toml, at every Controller [FL-ETCD-SPACE]",
    "CORRUPT": "the data of etcd's member {member} is not that of the others: remove that member and have it join anew "
               "[FL-ETCD-CORRUPT]",
}


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL when that takes too long, or when we are told to hurry."""
    if process.returncode is not None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.communicate()  # reads on: a full pipe must not keep it from ending
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines until the end; one that is longer than `MOST_LINE` comes in pieces."""
    rest = b""
    while piece := await stream.read(MOST_LINE):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > MOST_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


def _locked(database: Path) -> bool:
    """Whether an etcd has it open (flock(2))."""
    try:
        handle = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OperatorError("FL-STATE-UNREADABLE", f"{database} cannot be read: {error.strerror}",
                            "mend the disk or the file's owner and mode") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _user(file: Path) -> str:
    """The pid of another process that has *file* open; empty when none is seen."""
    wanted = os.path.realpath(file)
    return next((pid for pid, opened in _opened() if opened == wanted and pid != str(os.getpid())), "")


def _opened() -> Iterator[tuple[str, str]]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # gone, or not ours to look into
                for descriptor in (process / "fd").iterdir():
                    yield process.name, str(descriptor.readlink())
