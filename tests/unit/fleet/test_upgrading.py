"""Engines are told in their turn, again until they have begun, wherever they are linked; their word is only shown."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from fairlead.fleet import upgrading as module
from fairlead.fleet.others import Heard
from fairlead.fleet.upgrading import EngineUpgrades, gathered
from fairlead.link.messages import UPGRADES, UpgradeRoot, UpgradeStanding, UpgradeWanted
from fairlead.link.report import Report
from fairlead.link.upgrade import STANDING, Standing, StandingAsked
from fairlead.nodes.node import Node
from fairlead.upgrade.driver import newer
from fairlead.upgrade.stages import Upgrade
from tests.unit.nodes.test_policy import CTL_1, SE_1, SE_2

NOW = Upgrade("a1", "jane", 1, "1.1.0", "1.0.0", "engines", 1, sha256="b" * 64, size=7, current=(SE_1.id,))
WANTED = UpgradeWanted(id="a1", version="1.1.0", sha256="b" * 64, size=7)


class House:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {node.id: node for node in (SE_1, SE_2)}
        self.able = {SE_1.id: UPGRADES, SE_2.id: UPGRADES}
        self.told: list[tuple[str, Any]] = []
        self.records = {"now": NOW}
        self.trusted: bytes | None = None
        self.bundles = {NOW.sha256}
        self.engines = EngineUpgrades(self.records, self, self, newer, self.root, lambda one: one in self.bundles)

    async def root(self) -> bytes | None:
        return self.trusted

    def linked(self, ability: str) -> list[str]:
        return [node_id for node_id, able in self.able.items() if not ability or able == ability]

    async def tell(self, node_id: str, message: Any) -> None:
        self.told.append((node_id, message))

    async def says(self, node: Node, **report: Any) -> None:
        await self.engines.heard(node.id, UpgradeStanding(report=Report(**{"version": "1.0.0"} | report)))


@pytest.fixture
def house() -> House:
    return House()


async def test_attack_what_an_engine_says_can_be_passed_on_however_long_it_becomes(house: House) -> None:
    await house.says(SE_1, why="\x01" * 400)
    said = house.engines.standing()
    assert said.reports[SE_1.id].why.isprintable()
    assert Standing.model_validate_json(said.model_dump_json()) == said


async def test_it_is_told_in_its_turn_and_again_until_it_has_begun(house: House) -> None:
    await house.engines.greeted(SE_1.id)
    assert house.told == [(SE_1.id, UpgradeWanted())], "first it says how it stands"
    for node in (SE_1, SE_2):
        await house.says(node)
    house.told.clear()
    for _ in range(2):
        await house.engines.turn()
    assert house.told == [(SE_1.id, WANTED)] * 2, "and only it"
    await house.says(SE_1, id="a1", state="waiting")
    assert [*house.engines.due()] == [SE_1.id], "it was held up"
    await house.says(SE_1, id="a1", state="fetching")
    assert house.engines.due() == {}


async def test_who_has_no_root_is_told_the_clusters_until_it_has_one(house: House) -> None:
    house.records.clear()
    await house.says(SE_1)
    await house.says(SE_2, pinned=True)
    await house.engines.turn()
    assert house.told == [], "the cluster has none"
    house.trusted = b"{}"
    for _ in range(2):
        await house.engines.turn()
    assert house.told == [(SE_1.id, UpgradeRoot(root="{}"))] * 2


async def test_the_root_comes_before_the_order(house: House) -> None:
    """To an engine that joins while, or after, the others change: it could verify nothing that it is told."""
    house.trusted = b"{}"
    await house.says(SE_1)
    await house.engines.turn()
    assert house.told == [(SE_1.id, UpgradeRoot(root="{}")), (SE_1.id, WANTED)]


@pytest.mark.parametrize("state", ["failed", "back", "done"], ids=str)
async def test_who_is_through_with_it_is_not_told_again(house: House, state: str) -> None:
    await house.says(SE_1, id="a1", state=state)
    assert house.engines.due() == {}


async def test_a_controllers_turn_is_no_engines(house: House) -> None:
    await house.says(SE_1)
    for phase in ("distribute", "controllers", "halting", "over"):
        house.records["now"] = Upgrade("a1", "jane", 1, "1.1.0", "1.0.0", phase, 1, current=(SE_1.id,))
        assert house.engines.due() == {}


async def test_who_was_away_follows_when_it_comes_but_not_what_is_newer_or_has_failed(house: House) -> None:
    house.records = {"wanted": NOW}
    house.engines.records = house.records
    await house.says(SE_1)
    await house.says(SE_2, version="1.2.0")
    assert [*house.engines.due()] == [SE_1.id]
    await house.says(SE_1, id="a1", state="back")
    assert house.engines.due() == {}


async def test_few_late_ones_are_told_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_AT_ONCE", 1)
    house.engines.records = {"wanted": NOW}
    await house.says(SE_1, id="a1", state="trial", version="1.1.0")
    await house.says(SE_2)
    assert house.engines.due() == {}
    await house.says(SE_1, id="a1", state="done", version="1.1.0")
    assert [*house.engines.due()] == [SE_2.id]


async def test_late_ones_that_wait_hold_up_none_that_was_not_told(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_AT_ONCE", 1)
    house.engines.records = {"wanted": NOW}
    first, second = sorted((SE_1, SE_2), key=lambda one: one.id)
    await house.says(second)
    await house.says(first, id="a1", state="waiting")
    assert [*house.engines.due()] == [second.id]
    await house.says(second, id="a1", state="done", version="1.1.0")
    assert [*house.engines.due()] == [first.id]


async def test_nobody_is_told_of_a_bundle_that_was_deleted_but_the_way_back_needs_none(house: House) -> None:
    house.engines.records = {"wanted": NOW}
    house.bundles.clear()
    await house.says(SE_1)
    assert house.engines.due() == {}
    house.engines.records = {"wanted": replace(NOW, version="0.9.0", before="1.0.0", sha256="", back=True)}
    assert [*house.engines.due()] == [SE_1.id]


async def test_what_it_said_on_an_earlier_link_counts_no_more(house: House) -> None:
    await house.says(SE_1, id="a1", state="done", version="1.1.0")
    house.engines.left(SE_1.id)
    assert house.engines.standing().reports == {}


@pytest.mark.parametrize("report", [{"why": "x" * 401}, {"state": "great"}, {"version": "1\x1b[2J"}, {"bytes": -1},
                                    {"id": "../x"}, {"since": 2**62}], ids=lambda one: next(iter(one)))
def test_what_no_engine_would_say_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Report(**{"version": "1.0.0"} | report)


def test_words_move_no_cursor() -> None:
    assert Report(version="1", why="a\x1b[2Jb\n").why == "a\\x1b[2Jb\\n"


class Others:
    def __init__(self, *pages: dict[str, Standing]) -> None:
        self.pages = list(pages)
        self.asked: list[str] = []

    async def all(self, op: str, asked: StandingAsked, form: type[Standing]) -> Heard[Standing]:
        assert (op, form) == (STANDING, Standing)
        self.asked.append(asked.after)
        return Heard(self.pages.pop(0) if self.pages else {})


async def test_how_all_stand_is_asked_of_every_controller_page_by_page(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NODES", 6)
    house.nodes |= {node_id: replace(SE_1, id=node_id) for node_id in ("x1", "x2", "x9")}
    await house.says(SE_1, since=5, id="a1", state="trial")
    house.able[SE_2.id] = ""
    others = Others(
        {"ctl-2": Standing(reports={"x1": Report(version="1.0.0"), SE_1.id: Report(version="1.0.0", since=4)},
                           last="x1"),
         "ctl-3": Standing(old=["x9"])},
        {"ctl-2": Standing(reports={"x2": Report(version="1.1.0"), SE_2.id: Report(version="1.1.0")})})
    found = await gathered(house.engines, others)  # type: ignore[arg-type]
    assert others.asked == ["", "x1"]
    assert {key: one.version for key, one in found.reports.items()} == {
        SE_1.id: "1.0.0", "x1": "1.0.0", "x2": "1.1.0", SE_2.id: "1.1.0"}
    assert found.reports[SE_1.id].state == "trial", "the newer word"
    assert found.old == ["x9"], "one that some other Controller has a word of is not too old"


async def test_attack_pages_without_an_end_of_engines_that_nobody_knows(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Controller in wrong hands: it would hold the leader's driver, and all who ask how it goes, for ever."""
    monkeypatch.setattr(module, "MOST_NODES", 2)
    word, known = Report(version="1.0.0"), sorted((SE_1.id, SE_2.id))
    house.nodes |= {"x1": replace(SE_1, id="x1"), CTL_1.id: CTL_1}
    others = Others(*({"ctl-2": Standing(reports={f"y{page:03}": word, known[0]: word, CTL_1.id: word},
                                         old=[f"z{page:03}"], last=f"y{page:03}")} for page in range(1000)))
    found = await gathered(house.engines, others)  # type: ignore[arg-type]
    assert ([*found.reports], found.old, others.asked) == ([known[0]], [], ["", "y000"])


async def test_attack_short_pages_hide_nothing_that_others_say(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on from where a liar ends, but from where those do who tell of engines that there are."""
    monkeypatch.setattr(module, "MOST_NODES", 2)
    house.nodes |= {node_id: replace(SE_1, id=node_id) for node_id in ("x1", "x2")}
    word, (first, second) = Report(version="1.0.0"), sorted((SE_1.id, SE_2.id))
    others = Others({"ctl-2": Standing(last="a"), "ctl-3": Standing(reports={first: word, second: word}, last=second)},
                    {"ctl-2": Standing(last="b"), "ctl-3": Standing(reports={"x1": word, "x2": word})})
    assert {*(await gathered(house.engines, others)).reports} == {first, second, "x1", "x2"}  # type: ignore[arg-type]
    assert others.asked == ["", second]


async def test_a_page_has_an_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NODES", 1)
    for node in (SE_1, SE_2):
        await house.says(node)
    first, second = sorted((SE_1.id, SE_2.id))
    page = house.engines.standing()
    assert ([*page.reports], page.last) == ([first], first)
    page = house.engines.standing(page.last)
    assert ([*page.reports], page.last) == ([second], "")
    assert len((await gathered(house.engines, Others())).reports) == 2  # type: ignore[arg-type]
