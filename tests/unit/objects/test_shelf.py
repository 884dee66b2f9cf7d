"""Objects that are kept: who sees a change, which changes meet, and what goes when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from fairlead.audit.log import AuditLog
from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.model import Item, Kind, Model, Ref
from fairlead.objects.shelf import CHANGED, OBJECTS, Built, Shelf, Shelved
from fairlead.store.sqlite import SQLiteStore
from tests.world import ManualClock


class Thing(Model):
    name: str
    size: int = 1
    other_ref: Annotated[str | None, Ref("thing")] = None


THING = Kind("thing", "Thing", Thing, "thing")
FIRST = Item("thing-first", Thing(name="first"))


@dataclass
class Room:
    store: SQLiteStore
    shelf: Shelf
    things: Shelved
    audit: AuditLog
    catalogue: Catalogue

    async def make(self, name: str, **fields: Any) -> Item:
        return await self.things.make(Thing(name=name, **fields), "jane", tenant="", uuid=None)


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Room]:
    store = SQLiteStore.open(path, ManualClock())
    audit = AuditLog(store, "ctl")
    shelf = Shelf(store, audit, [Built(THING, [FIRST])])
    catalogue = Catalogue()
    things = Shelved(shelf, THING, catalogue.referrers)
    catalogue.add(things)
    await shelf.load()
    following = asyncio.create_task(shelf.follow())
    try:
        yield Room(store, shelf, things, audit, catalogue)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with opened(tmp_path / "store.db") as found:
        yield found


async def refused(awaited: Any) -> str:
    with pytest.raises(FairleadError) as error:
        await awaited
    return error.value.code


async def test_what_is_kept_is_there_again_and_on_record(room: Room, tmp_path: Path) -> None:
    made = await room.make("a", size=2)
    changed = await room.things.change(made, Thing(name="b", size=3), "jane")
    assert changed.modified > made.modified
    assert [item.name for item in await room.things.items()] == ["b", "first"]
    again = Shelf(room.store, room.audit, room.shelf.built)
    await again.load()
    assert again.all("thing") == room.shelf.all("thing")
    assert [(r.event, r.subject, r.by) for r in await room.audit.records(9)] == [
        ("object.made", "thing a", "jane"), ("object.changed", "thing b", "jane")]


async def test_a_change_of_something_older_is_refused(room: Room) -> None:
    made = await room.make("a")
    await room.things.change(made, Thing(name="a", size=2), "jane")
    assert await refused(room.things.change(made, Thing(name="a", size=3), "tom")) == "FL-OBJECT-STALE"
    assert await refused(room.things.remove(made, "tom")) == "FL-OBJECT-STALE"


async def test_attack_two_at_once_never_take_one_name(room: Room) -> None:
    outcomes = await asyncio.gather(*(room.make("same") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, Item) for one in outcomes) == 1
    assert {one.code for one in outcomes if isinstance(one, FairleadError)} == {"FL-OBJECT-EXISTS"}


async def test_attack_another_controller_takes_the_name_meanwhile(room: Room) -> None:
    """What it wrote is seen before anything is decided, though its event has not come yet."""
    other = Shelf(room.store, AuditLog(room.store, "ctl-2"), room.shelf.built)
    await other.load()
    await room.make("same")  # `other` follows nobody: it has not heard of it
    waiting = asyncio.create_task(Shelved(other, THING, Catalogue().referrers).make(
        Thing(name="same"), "tom", tenant="", uuid=None))
    following = asyncio.create_task(other.follow())
    assert await refused(waiting) == "FL-OBJECT-EXISTS"
    following.cancel()


async def test_of_a_kind_that_keeps_its_last_ones_the_oldest_go_also_when_two_controllers_write(room: Room) -> None:
    other = Shelf(room.store, AuditLog(room.store, "ctl-2"), room.shelf.built)
    await other.load()
    following = asyncio.create_task(other.follow())
    for n in range(5):
        await asyncio.gather(*(shelf.put(THING, Item(f"thing-{n}{at}", Thing(name=f"{n}{at}")), Entry(
            "made", "x", "jane"), last=4) for at, shelf in enumerate((room.shelf, other))))
    following.cancel()
    assert len((await room.store.list(OBJECTS)).records) == 4
    await room.make("a")
    assert len((await room.store.list(OBJECTS)).records) == 5, "others have no such bound"


async def test_what_is_named_stays_and_what_was_there_first_too(room: Room) -> None:
    made = await room.make("a")
    other = await room.make("b", other_ref=f"thing/{made.uuid}")
    assert await refused(room.things.remove(made, "jane")) == "FL-OBJECT-REFERRED"
    await room.things.remove(other, "jane")
    await room.things.remove(made, "jane")
    assert await refused(room.things.remove(FIRST, "jane")) == "FL-OBJECT-DEFAULT"
    changed = await room.things.change(FIRST, Thing(name="first", size=2), "jane")
    assert await refused(room.things.remove(changed, "jane")) == "FL-OBJECT-DEFAULT"


async def test_what_a_newer_version_has_written_is_passed_over(room: Room) -> None:
    from fairlead.store.protocol import Put
    outcome = await room.store.transact([], [Put(OBJECTS + "thing/thing-9", b'{"future": 1}'),
                                             Put(OBJECTS + "newkind/x", b"{}"), Put(CHANGED, b"x")])
    await room.shelf.reached(outcome.revision)
    assert [item.name for item in await room.things.items()] == ["first"]


async def test_a_secret_is_kept_beside_and_comes_back(room: Room) -> None:
    made = await room.things.keep(Item("thing-1", Thing(name="a"), sealed={"key": "sealed"}), "jane")
    assert (await room.things.item("thing-1")) == replace(made, sealed={"key": "sealed"})
