"""The picture that decisions look at: complete up to a revision, and everybody is told of what matters."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.keys.ssh import PrivateKey
from fairlead.nodes import records
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.records import AddressEntry, KeyEntry
from fairlead.store.protocol import Delete, Listing, Put
from fairlead.store.sqlite import SQLiteStore
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1, SE_2, service
from tests.world import ManualClock, World, denied


def put(node: Node) -> Put:
    return Put(records.NODES + node.id, records.encode(node))


async def test_it_says_when_nodes_keys_and_services_changed_and_of_nothing_else(world: World) -> None:
    told: list[set[str]] = []
    world.directory.listen(lambda: told.append(set(world.directory.nodes)))
    outcome = await world.store.transact([], [put(SE_1)])
    await world.directory.reached(outcome.revision)
    assert len(told) == 1
    assert SE_1.id in told[0]
    outcome = await world.store.transact([], [Put("addresses/127.64.9.9", records.encode(AddressEntry("x", "held"))),
                                              Put("audit/x", b"x"), Put("names/x", b"x"), Put("nodes-other", b"x")])
    await world.directory.reached(outcome.revision)
    assert len(told) == 1
    assert "127.64.9.9" in world.directory.addresses
    outcome = await world.store.transact([], [Delete(records.NODES + SE_1.id), Delete("addresses/127.64.9.9")])
    await world.directory.reached(outcome.revision)
    assert len(told) == 2
    assert SE_1.id not in told[1]
    assert "127.64.9.9" not in world.directory.addresses


async def test_a_controllers_host_keys_are_those_of_now_and_those_of_before(world: World) -> None:
    now, following, before, other = (PrivateKey.generate().public for _ in range(4))
    me = world.controller.id
    entries = [KeyEntry(me, "host", "active", "", now.line), KeyEntry(me, "host", "active", "", following.line),
               KeyEntry(me, "host", "revoked", "", before.line), KeyEntry(me, "user", "active", "", other.line)]
    outcome = await world.store.transact([], [
        put(replace(world.controller, host_key=now.line, next_host_key=following.line)),
        *(Put(records.KEYS + key.fingerprint, records.encode(entry))
          for key, entry in zip((now, following, before, other), entries, strict=True))])
    await world.directory.reached(outcome.revision)
    found = world.directory.host_keys()["ctl-1"]
    assert found[:2] == [now, following]
    assert before in found
    assert other not in found


async def test_reached_waits_for_the_picture(world: World) -> None:
    waiting = asyncio.ensure_future(world.directory.reached(await world.revision() + 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await world.store.transact([], [Put("x", b"")])
    await asyncio.wait_for(waiting, 10)


async def test_who_was_away_too_long_reads_everything_again(tmp_path: Path) -> None:
    """History was compacted meanwhile: what was removed in it is gone from the picture too."""
    store = SQLiteStore.open(tmp_path / "store.db", ManualClock(), history=5)
    try:
        await store.transact([], [put(CTL_1), put(SE_1), Put("services/db", records.encode(service("db", "ctl-1", 1)))])
        directory = Directory(store)
        await directory.load()
        assert set(directory.nodes) == {CTL_1.id, SE_1.id}
        await store.transact([], [Delete(records.NODES + SE_1.id), Delete("services/db"), put(SE_2)])
        for number in range(20):
            await store.transact([], [Put("x", b"%d" % number)])
        outcome = await store.transact([], [Put("x", b"last")])
        following = asyncio.ensure_future(directory.follow())
        await asyncio.wait_for(directory.reached(outcome.revision), 10)
        assert set(directory.nodes) == {CTL_1.id, SE_2.id}
        assert directory.services == {}
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    finally:
        await store.close()


async def test_it_reads_nothing_but_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of audit records there may be a million."""
    asked: list[str] = []
    listing = type(world.store).list

    async def listed(store: Any, *prefixes: str) -> Listing:
        asked.extend(prefixes)
        return await listing(store, *prefixes)

    monkeypatch.setattr(type(world.store), "list", listed)
    await Directory(world.store).load()
    assert sorted(asked) == [records.ADDRESSES, records.KEYS, records.NODES, records.SERVICES]


async def test_free_addresses(world: World) -> None:
    directory = world.directory
    assert directory.free_address("controller", 0) == ("127.64.0.2", None)
    assert directory.free_address("engine", 0) == ("127.64.1.0", None)
    await world.join("se-1")
    await world.registry.remove("se-1", "admin")
    entry, revision = directory.addresses["127.64.1.0"]
    assert directory.free_address("engine", entry.until - 1) == ("127.64.1.1", None)
    assert directory.free_address("engine", entry.until) == ("127.64.1.0", revision)
    assert directory.free_address("controller", entry.until) == ("127.64.0.2", None)
    for number in range(256):
        directory.addresses[f"127.64.0.{number}"] = AddressEntry("x", "held"), 1
    assert directory.free_address("controller", 10**18) is None


