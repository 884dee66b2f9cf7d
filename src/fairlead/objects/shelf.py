"""Objects that are kept in the store as they were given: clouds, groups, certificates, the system's configuration.

Rules, and what each stops:

1. Everything is read from memory, which follows the store: every Controller answers the same, and what depends on a
   setting sees it change without asking.
2. A change is one transaction with its audit record. It compares that the object is the one that was read, and that no
   other object was changed meanwhile: two objects never take one name, and none is removed while another one begins to
   name it.
3. What the cluster begins with (`Built`) is there without being stored; it may be changed, and not be removed.
4. A secret is stored sealed only, beside the value; the value never holds it.

Keys: ``objects/<kind>/<uuid>``; ``objects-changed`` is rewritten with every change.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.audit.record import Entry
from fairlead.base.errors import Refused, printable
from fairlead.objects.catalogue import stale
from fairlead.objects.model import Item, Kind, Model
from fairlead.store.protocol import (
    Absent,
    Compacted,
    Compare,
    Delete,
    Event,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
)

OBJECTS = "objects/"
CHANGED = "objects-changed"
BOTH = "objects"
TRIES = 5
_REACH_S = 10.0
_AGAIN_S = 0.5
MOST_BYTES = 256 * 1024
"""Of one object as the store keeps it."""
MOST_OBJECTS = 2000
"""Of one kind."""


class Records(Protocol):
    """What is needed of the store."""

    async def get(self, key: str) -> Record | None:
        """See `store.protocol.Store`."""
        ...

    async def list(self, prefix: str) -> Listing:
        """See `store.protocol.Store`."""
        ...

    async def now(self) -> int:
        """See `store.protocol.Store`."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `store.protocol.Store`."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")
    modified: int
    tenant: str = ""
    value: dict[str, Any]
    sealed: dict[str, str] = Field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Built:
    """Objects of one kind that the cluster begins with."""

    kind: Kind
    items: Sequence[Item] = ()


