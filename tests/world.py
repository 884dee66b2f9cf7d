"""A Controller's insides in a folder, with a clock that stands still: what tests of the trust core are made of.

Nothing listens and nothing dials: store, directory, audit log, enrolment and portal are the real ones, called directly.
"""

import asyncio
import contextlib
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

import pytest

from fairlead.audit.log import AuditLog, RefusalCounter
from fairlead.audit.record import AuditRecord
from fairlead.base.clock import SECOND
from fairlead.base.errors import FairleadError
from fairlead.enrol import state as states
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import PATH, Claim, Core, Submission, believe, keys_hash, prove
from fairlead.enrol.redeem import GENERATION, TOKENS, Enrolment, Office, new_generation
from fairlead.enrol.state import TokenRecord
from fairlead.keys import http
from fairlead.keys.replay import ReplayCache
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64, sha256
from fairlead.nodes import records
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import AddressEntry, KeyEntry, NameEntry
from fairlead.nodes.registry import Registry
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of, portal_name
from fairlead.portal.application import Portal
from fairlead.store.protocol import MARK, Compare, Event, Listing, Operation, Outcome, Put, Record, mark_value
from fairlead.store.sqlite import SQLiteStore

START = 1_767_225_600 * SECOND
SOURCE = "192.0.2.7"
Role = Literal["controller", "engine"]
T = TypeVar("T")
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "join-v1.json").read_text())


class ManualClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.instant = START

    def now(self) -> int:
        return self.instant

    def monotonic(self) -> float:
        return (self.instant - START) / SECOND

    def set(self, seconds: float) -> None:
        """So many seconds after the start, and not a microsecond else."""
        self.instant = START + round(seconds * SECOND)


class Death(BaseException):
    """The process ends here, as by SIGKILL: nothing handles it, and nothing is written any more."""


class Interposed:
    """The store, with a place to step in between what somebody read and the transaction that he decided on.

    It may also stop the world before or after any of its writes, which are counted.
    """

    def __init__(self, store: SQLiteStore) -> None:
        self.inner = store
        self.flowing = asyncio.Event()
        """While it is not set, nobody hears of changes."""
        self.flowing.set()
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self.writes = 0
        """How many were asked for, leases included."""
        self._stop: tuple[int, bool, BaseException] | None = None
        self._dead = False

    def stop_at(self, write: int, error: BaseException, *, happened: bool) -> None:
        """Raise *error* at the *write*-th from here, once, in place of doing it, or after it has *happened*."""
        self._stop = (self.writes + write, happened, error)

    @property
    def stopped(self) -> bool:
        """Whether the stop that was asked for has come."""
        return self._stop is None

    async def _write(self, write: Callable[[], Awaitable[T]]) -> T:
        if self._dead:
            raise Death
        self.writes += 1
        if self._stop is None or self.writes != self._stop[0]:
            return await write()
        (_, happened, error), self._stop = self._stop, None
        if happened:
            await write()
        self._dead = isinstance(error, Death)
        raise error

    def step_in(self, prefix: str, action: Callable[[], Awaitable[object]]) -> None:
        """Do *action* once, just before the next transaction that writes below *prefix*."""
        self._steps.append((prefix, action))

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        for step in self._steps:
            if any(operation.key.startswith(step[0]) for operation in then):
                self._steps.remove(step)
                await step[1]()
                break
        return await self._write(lambda: self.inner.transact(compare, then))

    async def get(self, key: str) -> Record | None:
        return await self.inner.get(key)

    async def list(self, prefix: str, *more: str) -> Listing:
        return await self.inner.list(prefix, *more)

    async def grant(self, seconds: int) -> int:
        return await self._write(lambda: self.inner.grant(seconds))

    async def now(self) -> int:
        return await self.inner.now()

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        async for batch in self.inner.watch(prefix, after):
            await self.flowing.wait()
            yield batch