async def test_controllers_are_those_that_are_up(world: World) -> None:
    outcome = await world.store.transact([], [put(replace(CTL_2, state="joining")), put(SE_1)])
    await world.directory.reached(outcome.revision)
    assert [c.name for c in world.directory.controllers()] == ["ctl-1"]
    found = world.directory.named("se-1")
    assert found is not None
    assert found.id == SE_1.id
    assert world.directory.named("nobody") is None


async def test_a_copy_has_the_controllers_and_their_keys_and_nothing_of_engines(world: World) -> None:
    """It is what the mesh begins with before the store is there."""
    await world.join("se-1")
    directory = world.directory
    copy = directory.snapshot()
    assert b"se-1" not in copy
    again = Directory(world.store, clustered=True)
    told: list[int] = []
    again.listen(lambda: told.append(len(again.nodes)))
    again.restore(copy)
    assert told == [1]
    assert again.nodes == {world.controller.id: world.controller}
    assert {e.node_id for e in again.keys.values()} == {world.controller.id}
    assert {e.use for e in again.keys.values()} == {"host", "user"}
    assert [s.name for s in again.services.values()] == ["fairlead-store", "fairlead-store-peers"]
    assert again.snapshot() == copy
    await again.load()
    assert len(again.nodes) == 2
    assert "fairlead-store" in again.services
    assert "fairlead-store" not in directory.services
    directory.cluster()
    assert "fairlead-store" in directory.services


@pytest.mark.parametrize("copy", [b"", b"[]", b"{", b'{"nodes/x": "{}"}', b'{"nodes/x": 7}', b'{"nodes/x": null}'])
async def test_a_copy_that_is_damaged_is_refused(world: World, copy: bytes) -> None:
    before = dict(world.directory.nodes)
    assert denied(lambda: world.directory.restore(copy)) == "FL-STATE-DAMAGED"
    assert world.directory.nodes == before


async def test_another_store_begins_to_count_anew(world: World) -> None:
    """After a load, nothing counts as reached because the former store had come that far."""
    world.directory._revision = 10**6
    await world.directory.load()
    waiting = asyncio.ensure_future(world.directory.reached(await world.revision() + 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await world.store.transact([], [Put("x", b"")])
    await asyncio.wait_for(waiting, 10)


async def test_listeners_are_told_whom_a_change_is_about(tmp_path: Path) -> None:
    """Of thousands, only those whom it concerns are looked at: so nobody whom it concerns may be left out."""
    store = SQLiteStore.open(tmp_path / "store.db", ManualClock())
    try:
        directory = Directory(store)
        seen: list[tuple[set[str] | None, int]] = []
        directory.listen(lambda: seen.append((directory.touched and set(directory.touched), directory.common)))
        await directory.load()
        assert seen.pop()[0] is None, "perhaps everybody"
        following = asyncio.get_running_loop().create_task(directory.follow())
        before = directory.common

        async def after(*operations: Put | Delete) -> tuple[set[str] | None, int]:
            await directory.reached((await store.transact([], operations)).revision)
            return seen.pop()

        key = records.KEYS + "SHA256:x"
        entry = records.KeyEntry(SE_2.id, "user", "active", "t", SE_2.user_key)
        assert await after(put(SE_1)) == ({SE_1.id}, before)
        assert await after(put(SE_1), put(SE_2)) == ({SE_1.id, SE_2.id}, before)
        assert await after(Put(key, records.encode(entry))) == ({SE_2.id}, before)
        assert await after(Delete(key)) == ({SE_2.id}, before)
        assert await after(Delete(records.NODES + SE_1.id)) == ({SE_1.id}, before)
        common: list[Put | Delete] = [put(CTL_1), Put("services/db", records.encode(service("db", "ctl-1", 1))),
                                      Delete("services/db"), Delete(records.NODES + CTL_1.id)]
        for number, change in enumerate(common, 1):
            assert (await after(change))[1] == before + number, "that concerns everybody"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    finally:
        await store.close()


async def test_records_of_others_are_followed_at_the_same_revision(tmp_path: Path) -> None:
    store = SQLiteStore.open(tmp_path / "store.db", ManualClock())

    def read(value: bytes) -> str:
        if value == b"bad":
            raise ValueError("of a later version")
        return value.decode()

    try:
        directory = Directory(store)
        table = directory.keep("things", read)
        await store.transact([], [Put("things/a", b"1"), Put("things/b", b"bad"), Put("others/a", b"x")])
        await directory.load()
        assert (table, directory.changes["things"] > 0) == ({"a": "1"}, True)
        following, before = asyncio.get_running_loop().create_task(directory.follow()), directory.changes["things"]
        outcome = await store.transact([], [Put("things/b", b"2"), Put("things/a", b"bad"), put(SE_1)])
        await directory.reached(outcome.revision)
        assert (table, directory.changes["things"], SE_1.id in directory.nodes) == ({"b": "2"}, before + 2, True)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    finally:
        await store.close()
