"""An engine's journal is believed when its Controllers agree: a cut, an edit and another journal are found."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.audit.journal import Journal
from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.engine import witnesses as module
from fairlead.engine.witnesses import Witnesses
from fairlead.keys.ssh import PrivateKey
from tests.world import ManualClock, refusal

KEY = PrivateKey.from_seed(bytes(32))
CLUSTER = "5f0c7f5e-0000-4000-8000-000000000001"


class Controller:
    def __init__(self, name: str = "ctl-1") -> None:
        self.name = name
        self.heads: list[str] = []
        self.came = asyncio.Event()
        self.silent = False

    async def show(self, head: str) -> None:
        self.heads.append(head)
        self.came.set()

    async def shown(self) -> list[str]:
        if self.silent:
            await asyncio.Event().wait()
        return self.heads


@contextlib.asynccontextmanager
async def house(path: Path, *controllers: Controller) -> AsyncIterator[tuple[Witnesses, Journal]]:
    clock = ManualClock()
    journal = Journal.open(path / "audit.jsonl", "se-1", clock)
    made = Witnesses(journal, "se-1", CLUSTER, KEY, clock)
    for controller in controllers:
        made.come(controller)
    showing = asyncio.get_running_loop().create_task(made.show())
    try:
        yield made, journal
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        journal.close()


def record(journal: Journal, *events: str) -> None:
    for event in events:
        journal.append(Entry(event, "se-1", "ctl-1"))


async def test_controllers_are_shown_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOW_S", 0.0)
    one, other = Controller(), Controller("ctl-2")
    async with house(tmp_path, one) as (witnesses, journal):
        assert (await witnesses.check())["verified"] == 0
        record(journal, "a", "b")
        await asyncio.wait_for(one.came.wait(), 10)
        witnesses.come(other)
        await asyncio.wait_for(other.came.wait(), 10)
        found = await witnesses.check()
        assert (found["verified"], found["node"]) == (2, "se-1")
        assert found["witnesses"] == [{"name": name, "node": "se-1", "seq": 2, "state": "agrees"}
                                      for name in ("ctl-1", "ctl-2")]
        assert [row["event"] for row in await witnesses.recent(1)] == ["b"]


async def test_attack_a_journal_that_was_cut_or_written_anew_is_found(tmp_path: Path) -> None:
    one = Controller()
    file = tmp_path / "audit.jsonl"
    async with house(tmp_path, one) as (_, journal):
        record(journal, "a", "b", "c")
        await asyncio.wait_for(one.came.wait(), 10)
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    async with house(tmp_path, one) as (witnesses, _):
        assert await refusal(witnesses.check()) == "FL-AUDIT-CUT"
    for events in (("a", "x", "c"), ("x", "b", "c", "d")):  # from the second record on, and from the first
        file.unlink()
        async with house(tmp_path) as (witnesses, journal):
            record(journal, *events)
            assert (await witnesses.check())["verified"] == len(events), "by itself it is whole"
            witnesses.come(one)
            assert await refusal(witnesses.check()) == "FL-AUDIT-FORK"


async def test_what_a_controller_makes_up_counts_for_nothing(tmp_path: Path) -> None:
    liar, silent = Controller(), Controller("ctl-2")
    async with house(tmp_path, liar, silent) as (witnesses, journal):
        record(journal, "a")
        await asyncio.wait_for(liar.came.wait(), 10)
        liar.heads[:] = ["", "{}", liar.heads[0].replace('"seq":1', '"seq":9')]
        silent.silent = True
        assert (await witnesses.check())["witnesses"] == []
        witnesses.left(liar)
        witnesses.left(silent)
        witnesses.left(silent)


async def test_a_controller_that_is_gone_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOW_S", 0.0)

    class Gone(Controller):
        async def show(self, head: str) -> None:
            raise Refused("FL-STREAM-LOST", "gone")

    well = Controller("ctl-2")
    async with house(tmp_path, Gone(), well) as (_, journal):
        record(journal, "a")
        await asyncio.wait_for(well.came.wait(), 10)
