"""The real redemption over any store of the contract, served by several desks whose every step the test decides."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID, uuid4

from fairlead.audit.log import AuditLog, RefusalCounter
from fairlead.base.clock import SECOND
from fairlead.base.errors import FairleadError
from fairlead.enrol import state as states
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import Submission, believe, keys_hash
from fairlead.enrol.redeem import GENERATION, LIVE, TOKENS, Enrolment, Office, new_generation
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.nodes import records
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import AddressEntry, NameEntry
from fairlead.nodes.registry import Registry
from fairlead.store.protocol import (
    MARK,
    MOST_OPERATIONS,
    Compare,
    Delete,
    Event,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    Store,
    mark_value,
)
from tests.contract.backends import Backend
from tests.model.redemption import Answer
from tests.world import SOURCE, Machine

CERTIFICATE = b"c" * 32
NOT_IN_BACKUPS = (MARK, "audit")


class Turnstile:
    """The store as one desk sees it: a transaction that moves a token or a node waits until it is let through."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.waiting = asyncio.Event()
        self._through = asyncio.Event()

    def let_through(self) -> None:
        """One transaction."""
        self.waiting.clear()
        self._through.set()

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        if any(operation.key.startswith((TOKENS, records.NODES)) for operation in then):
            self.waiting.set()
            await self._through.wait()
            self._through.clear()
        return await self._store.transact(compare, then)

    async def get(self, key: str) -> Record | None:
        return await self._store.get(key)

    async def list(self, prefix: str, *more: str) -> Listing:
        return await self._store.list(prefix, *more)

    async def grant(self, seconds: int) -> int:
        return await self._store.grant(seconds)

    async def now(self) -> int:
        return await self._store.now()

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        async for batch in self._store.watch(prefix, after):
            yield batch


