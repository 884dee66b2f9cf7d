"""The picture of the cluster that every decision on this Controller looks at: in memory, following the store.

Log-ins and streams are decided without waiting, from here; so a revocation takes effect when its event arrives, in the
same step in which live connections are cut. Nothing here writes.

A Controller of a cluster keeps a copy of the Controllers' part on disk (`snapshot`): the store's members reach one
another through the mesh, so after everything was switched off the mesh has to be there before the store is.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any, Protocol, TypeVar

import structlog

from fairlead.base import strict
from fairlead.base.backoff import FullJitter
from fairlead.base.clock import MINUTE
from fairlead.base.errors import OperatorError
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.address import REST_MINUTES, candidates, is_for
from fairlead.nodes.node import Node
from fairlead.nodes.records import (
    ADDRESSES,
    KEYS,
    NODES,
    SERVICES,
    AddressEntry,
    KeyEntry,
    address_from,
    encode,
    key_from,
    node_from,
    service_from,
)
from fairlead.nodes.service import STORE_SERVICES, Service
from fairlead.store.protocol import Compacted, Event, Listing, StoreUnavailable

REACH_S = 10.0
REST = REST_MINUTES * MINUTE
T = TypeVar("T")

log = structlog.get_logger("fairlead.nodes")


class Changes(Protocol):
    """What the directory needs of the store."""

    async def list(self, prefix: str, *more: str) -> Listing:
        """All records under several prefixes, at one revision."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """Changes after a revision."""
        ...


class Directory:
    """Nodes, keys, addresses and services as they stand."""

    def __init__(self, store: Changes, *, clustered: bool = False) -> None:
        self._store = store
        self._own: Sequence[Service] = STORE_SERVICES if clustered else ()
        self._revision = 0
        self._moved = asyncio.Condition()
        self._listeners: list[Callable[[], None]] = []
        self.nodes: dict[str, Node] = {}
        """By id."""
        self.keys: dict[str, KeyEntry] = {}
        """By fingerprint."""
        self.services: dict[str, Service] = {}
        """By name."""
        self.addresses: dict[str, tuple[AddressEntry, int]] = {}
        """By address: the entry and its revision."""
        self.common = 0
        """Counts changes of what concerns everybody: Controllers and services."""
        self.touched: set[str] | None = None
        """While a listener is called: the ids of the nodes that the change is about; None: perhaps of all."""
        self.changes: Counter[str] = Counter()
        """Of what is followed besides, by its kind."""
        self._kept: dict[str, tuple[dict[str, Any], Callable[[bytes], Any]]] = {}
        self._found: dict[str, str] = {}
        """By name: the id of the node that had it when it was last asked for."""
        self._resting: dict[str, int] = {}
        """Addresses whose nodes are gone, and what to sort them by."""
        self._fresh: dict[str, str] = {}
        """By role: an address; each below it has an entry."""
        self._clear()
        self.heard = float("-inf")
        """When the store was last heard of, monotonic seconds of the event loop; in a cluster, each second."""

    @property
    def revision(self) -> int:
        """Up to which revision the picture is complete."""
        return self._revision

    def listen(self, changed: Callable[[], None]) -> None:
        """Have *changed* called, without waiting, after every change of a node, key or service."""
        self._listeners.append(changed)

    def listen_to(self, kind: str, changed: Callable[[], None]) -> None:
        """Have *changed* called, without waiting, after every change of the records of that kind, which are kept."""
        seen = self.changes[kind]

        def look() -> None:
            nonlocal seen
            if seen != (seen := self.changes[kind]):
                changed()

        self.listen(look)

    def keep(self, kind: str, read: Callable[[bytes], T]) -> dict[str, T]:
        """Follow the records ``kind/…`` besides, at the same revision as all the rest; by what comes behind the ``/``.

        To be asked for before `load`. *read* raises ValueError or TypeError for what is none: it is left out.
        """
        table: dict[str, T] = {}
        self._kept[kind] = table, read
        return table

    async def load(self) -> None:
        """Read all of it once, and nothing else: of audit records there may be very many."""
        listing = await self._store.list(ADDRESSES, KEYS, NODES, SERVICES, *(f"{kind}/" for kind in self._kept))
        self._clear()
        for record in listing.records:
            self._apply(Event(record.key, record.value, record.revision))
        async with self._moved:
            self._revision = listing.revision  # not the higher one: another store counts anew
        self.common += 1
        self.changes.update(self._kept.keys())
        self.touched = None
        await self._advance(listing.revision, relevant=True)

    def cluster(self) -> None:
        """From now on the store is one of many members: its own services are there."""
        self._own = STORE_SERVICES
        self.services |= {service.name: service for service in self._own}
        self._tell_all()

    def snapshot(self) -> bytes:
        """The Controllers and their keys as they stand, for `restore`."""
        return snapshot_of(self.nodes.values(), self.keys.values())

    def restore(self, data: bytes) -> None:
        """The picture of a `snapshot`, until `load`. Raises OperatorError FL-STATE-DAMAGED; then nothing changes."""
        picture = Directory(self._store)
        try:
            for key, value in strict.loads(data).items():
                picture._apply(Event(key, value.encode(), 0))
        except (ValueError, TypeError, AttributeError):
            raise OperatorError("FL-STATE-DAMAGED", "the copy of the directory is damaged",
                                "delete it; another Controller brings it again") from None
        self._clear()
        self.nodes |= picture.nodes
        self.keys |= picture.keys
        self._tell_all()

    async def follow(self) -> None:
        """Keep up with the store until cancelled."""
        while True:
            try:
                async for batch in self._store.watch("", self._revision):
                    relevant, self.touched = False, set()
                    for event in batch:
                        relevant |= self._apply(event)
                    await self._advance(batch[-1].revision, relevant=relevant)
                    self.touched = None
            except Compacted:
                await self._read_again()

    async def _read_again(self) -> None:
        delay = FullJitter(0.1, 2.0)
        while True:
            try:
                return await self.load()
            except StoreUnavailable:  # of several Controllers' store; a single one's is there or ends the daemon
                await asyncio.sleep(delay.next())

    async def reached(self, revision: int) -> None:
        """Return when the picture contains everything up to *revision*. Raises StoreUnavailable when it takes long."""
        try:
            async with asyncio.timeout(REACH_S), self._moved:
                await self._moved.wait_for(lambda: self._revision >= revision)
        except TimeoutError:
            raise StoreUnavailable("it was done, and is not seen here yet") from None

    def named(self, name: str) -> Node | None:
        """The node of that name, if it is there."""
        node = self.nodes.get(self._found.get(name, ""))
        if node is None or node.name != name:
            node = next((node for node in self.nodes.values() if node.name == name), None)
            if node is not None:
                self._found[name] = node.id
        return node

    def controllers(self) -> list[Node]:
        """The Controllers that are up, by name."""
        return sorted((n for n in self.nodes.values() if n.role == "controller" and n.state == "up"),
                      key=lambda n: n.name)

    def host_keys(self) -> dict[str, list[PublicKey]]:
        """By the Controller's name, those that it shows or has shown: what it signed with an earlier one stays said."""
        names = {node.id: node.name for node in self.controllers()}
        found = {node.name: list(node.host_keys) for node in self.controllers()}
        for entry in self.keys.values():
            if entry.use == "host" and entry.node_id in names:
                key = PublicKey.from_line(entry.line)
                if key not in found[names[entry.node_id]]:
                    found[names[entry.node_id]].append(key)
        return found

    def hosts(self) -> list[str]:
        """Where the Controllers that are up are found: names and addresses, each once."""
        return sorted({host for node in self.controllers() if node.endpoint for host, _ in node.endpoint.places})

    def free_address(self, role: str, now: int) -> tuple[str, int | None] | None:
        """The lowest address for *role* that has rested, with the revision of its entry, or else that nobody has had.

        None: all are used.
        """
        rested = [(number, address) for address, number in self._resting.items()
                  if self.addresses[address][0].until <= now and is_for(role, address)]
        if rested:
            _, address = min(rested)
            return address, self.addresses[address][1]
        for address in candidates(role, self._fresh.get(role, "")):
            if address not in self.addresses:
                self._fresh[role] = address
                return address, None
        return None

    def _clear(self) -> None:
        self._resting.clear()
        self._fresh.clear()
        tables: list[dict[str, Any]] = [self.nodes, self.keys, self.services, self.addresses, self._found]
        for table in (*tables, *(kept for kept, _ in self._kept.values())):
            table.clear()
        self.services |= {service.name: service for service in self._own}

    def _touch(self, node_id: str) -> None:
        if self.touched is not None:
            self.touched.add(node_id)

    async def _advance(self, revision: int, *, relevant: bool) -> None:
        self.heard = asyncio.get_running_loop().time()
        async with self._moved:
            self._revision = max(self._revision, revision)
            self._moved.notify_all()
        if relevant:
            for changed in self._listeners:
                changed()

    def _tell_all(self) -> None:
        self.common += 1
        for changed in self._listeners:
            changed()

    def _apply(self, event: Event) -> bool:
        """Take one change in; whether anybody has to know of it."""
        kind, _, rest = event.key.partition("/")
        value = event.value
        if kind == "addresses":
            self._resting.pop(rest, None)
            if value is None:
                self.addresses.pop(rest, None)
                self._fresh.clear()
            else:
                entry = address_from(value)
                self.addresses[rest] = (entry, event.revision)
                if entry.state == "quarantined":
                    self._resting[rest] = int(IPv4Address(rest))
            return False
        if kind == "nodes":
            before = self.nodes.get(rest)
            if before is not None and value is None:
                self._found.pop(before.name, None)
            _set(self.nodes, rest, value, node_from)
            self._touch(rest)
            self.common += any(node is not None and node.role == "controller"
                               for node in (before, self.nodes.get(rest)))
        elif kind == "keys":
            known = self.keys.get(rest)
            _set(self.keys, rest, value, key_from)
            for one in (known, self.keys.get(rest)):
                if one is not None:
                    self._touch(one.node_id)
        elif kind == "services":
            _set(self.services, rest, value, service_from)
            self.common += 1
        elif kind in self._kept:
            table, read = self._kept[kind]
            self.changes[kind] += 1
            try:
                _set(table, rest, value, read)
            except (ValueError, TypeError) as error:  # of a later version, say
                table.pop(rest, None)
                log.error("record.unread", key=event.key, code="FL-STATE-DAMAGED", reason=str(error))
        else:
            return False
        return True


def snapshot_of(nodes: Iterable[Node], keys: Iterable[KeyEntry]) -> bytes:
    """The Controllers of *nodes*, with their *keys*, as `Directory.restore` reads them."""
    records = {NODES + node.id: encode(node) for node in nodes if node.role == "controller"}
    records |= {KEYS + PublicKey.from_line(entry.line).fingerprint: encode(entry) for entry in keys
                if NODES + entry.node_id in records}
    return json.dumps({key: value.decode() for key, value in sorted(records.items())}).encode()


def _set(table: dict[str, T], key: str, value: bytes | None, read: Callable[[bytes], T]) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = read(value)
