"""Logs that came up at several Controllers, read as one: each byte once, in order; nothing is left out in silence."""

import asyncio
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairlead.fleet.answering import Answering
from fairlead.fleet.logs import Logs
from fairlead.fleet.reading import MOST_PAGE, Page, Reading
from fairlead.link.engines import MOST_READ
from tests.unit.fleet.ring import CTL_3, Ring
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1
from tests.world import refusal

A, B = "a" * 32, "b" * 32
CONTROLLERS = (CTL_1, CTL_2, CTL_3)


def lines(first: int, last: int) -> bytes:
    """Those numbered so; each is ten bytes, so that its offset is known."""
    return b"".join(b"%09d\n" % number for number in range(first, last))


@dataclass
class Town:
    """Three Controllers, and what each has on its disk."""

    folder: Path
    ring: Ring = field(default_factory=Ring)
    readings: dict[str, Reading] = field(default_factory=dict)
    shelves: dict[str, Logs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in CONTROLLERS:
            shelf = self.shelves[one.name] = Logs(self.folder / one.name, self.ring.directory)
            reading = self.readings[one.name] = Reading(self.ring.directory, shelf, self.ring.others(one))
            directory: Any = self.ring.directory
            nothing: Any = None
            self.ring.answers[one.name] = Answering(directory, nothing, reading, nothing).answer

    def put(self, at: str, first: int, last: int, spool: str = A, when: float = 1000.0) -> None:
        """These lines have come up there, last written *when*."""
        folder = self.folder / at / "logs" / SE_1.id
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{spool}.{first * 10:020d}.log"
        file.write_bytes(lines(first, last))
        os.utime(file, (when, when))

    async def pages(self, at: str, place: str = "", *, partial: bool = False) -> list[Page]:
        found = []
        while (page := await self.readings[at].page("se-1", place, partial=partial)).text or page.unheard:
            found.append(page)
            if not page.text:
                break
            place = page.place
        return found

    async def text(self, at: str, place: str = "", *, partial: bool = False) -> bytes:
        return "".join(page.text for page in await self.pages(at, place, partial=partial)).encode()


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


async def test_parts_are_put_together_whoever_is_asked(town: Town) -> None:
    town.put("ctl-2", 0, 100)
    town.put("ctl-1", 100, 200)
    town.put("ctl-2", 200, 300)
    town.put("ctl-3", 300, 400)
    for one in CONTROLLERS:
        assert await town.text(one.name) == lines(0, 400), one.name


async def test_what_two_have_comes_once(town: Town) -> None:
    """A confirmation that was lost: the next Controller was sent the same again."""
    town.put("ctl-1", 0, 150)
    town.put("ctl-2", 100, 250)
    town.put("ctl-3", 100, 130)
    town.put("ctl-3", 220, 300)
    for one in CONTROLLERS:
        assert await town.text(one.name) == lines(0, 300), one.name


async def test_a_place_is_a_place_at_every_controller(town: Town) -> None:
    town.put("ctl-1", 0, 100)
    town.put("ctl-2", 100, 200)
    first = await town.readings["ctl-1"].page("se-1", "")
    assert first.place == f"{A}.1000"
    assert await town.text("ctl-3", first.place) == lines(100, 200)
    assert await town.text("ctl-3", f"{A}.1500") == lines(150, 200)
    assert await town.text("ctl-3", f"{A}.2000") == b""


async def test_however_they_lie_each_line_comes_once_and_in_order(town: Town) -> None:
    """At random: parts of one spool after another, doubled or not, at any Controller."""
    draw = random.Random(7)
    for _ in range(30):
        for one in CONTROLLERS:
            shutil.rmtree(town.folder / one.name, ignore_errors=True)
        for number, spool in enumerate((B, A)):
            at = 0
            while at < 300:
                end = min(300, at + draw.randrange(1, 60))
                town.put(draw.choice(CONTROLLERS).name, at, end, spool, 1000.0 + number * 100 + at / 100)
                at = max(0, end - draw.choice((0, 0, 7))) if end < 300 else end
        for one in CONTROLLERS:
            assert await town.text(one.name) == lines(0, 300) * 2, one.name


async def test_one_spool_comes_after_another_whoever_has_them(town: Town) -> None:
    town.put("ctl-1", 0, 50, A, when=2000.0)
    town.put("ctl-2", 0, 50, B, when=1000.0)
    town.put("ctl-3", 50, 60, B, when=1500.0)
    for one in CONTROLLERS:
        assert await town.text(one.name) == lines(0, 60) + lines(0, 50), one.name


async def test_large_parts_come_in_pieces_of_whole_lines(town: Town) -> None:
    count = 2 * MOST_PAGE // 10 + 5
    town.put("ctl-2", 0, count)
    for at, most in (("ctl-2", MOST_PAGE), ("ctl-1", MOST_READ)):
        pages = await town.pages(at)
        assert max(len(page.text) for page in pages) <= most
        assert all(page.text.endswith("\n") for page in pages)
        assert "".join(page.text for page in pages).encode() == lines(0, count)


@pytest.mark.parametrize("away", ["ctl-2", "ctl-3"])
async def test_a_controller_that_is_away_is_named_and_leaves_no_silent_gap(town: Town, away: str) -> None:
    town.put("ctl-1", 0, 100)
    town.put(away, 100, 200)
    town.put("ctl-1", 200, 300)
    town.ring.silent.add(away)
    assert await refusal(town.readings["ctl-1"].page("se-1", "")) == "FL-LOGS-AWAY", "it may have something before"
    page = await town.readings["ctl-1"].page("se-1", f"{A}.0")
    assert (page.text.encode(), page.unheard) == (lines(0, 100), ()), "what goes on needs nobody else"
    assert await refusal(town.readings["ctl-1"].page("se-1", page.place)) == "FL-LOGS-AWAY"
    assert await refusal(town.readings["ctl-1"].page("se-1", f"{A}.3000")) == "FL-LOGS-AWAY", "nor is that the end"
    town.ring.silent.clear()
    assert await town.text("ctl-1", page.place) == lines(100, 300), "and when it is back, it goes on there"


async def test_what_others_have_is_shown_to_who_asks_for_a_part_and_gaps_are_said(town: Town) -> None:
    town.put("ctl-1", 0, 100)
    town.put("ctl-2", 100, 200)
    town.put("ctl-3", 200, 300)
    town.ring.silent.add("ctl-2")
    pages = await town.pages("ctl-1", partial=True)
    assert [(page.text.encode(), page.unheard) for page in pages] == [
        (lines(0, 100), ("ctl-2",)), (lines(200, 300), ("ctl-2",)), (b"", ("ctl-2",))]
    town.ring.silent = {"ctl-1"}
    assert await refusal(town.readings["ctl-2"].page("se-1", "c" * 32 + ".70", partial=True)) == "FL-LOGS-AWAY", (
        "to begin again would double everything")


async def test_what_goes_while_it_is_read_is_looked_for_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.put("ctl-2", 0, 100)
    town.put("ctl-3", 50, 150)
    read = Reading.read

    async def gone(self: Reading, *asked: Any) -> Any:
        if self is town.readings["ctl-2"]:
            (town.folder / "ctl-2" / "logs" / SE_1.id / f"{A}.{0:020d}.log").unlink(missing_ok=True)
        return await read(self, *asked)

    monkeypatch.setattr(Reading, "read", gone)
    assert await town.text("ctl-1") == lines(50, 150)


async def test_who_says_that_it_has_what_it_does_not_give_ends_in_a_refusal(
        town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.put("ctl-2", 0, 100)

    async def nothing(self: Logs, *asked: Any) -> bytes:
        return b""

    monkeypatch.setattr(Logs, "read", nothing)
    async with asyncio.timeout(10):
        assert await refusal(town.readings["ctl-1"].page("se-1", "")) == "FL-LOGS-AWAY"


@pytest.mark.parametrize(("op", "fields"), [
    ("engine-logs", {"engine": "../x", "spool": "", "offset": 0}),
    ("engine-logs", {"engine": CTL_2.id, "spool": "", "offset": 0}),
    ("engine-logs", {"engine": SE_1.id, "spool": "../" + "a" * 29, "offset": 0}),
    ("engine-logs", {"engine": SE_1.id, "spool": "", "offset": -1}),
    ("engine-logs", {"engine": SE_1.id, "spool": "", "offset": "0"}),
    ("engine-logs", {"engine": SE_1.id, "spool": "", "offset": 0, "more": 1}),
    ("engine-logs-read", {"engine": SE_1.id, "spool": "", "offset": 0}),
    ("engine-logs-read", {"engine": SE_1.id, "spool": A, "offset": 2**64}),
    ("engine-logs-read", {"engine": "nobody", "spool": A, "offset": 0})])
async def test_attack_a_question_becomes_no_path_and_no_fault(town: Town, op: str, fields: dict[str, Any]) -> None:
    town.put("ctl-1", 0, 10)
    answer = town.ring.answers["ctl-1"](CTL_2, op, fields)
    assert await refusal(answer) in ("FL-PEER-QUESTION", "FL-NODE-UNKNOWN")  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [
    {"parts": [{"spool": A, "since": 1.0, "begin": 2**70, "end": 2**71}]},
    {"parts": [{"spool": "../x", "since": 1.0, "begin": 0, "end": 9}]}, {"parts": 1}])
async def test_attack_an_answer_that_lies_costs_a_refusal(town: Town, answer: dict[str, Any]) -> None:
    town.put("ctl-1", 0, 10)

    async def lie(*_: Any) -> dict[str, Any]:
        return answer

    town.ring.answers["ctl-2"] = lie
    assert await refusal(town.readings["ctl-1"].page("se-1", "")) == "FL-LOGS-AWAY"