@dataclass(eq=False)
class Desk:
    """A Controller that serves one request at a time; *task* is the one under way."""

    name: str
    turnstile: Turnstile
    enrolment: Enrolment
    registry: Registry
    task: asyncio.Task[Answer] | None = None

    async def settle(self) -> Answer | None:
        """The answer, or None when the request waits before its transaction."""
        assert self.task is not None
        waits = asyncio.ensure_future(self.turnstile.waiting.wait())
        await asyncio.wait((self.task, waits), timeout=60, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        if not self.task.done():
            assert self.turnstile.waiting.is_set(), "neither an answer nor a transaction"
            return None
        answer, self.task = self.task.result(), None
        return answer

    async def start(self, work: Coroutine[Any, Any, Answer]) -> Answer | None:
        """Begin a request; as `settle`."""
        self.task = asyncio.ensure_future(_answer(work))
        return await self.settle()

    async def step(self) -> Answer | None:
        """Let its transaction through; as `settle`."""
        self.turnstile.let_through()
        return await self.settle()

    async def end(self) -> None:
        """The process dies: the request ends where it is."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait((self.task,))
            self.task = None
            self.turnstile.waiting.clear()


async def _answer(work: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return await work
    except FairleadError as refused:
        return refused.code


@dataclass(eq=False)
class Ground:
    """One cluster in a store; its Controllers can be started again and again."""

    backend: Backend
    cluster_uuid: UUID = field(default_factory=uuid4)
    host: PrivateKey = field(default_factory=PrivateKey.generate)
    user: PrivateKey = field(default_factory=PrivateKey.generate)
    began: int = 0
    desks: dict[str, Desk] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    _followers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The store as it is, without turnstile."""
        return self.backend.store

    async def found(self) -> None:
        """A new cluster."""
        await self.backend.start()
        self.began = await self.store.now()
        node = Node(str(uuid4()), "ctl-1", "controller", "up", "127.64.0.1", self.host.public.line,
                    self.user.public.line, self.began, Endpoint(("192.0.2.10",), 443, 8443, 22))
        await self.store.transact([], [
            Put(MARK, mark_value(self.began)), Put(GENERATION, new_generation()),
            Put(records.NODES + node.id, records.encode(node)),
            Put(records.NAMES + node.name, records.encode(NameEntry(node.id, "held"))),
            Put(records.ADDRESSES + node.internal_address, records.encode(AddressEntry(node.id, "held")))])
        await self.start()

    async def start(self) -> None:
        """The Controllers' processes."""
        self.directory = Directory(self.store)
        await self.directory.load()
        office = Office(self.cluster_uuid, "ctl-1", lambda: self.host, self._anchor)
        for name in ("ctl-1", "ctl-2", "ctl-3"):
            turnstile = Turnstile(self.store)
            audit = AuditLog(turnstile, name)
            self.desks[name] = Desk(
                name, turnstile, Enrolment(turnstile, audit, self.directory, RefusalCounter(), office),
                Registry(turnstile, audit, self.directory))
        self.plain = AuditLog(self.store, "operator")
        self.operator = Enrolment(self.store, self.plain, self.directory, RefusalCounter(), office)
        follow = [self.directory.follow(), *(desk.enrolment.follow() for desk in self.desks.values())]
        self._followers = [asyncio.ensure_future(f) for f in follow]

    def _anchor(self) -> Anchor:
        return Anchor(self.cluster_uuid, (1,), (b"root",), (
            AnchorController("ctl-1", "192.0.2.10", 8443, "portal.example", self.host.public),))

    async def stop(self) -> None:
        """Every process ends where it is."""
        for desk in self.desks.values():
            await desk.end()
        for task in self._followers:
            task.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        await self.backend.stop()

    async def crash(self) -> None:
        """Every process ends where it is, and another takes its place."""
        await self.stop()
        await self.backend.start()
        await self.start()

    async def caught_up(self) -> None:
        """Return when the Controllers know what the store holds."""
        async with asyncio.timeout(60):
            await self.directory.reached((await self.store.list("nothing/")).revision)
            deadlines = {t.id: t.deadline for t in await self.tokens() if t.deadline is not None}
            while any(desk.enrolment._deadlines != deadlines for desk in self.desks.values()):
                await self.store.now()

    async def tokens(self) -> list[states.TokenRecord]:
        """All token records."""
        return [states.decode(r.value) for r in (await self.store.list(TOKENS)).records]

    # -- requests -----------------------------------------------------------------------------------------------------

    async def issue(self, token: str, lifetime_s: int, node: str | None, bound: str | None, *, lengthen: bool
                    ) -> Answer:
        """A new bundle under the name *token*; *lengthen*: in a store whose leases last for ever."""
        bound_to = None if bound is None else self._hash(bound)
        try:
            bundle = await self.operator.issue(role="engine", node=node, source=None, lifetime_s=lifetime_s, by="admin",
                                               bound_keys_hash=bound_to)
        except FairleadError as refused:
            return refused.code
        self.bundles[token] = bundle
        if lengthen:
            await self.store.transact([], [Put(LIVE + bundle.token.id.hex(), b"")])
        return "issued"

    def _hash(self, keys: str) -> bytes:
        machine = self.machines[keys]
        return keys_hash("engine", machine.host.public, machine.user.public)

    async def exchange(self, desk: Desk, token: str, keys: str, node: str) -> Answer:
        """What the machine believes of the answer."""
        bundle, machine = self.bundles[token], self.machines[keys]
        claim = machine.claim(bundle, CERTIFICATE, node)
        reply = await desk.enrolment.exchange(Submission.parse(machine.body(claim, bundle)), SOURCE,
                                              lambda digest: digest == CERTIFICATE)
        core, _ = believe(reply, claim, bundle.anchor)
        return core.result, core.node, _place(core.internal_address)

    async def commit(self, desk: Desk, keys: str, token: str, claimed: str) -> Answer:
        """The message that an SSH connection with *keys* brings; it names the node that the keys are known for."""
        machine = self.machines[keys]
        known = await self.store.get(records.KEYS + machine.user.public.fingerprint)
        node_id = records.key_from(known.value).node_id if known else "nobody"
        await desk.enrolment.commit(machine.user.public.fingerprint, {
            "token_id": self.bundles[token].token.id.hex(), "node_id": node_id,
            "keys_hash": self._hash(claimed).hex()})
        return "committed"

    async def revoke(self, desk: Desk, token: str) -> Answer:
        """As the operator does."""
        return (await desk.enrolment.revoke(self.bundles[token].token.id.hex(), "admin")).state

    async def remove(self, desk: Desk, node: str) -> Answer:
        """As the operator does."""
        await desk.registry.remove(node, "admin")
        return "removed"

    async def release(self, desk: Desk, node: str, keys: str) -> Answer:
        """As the operator does."""
        await desk.registry.release(node, self.machines[keys].host.public.fingerprint, "admin")
        return "released"

    async def sweep(self, desk: Desk) -> Answer:
        """As each second does."""
        await desk.enrolment.expire_due()
        return "swept"

    def deadlines(self, desk: Desk) -> list[str]:
        """The tokens that the desk has in view, in the order in which it looks at them: that of their names here, for
        their ids are drawn anew each time, and a conversation is to be the same whenever it is held."""
        names = {b.token.id.hex(): name for name, b in self.bundles.items()}
        in_order = sorted(desk.enrolment._deadlines.items(), key=lambda entry: names[entry[0]])
        desk.enrolment._deadlines.clear()
        desk.enrolment._deadlines.update(in_order)
        return [names[token_id] for token_id, _ in in_order]

    async def label(self, node: str) -> None:
        """Somebody writes the node's record."""
        found = self.directory.named(node)
        if found is not None:
            await Registry(self.store, self.plain, self.directory).label(node, [f"seen={secrets.token_hex(4)}"], "x")

    # -- backups ------------------------------------------------------------------------------------------------------

    async def backup(self) -> dict[str, bytes]:
        """All records, without clock and audit."""
        return {r.key: r.value for r in (await self.store.list("")).records if not r.key.startswith(NOT_IN_BACKUPS)}

    async def restore(self, backup: dict[str, bytes]) -> None:
        """All records as they were, and a new generation."""
        gone = [key for key in await self.backup() if key not in backup]
        then: list[Operation] = [Put(key, value) for key, value in (backup | {GENERATION: new_generation()}).items()]
        then += [Delete(key) for key in gone]
        assert len(then) <= MOST_OPERATIONS
        assert (await self.store.transact([], then)).succeeded

    # -- what is there ------------------------------------------------------------------------------------------------

    async def seen(self) -> dict[tuple[str, str], object]:
        """The store, in the model's words."""
        tokens = {b.token.id.hex(): name for name, b in self.bundles.items()}
        labels = {m.host.public.fingerprint: name for name, m in self.machines.items()}
        users = {m.user.public.fingerprint: name for name, m in self.machines.items()}
        hashes = {self._hash(name).hex(): name for name in self.machines}
        found: dict[tuple[str, str], object] = {}
        nodes = {n.id: n for r in (await self.store.list(records.NODES)).records
                 if (n := records.node_from(r.value)).role == "engine"}
        for node in nodes.values():
            found["node", node.name] = (node.state, labels[_fingerprint(node.host_key)],
                                        _place(node.internal_address), tokens[node.token_id])
        for token in await self.tokens():
            found["token", tokens[token.id]] = (token.state, hashes.get(token.keys_hash or ""), token.node_id in nodes,
                                                token.conflict is not None)
        for record in (await self.store.list(LIVE)).records:
            found["live", tokens[record.key.removeprefix(LIVE)]] = True
        for record in (await self.store.list(records.NAMES)).records:
            name = records.name_from(record.value)
            found["name", record.key.removeprefix(records.NAMES)] = name.state
        for record in (await self.store.list(records.ADDRESSES)).records:
            address = records.address_from(record.value)
            until = (address.until - self.began) // SECOND if address.until else 0
            found["address", str(_place(record.key.removeprefix(records.ADDRESSES)))] = (address.state, until)
        host_keys: dict[str, object] = {}
        user_keys: dict[str, object] = {}
        for record in (await self.store.list(records.KEYS)).records:
            key = records.key_from(record.value)
            fingerprint = record.key.removeprefix(records.KEYS)
            table, names = (host_keys, labels) if key.use == "host" else (user_keys, users)
            table[names[fingerprint]] = (key.state, tokens[key.token_id])
        assert host_keys == user_keys
        found |= {("keys", name): entry for name, entry in host_keys.items()}
        del found["name", "ctl-1"], found["address", str(_place("127.64.0.1"))]
        return found


def _fingerprint(line: str) -> str:
    return PublicKey.from_line(line).fingerprint


def _place(address: str) -> int:
    """The engines' addresses counted from the first."""
    return int(IPv4Address(address)) - int(IPv4Address("127.64.1.0"))