@dataclass(slots=True, eq=False)
class Shelf:
    """All stored objects, in memory."""

    store: Records
    audit: Journal
    built: Sequence[Built]
    _found: dict[str, dict[str, Item]] = field(default_factory=dict)
    _unread: set[str] = field(default_factory=set)
    _revision: int = 0
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clear()

    def listen(self, changed: Callable[[], None]) -> None:
        """Have *changed* called, without waiting, after every change."""
        self._listeners.append(changed)

    def all(self, path: str) -> Sequence[Item]:
        """The objects of a kind, by name."""
        return sorted(self._found.get(path, {}).values(), key=lambda item: (item.name, item.uuid))

    def one(self, path: str, uuid: str) -> Item | None:
        """The object of a kind with that uuid."""
        return self._found.get(path, {}).get(uuid)

    def is_built(self, path: str, uuid: str) -> bool:
        """Whether the cluster began with it."""
        return any(uuid == item.uuid for built in self.built if built.kind.path == path for item in built.items)

    @property
    def problems(self) -> list[str]:
        """Objects that are there and cannot be read: what they set does not hold here."""
        return [f"the object {key.removeprefix(OBJECTS)} cannot be read by this version: upgrade it, or set it anew"
                for key in sorted(self._unread)]

    async def load(self) -> None:
        """Read all of it."""
        listing = await self.store.list(BOTH)
        self._clear()
        for record in listing.records:
            self._apply(record.key, record.value)
        await self._advance(listing.revision, again=True)

    async def follow(self) -> None:
        """Keep up with the store until cancelled."""
        while True:
            try:
                async for batch in self.store.watch(BOTH, self._revision):
                    for event in batch:
                        self._apply(event.key, event.value)
                    await self._advance(batch[-1].revision)
            except Compacted:
                while True:
                    try:
                        await self.load()
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(_AGAIN_S)

    async def put(self, kind: Kind, item: Item, entry: Entry, *, old: Item | None = None,
                  compare: Sequence[Compare] = (), last: int | None = None,
                  insist: Callable[[], None] = lambda: None) -> Item:
        """Keep *item*, in place of *old*. Raises Refused FL-OBJECT-EXISTS, FL-OBJECT-STALE.

        *compare*: what has to hold besides. *last*: how many of the kind are kept; for a new one the oldest go.
        *insist*: looks at memory when it holds all changes, and raises Refused for what speaks against it.
        """
        async with self._turn:
            for _ in range(TRIES):
                marker = await self._as_now()
                insist()
                if any(one.name == item.name and one.uuid != item.uuid and one.tenant == item.tenant
                       for one in self.all(kind.path) if item.name):
                    raise Refused("FL-OBJECT-EXISTS", f"{kind.title} {printable(item.name, 80)} already exists",
                                  "change that one, or choose another name")
                if old is None and last is None and len(self.all(kind.path)) >= MOST_OBJECTS:
                    raise Refused("FL-OBJECT-MANY", f"there are {MOST_OBJECTS} {kind.title} objects", "delete some")
                now = self.one(kind.path, item.uuid)
                if (now is None) != (old is None) or (old is not None and now != old):
                    raise stale(kind, item.uuid)
                made = replace(item, modified=max(await self.store.now(), (old.modified if old else 0) + 1))
                key = _key(kind.path, item.uuid)
                then: list[Operation] = [Put(key, _encode(kind, made)), Put(CHANGED, key.encode())]
                then += [Delete(_key(kind.path, one.uuid)) for one in self._before(kind, last)]
                outcome = await self.audit.append_with([*compare, marker], then, [entry])
                if outcome.succeeded:
                    await self.reached(outcome.revision)
                    return made
        raise _busy()

    async def drop(self, kind: Kind, old: Item, entry: Entry) -> None:
        """Keep *old* no longer; nobody may name it. Raises Refused FL-OBJECT-STALE."""
        async with self._turn:
            for _ in range(TRIES):
                marker = await self._as_now()
                if self.one(kind.path, old.uuid) != old:
                    raise stale(kind, old.uuid)
                key = _key(kind.path, old.uuid)
                outcome = await self.audit.append_with([marker], [Delete(key), Put(CHANGED, key.encode())], [entry])
                if outcome.succeeded:
                    await self.reached(outcome.revision)
                    return
        raise _busy()

    async def reached(self, revision: int) -> None:
        """Return when memory holds everything up to *revision*. Raises StoreUnavailable when it takes long."""
        try:
            async with asyncio.timeout(_REACH_S), self._moved:
                await self._moved.wait_for(lambda: self._revision >= revision)
        except TimeoutError:
            raise StoreUnavailable("it was done, and is not seen here yet") from None

    async def _as_now(self) -> Compare:
        """Have seen all changes; what holds while there is no other one."""
        changed = await self.store.get(CHANGED)
        if changed is None:
            return Absent(CHANGED)
        await self.reached(changed.revision)
        return Unchanged(CHANGED, changed.revision)

    def _before(self, kind: Kind, last: int | None) -> Sequence[Item]:
        """The oldest of a kind: those that are not among the *last* ones when one more comes."""
        by_age = sorted(self.all(kind.path), key=lambda item: (item.modified, item.uuid)) if last is not None else []
        return by_age[:max(0, len(by_age) + 1 - (last or 0))]

    def _clear(self) -> None:
        self._found.clear()
        for built in self.built:
            self._found[built.kind.path] = {item.uuid: item for item in built.items}

    def _apply(self, key: str, value: bytes | None) -> None:
        if not key.startswith(OBJECTS):
            return
        path, _, uuid = key.removeprefix(OBJECTS).partition("/")
        built = next((built for built in self.built if built.kind.path == path), None)
        if built is None:  # of a newer version
            return
        if value is None:
            self._found[path].pop(uuid, None)
            self._found[path] |= {item.uuid: item for item in built.items if item.uuid == uuid}
        elif (item := _decode(built.kind, uuid, value)) is not None:
            self._found[path][uuid] = item
            self._unread.discard(key)
        else:
            self._unread.add(key)

    async def _advance(self, revision: int, *, again: bool = False) -> None:
        async with self._moved:
            self._revision = revision if again else max(self._revision, revision)
            self._moved.notify_all()
        for changed in self._listeners:
            changed()