@dataclass(frozen=True)
class Machine:
    """The two keys of somebody who wants to join."""

    host: PrivateKey = field(default_factory=PrivateKey.generate)
    user: PrivateKey = field(default_factory=PrivateKey.generate)

    def claim(self, bundle: Bundle, certificate: bytes, node: str = "se-1", *, role: Role | None = None,
              endpoint: Endpoint | None = None) -> Claim:
        """What it says of itself with *bundle*, over a connection with the certificate of that hash."""
        return Claim(bundle.anchor.cluster_uuid, bundle.anchor.hash, bundle.token.id, certificate, role or bundle.role,
                     node, self.host.public, self.user.public, secrets.token_bytes(32), endpoint, "test/1")

    def body(self, claim: Claim, bundle: Bundle) -> bytes:
        """The request for *claim*, with every proof that it needs."""
        return prove(claim, token=bundle.token.key(bundle.anchor.cluster_uuid), host=self.host, user=self.user)


@dataclass(frozen=True)
class Answer:
    """What an ASGI application said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    reads: int
    """How often it asked for a piece of the request's body."""

    @property
    def code(self) -> str:
        """The refusal's code."""
        return str(json.loads(self.body)["code"])

    def header(self, name: str) -> str | None:
        """The first value of a field, or None."""
        return next((v for n, v in self.headers if n == name), None)


