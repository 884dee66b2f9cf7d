"""One at a time, whoever is stopped in between."""

import asyncio
from pathlib import Path

from fairlead.cluster.turn import TURN, TURN_S, Turn
from fairlead.store.sqlite import SQLiteStore
from tests.world import ManualClock


async def test_one_at_a_time(tmp_path: Path) -> None:
    store = SQLiteStore.open(tmp_path / "store.db", ManualClock())
    away, most = set[str](), 0

    async def go(node: str) -> None:
        nonlocal most
        for _ in range(3):
            async with Turn(store, node).taken():
                away.add(node)
                most = max(most, len(away))
                for _ in range(5):  # time enough for whoever else believes that it is his turn
                    held = await store.get(TURN)
                    assert held is not None
                    assert held.value == node.encode()
                away.discard(node)

    async with asyncio.timeout(30):
        await asyncio.gather(*(go(node) for node in "abc"))
    assert most == 1
    assert await store.get(TURN) is None
    await store.close()


async def test_who_is_stopped_leaves_it_to_the_others_and_finds_it_to_be_his_own(tmp_path: Path) -> None:
    clock = ManualClock()
    store = SQLiteStore.open(tmp_path / "store.db", clock)
    await store.transact([], [])
    assert await Turn(store, "a")._take(b"a")
    assert await Turn(store, "a")._take(b"a")  # of an earlier life
    assert not await Turn(store, "b")._take(b"b")
    clock.set(TURN_S - 1)
    assert not await Turn(store, "b")._take(b"b")
    clock.set(TURN_S + 1)
    await store.sweep()
    async with asyncio.timeout(10), Turn(store, "b").taken():
        held = await store.get(TURN)
        assert held is not None
        assert held.value == b"b"
    await store.close()