@dataclass(frozen=True, slots=True)
class Shelved:
    """The objects of one kind on the shelf, for the API: a `Changeable`."""

    shelf: Shelf
    kind: Kind
    referrers: Callable[[str, str], Any]
    """Who names an object: `Catalogue.referrers`."""

    async def items(self) -> Sequence[Item]:
        """All of them, by name."""
        return self.shelf.all(self.kind.path)

    async def item(self, uuid: str) -> Item | None:
        """One of them."""
        return self.shelf.one(self.kind.path, uuid)

    async def make(self, value: Model, by: str, *, tenant: str, uuid: str | None) -> Item:
        """A new one."""
        return await self.keep(Item(uuid or new_uuid(self.kind), value, tenant=tenant if self.kind.scoped else ""), by)

    async def keep(self, item: Item, by: str) -> Item:
        """A new one that is there already, with its secrets."""
        return await self.shelf.put(self.kind, item, self._entry("made", item, by))

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Another value for *old*."""
        return await self.exchange(old, replace(old, value=value), by)

    async def exchange(self, old: Item, new: Item, by: str, compare: Sequence[Compare] = (),
                       details: Mapping[str, str] | None = None) -> Item:
        """Another item for *old*, with the same uuid."""
        return await self.shelf.put(self.kind, new, self._entry("changed", new, by, details), old=old, compare=compare)

    async def remove(self, old: Item, by: str) -> None:
        """It is no more, unless somebody names it."""
        if self.shelf.is_built(self.kind.path, old.uuid):
            raise Refused("FL-OBJECT-DEFAULT", f"Cannot delete system default object {old.name}", "it may be changed")
        if names := await self.referrers(self.kind.path, old.uuid):
            raise Refused("FL-OBJECT-REFERRED", f"Cannot delete, object is referred by: {list(names)!r}",
                          "change those first")
        await self.shelf.drop(self.kind, old, self._entry("removed", old, by))

    def _entry(self, what: str, item: Item, by: str, details: Mapping[str, str] | None = None) -> Entry:
        return Entry(f"object.{what}", f"{self.kind.path} {item.name or item.uuid}"[:256], by,
                     {"uuid": item.uuid} | dict(details or {}))


def new_uuid(kind: Kind) -> str:
    """A uuid for a new object."""
    return f"{kind.path}-{uuid4()}"


def _key(path: str, uuid: str) -> str:
    return f"{OBJECTS}{path}/{uuid}"


def _encode(kind: Kind, item: Item) -> bytes:
    kept = _Stored(modified=item.modified, tenant=item.tenant, value=item.value.model_dump(exclude_unset=True),
                   sealed=dict(item.sealed))
    data = kept.model_dump_json().encode()
    if len(data) > MOST_BYTES:
        raise Refused("FL-OBJECT-LARGE", f"the object takes {len(data)} bytes, {MOST_BYTES} are allowed",
                      "make it smaller")
    if _decode(kind, item.uuid, data) is None:
        raise Refused("FL-OBJECT-FIELD", f"the {kind.title} could not be read again", "make it simpler")
    return data


def _decode(kind: Kind, uuid: str, value: bytes) -> Item | None:
    """None for what a newer version has written, and this one cannot read."""
    try:
        kept = _Stored.model_validate_json(value)
        return Item(uuid, kind.model.model_validate(kept.value), kept.modified, kept.tenant, kept.sealed)
    except ValidationError:
        return None


def _busy() -> StoreUnavailable:
    return StoreUnavailable("other objects changed five times while this one was being changed")
