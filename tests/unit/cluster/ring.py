"""Real members of etcd with TLS, each at a loopback address of its own; whatever was started ends with its `Ring`."""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from fairlead.base.backoff import FullJitter
from fairlead.base.errors import Refused
from fairlead.base.sockets import listening
from fairlead.cluster.etcd import (
    QUOTA_BYTES,
    Etcd,
    Plan,
    check_etcd,
    client_url,
    member_context,
    peer_url,
    put_identity,
)
from fairlead.cluster.members import Members
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.request import new_request, read_request
from fairlead.pki.verify import client_context
from fairlead.store.gateway import Gateway
from tests.conftest import need

NOW = time.time_ns() // 1000
DEADLINE_S = 30.0

T = TypeVar("T")
U = TypeVar("U")


async def until(look: Callable[[], object], what: str) -> None:
    """Return as soon as *look* finds something; fail when it finds nothing for too long."""
    end = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} seconds: {what}"
        await asyncio.sleep(0.02)


async def _insist(change: Callable[[U], Awaitable[T]], about: U) -> T:
    """What etcd says once it does it: "not yet" is no answer."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(Refused):
                return await change(about)
            await asyncio.sleep(0.05)


@dataclass(slots=True)
class Site:
    """One member: its state folder and its address."""

    name: str
    address: str
    state: Path
    plan: Plan
    own: Gateway
    etcd: Etcd
    task: "asyncio.Task[None] | None" = None

    def start(self) -> "Site":
        """Run it."""
        self.task = asyncio.get_running_loop().create_task(self.etcd.run())
        return self

    async def ready(self) -> "Site":
        """Wait until it serves; what `run` raises comes first."""
        assert self.task is not None
        asking = asyncio.ensure_future(self.etcd.ready())
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([asking, self.task], return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            asking.cancel()
            self.task.result()
        return self

    async def stop(self) -> None:
        """End it, whatever its state."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None

    def problem(self, code: str) -> str:
        """The problem with this code; empty when it has none."""
        return next((line for line in self.etcd.problems if line.endswith(f"[{code}]")), "")

    def about(self, what: str) -> str:
        """What ``/proc`` says of its process."""
        return Path(f"/proc/{self.etcd.pid}/{what}").read_text()

    def listens(self) -> set[tuple[str, int]]:
        """Every address and port on which its process listens."""
        proc = Path(f"/proc/{self.etcd.pid}")
        inodes = {str(fd.readlink()) for fd in (proc / "fd").iterdir()}
        text = (proc / "net/tcp").read_text() + (proc / "net/tcp6").read_text()
        return {(str(one.address), one.port) for one in listening(text) if f"socket:[{one.inode}]" in inodes}


@dataclass(slots=True)
class Ring:
    """A cluster's CA and its members."""

    folder: Path
    uuid: UUID = field(default_factory=uuid4)
    root: Authority = field(init=False)
    sites: list[Site] = field(default_factory=list)
    _network: str = field(init=False)

    def __post_init__(self) -> None:
        self.root = Authority.create(self.uuid, NOW)
        self._network = f"127.{random.randint(100, 120)}.{random.randint(0, 255)}"

    def address(self, number: int) -> str:
        """The internal address of member *number*."""
        return str(ip_address(f"{self._network}.{number}"))

    def site(self, number: int, *, first: int = 1, quota: int = QUOTA_BYTES, binary: Path | None = None) -> Site:
        """Member *number*, not yet started: born alone when it is the *first*, else joining those before it."""
        name, address, state = f"ctl-{number}", self.address(number), self.folder / f"ctl-{number}"
        initial = {f"ctl-{other}": self.address(other) for other in range(first, number + 1)}
        plan = Plan(name, address, self.uuid, initial, existing=number != first, quota_bytes=quota)
        key, request = new_request()
        put_identity(state, self.root.certify_member(self.uuid, name, address, read_request(request), NOW), key,
                     self.root.certificate_pem)
        own = Gateway([client_url(address)], member_context(state), timeout_s=5.0)
        site = Site(name, address, state, plan, own,
                    Etcd(binary or check_etcd(), state, plan, own, delay=FullJitter(0.05, 0.2), look_s=0.1))
        self.sites.append(site)
        return site

    def certify(self, site: Site, signs: Authority, believed: Sequence[Authority]) -> bytes:
        """Give *site* a new certificate by *signs*, and *believed* to trust; the certificate."""
        key, request = new_request()
        made = signs.certify_member(self.uuid, site.name, site.address, read_request(request), NOW)
        put_identity(site.state, made, key, b"".join(root.certificate_pem for root in believed))
        return made

    async def three(self) -> Sequence[Site]:
        """Three members that vote."""
        first = await self.site(1).start().ready()
        members = Members(first.own)
        for number in (2, 3):
            added = await _insist(members.add_learner, peer_url(self.address(number)))
            site = self.site(number).start()
            await _insist(members.promote, added.id)
            await site.ready()
        return self.sites

    def context(self, who: Issued | None = None, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """A client's context, with the certificate of *who*."""
        context = client_context([ssl.PEM_cert_to_DER_cert(self.root.certificate_pem.decode())])
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = newest
        if who is not None:
            pair = self.folder / "pair.pem"
            pair.write_bytes(who.certificate_pem + who.key_pem)
            context.load_cert_chain(pair)
        return context

    async def close(self) -> None:
        """End every member."""
        for site in self.sites:
            await site.stop()
            await site.own.close()


@contextlib.asynccontextmanager
async def ring(folder: Path) -> AsyncIterator[Ring]:
    """A cluster that ends with the block."""
    need("etcd")
    made = Ring(folder)
    try:
        yield made
    finally:
        await made.close()


async def fetch(address: str, port: int, path: str, context: ssl.SSLContext) -> str:
    """The head of an answer to GET for a web page elsewhere; empty when the TLS of the other side refuses us."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(address, port, ssl=context)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: https://elsewhere.example\r\n"
                             "Connection: close\r\n\r\n".encode())
                return (await reader.read(4096)).partition(b"\r\n\r\n")[0].decode()
            finally:
                writer.transport.abort()
    except (ssl.SSLError, ConnectionError):
        return ""


async def presented(address: str, port: int, context: ssl.SSLContext) -> bytes:
    """The certificate (DER) that the other side shows."""
    async with asyncio.timeout(5):
        _, writer = await asyncio.open_connection(address, port, ssl=context)
    leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    assert isinstance(leaf, bytes)
    return leaf


def ctl_environment(folder: Path, root: Authority, who: Issued) -> dict[str, str]:
    """What etcdctl is told in its environment, with its files written to *folder*."""
    (folder / "ca.pem").write_bytes(root.certificate_pem)
    (folder / "cert.pem").write_bytes(who.certificate_pem)
    (folder / "key.pem").write_bytes(who.key_pem)
    return {"ETCDCTL_API": "3", "ETCDCTL_CACERT": str(folder / "ca.pem"), "ETCDCTL_CERT": str(folder / "cert.pem"),
            "ETCDCTL_KEY": str(folder / "key.pem"), "PATH": "/usr/local/bin:/usr/bin:/bin"}