@dataclass(eq=False)
class World:
    """One Controller, ``ctl-1``."""

    folder: Path
    clock: ManualClock
    store: Interposed
    cluster_uuid: UUID
    controller: Node
    host_key: PrivateKey
    leaf: bytes
    """DER of the certificate that the portal presents."""
    root: bytes
    """DER of the certificate that signed it."""
    directory: Directory
    audit: AuditLog
    refusals: RefusalCounter
    registry: Registry
    enrolment: Enrolment
    portal: Portal

    @property
    def certificate(self) -> bytes:
        """The hash of what the portal presents."""
        return sha256(self.leaf)

    # -- joining ------------------------------------------------------------------------------------------------------

    async def export(self, role: Role = "engine", node: str | None = None, *, source: str | None = None,
                     lifetime_s: int = 600, bound: Machine | None = None) -> Bundle:
        """A new bundle; *bound*: for the keys of that machine only."""
        keys = None if bound is None else self.claim_keys(bound, role)
        return await self.enrolment.issue(role=role, node=node, source=source, lifetime_s=lifetime_s, by="admin",
                                          bound_keys_hash=keys)

    def claim_keys(self, machine: Machine, role: Role = "engine") -> bytes:
        """The hash that stands for the machine's keys."""
        return keys_hash(role, machine.host.public, machine.user.public)

    async def exchange(self, bundle: Bundle, machine: Machine, node: str = "se-1", *, source: str = SOURCE,
                       role: Role | None = None, endpoint: Endpoint | None = None,
                       certificate: bytes | None = None) -> Core:
        """What the machine believes of the reply. Raises Refused."""
        claim = machine.claim(bundle, certificate or self.certificate, node, role=role, endpoint=endpoint)
        reply = await self.enrolment.exchange(Submission.parse(machine.body(claim, bundle)), source, self.presents)
        return believe(reply, claim, bundle.anchor)[0]

    def presents(self, certificate_hash: bytes) -> bool:
        """Whether the portal presents it."""
        return certificate_hash == self.certificate

    async def commit(self, bundle: Bundle, machine: Machine, core: Core, **changes: object) -> int:
        """What SSH does when the machine has proven its user key there. Raises Refused."""
        message: dict[str, Any] = {"token_id": bundle.token.id.hex(), "node_id": core.node_id,
                                   "keys_hash": core.keys_hash}
        return await self.enrolment.commit(machine.user.public.fingerprint, message | changes)

    def beside(self) -> "World":
        """The same Controller with an enrolment and a registry of its own: somebody else who acts at the same time.

        One process waits for itself at its locks; steps of `Interposed` are taken while they are held.
        """
        store, audit = self.store, AuditLog(self.store, "ctl-1")
        enrolment = Enrolment(store, audit, self.directory, self.refusals, self.enrolment.office)
        return replace(self, audit=audit, enrolment=enrolment, registry=Registry(store, audit, self.directory))

    async def join(self, node: str = "se-1", machine: Machine | None = None, bundle: Bundle | None = None) -> Node:
        """A joined engine."""
        bundle, machine = bundle or await self.export(), machine or Machine()
        core = await self.exchange(bundle, machine, node)
        await self.commit(bundle, machine, core)
        return self.directory.nodes[core.node_id]

    # -- what is there afterwards -------------------------------------------------------------------------------------

    async def token(self, bundle: Bundle) -> TokenRecord:
        """The token's record."""
        found = await self.store.get(TOKENS + bundle.token.id.hex())
        assert found is not None
        return states.decode(found.value)

    async def revision(self) -> int:
        """The store's: the same one twice means that nothing was written."""
        return (await self.store.list("nothing/")).revision

    async def audited(self) -> list[AuditRecord]:
        """The audit log, oldest first."""
        return list(await self.audit.records(10_000))

    async def events(self, subject: str) -> list[str]:
        """What is on record about *subject*."""
        return [r.event for r in await self.audited() if r.subject == subject]

    async def key(self, key: PublicKey) -> KeyEntry | None:
        """The entry of a key."""
        found = await self.store.get(records.KEYS + key.fingerprint)
        return records.key_from(found.value) if found else None

    async def name(self, name: str) -> NameEntry | None:
        """The entry of a name."""
        found = await self.store.get(records.NAMES + name)
        return records.name_from(found.value) if found else None

    async def address(self, address: str) -> AddressEntry | None:
        """The entry of an internal address."""
        found = await self.store.get(records.ADDRESSES + address)
        return records.address_from(found.value) if found else None

    async def node(self, node_id: str) -> Node | None:
        """The stored node."""
        found = await self.store.get(records.NODES + node_id)
        return records.node_from(found.value) if found else None

    # -- the portal ---------------------------------------------------------------------------------------------------

    async def call(self, method: str, path: str, pieces: Sequence[bytes] = (), *, query: bytes = b"",
                   headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),),
                   source: str = SOURCE) -> Answer:
        """One request to the portal, as its listener makes it; the body comes in *pieces*."""
        waiting = list(pieces) or [b""]
        reads = 0
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            nonlocal reads
            reads += 1
            if not waiting:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.portal({
            "type": "http", "method": method, "path": path, "query_string": query,
            "headers": [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers],
            "extensions": {"fairlead": {"source": source, "certificate": self.certificate},
                           "fairlead.served": {"say": list}}}, receive, send)
        start, body = sent
        return Answer(start["status"], [(n.decode(), v.decode()) for n, v in start["headers"]], body["body"], reads)

    async def post(self, body: bytes, source: str = SOURCE) -> Answer:
        """A join request."""
        return await self.call("POST", PATH, [body], source=source)

    def signed(self, operation: dict[str, Any] | bytes, key: PrivateKey, *, to: str | None = None,
               created: int | None = None) -> http.Request:
        """A node's call of the portal."""
        body = operation if isinstance(operation, bytes) else json.dumps({"v": 1} | operation).encode()
        url = f"https://{portal_name(self.cluster_uuid)}{PATH}"
        headers = http.sign_request(
            "POST", url, body, "application/json", key=key, nonce=secrets.token_bytes(16),
            to=to or http.recipient(self.cluster_uuid, self.controller.id),
            created=self.clock.now() // SECOND if created is None else created)
        return http.Request("POST", url, list(headers.items()), body)

    async def ask(self, request: http.Request) -> Answer:
        """The answer to a signed call."""
        return await self.call("POST", PATH, [request.body],
                               headers=[("host", portal_name(self.cluster_uuid)), *request.headers])

    def believed(self, answer: Answer, request: http.Request) -> dict[str, Any]:
        """The answer's fields, when this Controller signed it for exactly this request. Raises Refused."""
        http.verify_response(http.Response(answer.status, answer.headers, answer.body), request, self.host_key.public)
        fields: dict[str, Any] = json.loads(answer.body)
        return fields


@contextlib.asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    """A new cluster in *folder*; everything that was started ends with the block."""
    clock = ManualClock()
    async with _opened(folder, clock) as store, _following(await _found(folder, clock, store)) as world:
        yield world


@contextlib.asynccontextmanager
async def open_again(world: World, folder: Path, lost: int = 0) -> AsyncIterator[World]:
    """What a new process makes of what the Controller's process has left on its disk, copied into a new *folder*.

    *lost*: so many bytes that the store wrote last did not get to the disk.
    """
    _copy_store(world.folder, folder, lost)
    async with _opened(folder, world.clock) as store:
        again = await _assembled(folder, world.clock, store, world.cluster_uuid, world.controller, world.host_key,
                                 world.leaf, world.root)
        async with _following(again):
            yield again


def _copy_store(source: Path, target: Path, lost: int) -> None:
    target.mkdir()
    for file in source.glob("store.db*"):
        shutil.copy2(file, target)
    if lost:
        with (target / "store.db-wal").open("r+b") as wal:
            wal.truncate(wal.seek(0, 2) - lost)


@contextlib.asynccontextmanager
async def _opened(folder: Path, clock: ManualClock) -> AsyncIterator[Interposed]:
    inner = SQLiteStore.open(folder / "store.db", clock)
    try:
        yield Interposed(inner)
    finally:
        await inner.close()


@contextlib.asynccontextmanager
async def _following(world: World) -> AsyncIterator[World]:
    tasks = [asyncio.ensure_future(f) for f in (world.directory.follow(), world.enrolment.follow())]
    try:
        yield world
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def _found(folder: Path, clock: ManualClock, store: Interposed) -> World:
    cluster_uuid, host, user = uuid4(), PrivateKey.generate(), PrivateKey.generate()
    authority = Authority.create(cluster_uuid, clock.now())
    leaf = der_of(authority.issue_portal(cluster_uuid, ["192.0.2.10"], clock.now()).certificate_pem)
    root = der_of(authority.certificate_pem)
    controller = Node(str(uuid4()), "ctl-1", "controller", "up", "127.64.0.1", host.public.line, user.public.line,
                      clock.now(), Endpoint(("192.0.2.10",), 443, 8443, 22))
    entries: list[Operation] = [
        Put(MARK, mark_value(clock.now())), Put(GENERATION, new_generation()),
        Put(records.NODES + controller.id, records.encode(controller)),
        Put(records.NAMES + controller.name, records.encode(NameEntry(controller.id, "held"))),
        Put(records.ADDRESSES + controller.internal_address, records.encode(AddressEntry(controller.id, "held"))),
        Put(records.KEYS + host.public.fingerprint,
            records.encode(KeyEntry(controller.id, "host", "active", "", host.public.line))),
        Put(records.KEYS + user.public.fingerprint,
            records.encode(KeyEntry(controller.id, "user", "active", "", user.public.line)))]
    assert (await store.transact([], entries)).succeeded
    return await _assembled(folder, clock, store, cluster_uuid, controller, host, leaf, root)


async def _assembled(folder: Path, clock: ManualClock, store: Interposed, cluster_uuid: UUID, controller: Node,
                     host: PrivateKey, leaf: bytes, root: bytes) -> World:
    directory = Directory(store)
    await directory.load()
    audit, refusals = AuditLog(store, "ctl-1"), RefusalCounter()
    registry = Registry(store, audit, directory)

    def anchor() -> Anchor:
        return Anchor(cluster_uuid, (1,), (root,), tuple(
            AnchorController(c.name, address, port, portal_name(cluster_uuid), PublicKey.from_line(c.host_key))
            for c in directory.controllers() if c.endpoint for address, port in c.endpoint.places)).checked()

    enrolment = Enrolment(store, audit, directory, refusals, Office(cluster_uuid, "ctl-1", lambda: host, anchor))
    portal = Portal(enrolment=enrolment, statements=lambda *_: None, directory=directory, registry=registry,
                    replay=ReplayCache(), cluster_uuid=cluster_uuid, node_id=controller.id, host_key=lambda: host,
                    started=clock.now() - SECOND,
                    presented=lambda digest: digest == sha256(leaf), now=store.now)
    return World(folder, clock, store, cluster_uuid, controller, host, leaf, root, directory, audit, refusals, registry,
                 enrolment, portal)


async def refusal(work: Coroutine[Any, Any, object]) -> str:
    """The code with which *work* is refused."""
    with pytest.raises(FairleadError) as caught:
        await work
    return caught.value.code


def denied(work: Callable[[], object]) -> str:
    """The same for a plain call."""
    with pytest.raises(FairleadError) as caught:
        work()
    return caught.value.code


def tampered(body: bytes, **changes: object) -> bytes:
    """A JSON object with some of its fields changed."""
    return json.dumps(json.loads(body) | changes).encode()


def flipped(text: str) -> str:
    """Base64 of other bytes of the same length."""
    data = from_b64(text)
    return b64(bytes([data[0] ^ 1]) + data[1:])
