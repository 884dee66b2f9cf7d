"""An engine tells every Controller that has asked how it stands, at each change."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fairlead.base import files
from fairlead.base.errors import Refused
from fairlead.engine import telling
from fairlead.engine.upgrading import Upgrades
from fairlead.link.messages import UpgradeStanding, UpgradeWanted
from fairlead.upgrade.own import OwnUpgrade
from fairlead.upgrade.stages import Order
from fairlead.upgrade.versions import Versions
from tests.unit.upgrade.test_own import ORDER, Taking
from tests.world import ManualClock


class Controller:
    def __init__(self) -> None:
        self.heard: list[UpgradeStanding] = []
        self.gone = False
        self.reads = True
        self.hung_up: list[str] = []

    async def report_upgrade(self, standing: UpgradeStanding) -> None:
        if self.gone:
            raise Refused("FL-STREAM-LOST", "gone")
        if not self.reads:
            await asyncio.Event().wait()
        self.heard.append(standing)

    def hang_up(self, why: str) -> None:
        self.hung_up.append(why)


def upgrades(tmp_path: Path) -> Upgrades:
    clock = ManualClock()
    return Upgrades(OwnUpgrade(tmp_path, Versions(tmp_path, "1.0.0"), Taking(), now=clock.now, restart=lambda: None,
                               record=lambda event, **details: None))


async def test_all_that_have_asked_are_told_each_change_once(tmp_path: Path) -> None:
    one, first, second = upgrades(tmp_path), Controller(), Controller()
    one.asked(first, UpgradeWanted())
    await one.tell_all()
    await one.tell_all()
    assert [said.report.version for said in first.heard] == ["1.0.0"]
    one.asked(second, UpgradeWanted())
    one.asked(first, UpgradeWanted())
    await one.tell_all()
    assert (len(first.heard), len(second.heard)) == (2, 1), "who asks again has not heard it"
    first.gone = True
    one.asked(first, UpgradeWanted())
    await one.tell_all()
    one.left(first)
    assert len(second.heard) == 1


async def test_attack_a_controller_that_does_not_read_keeps_no_other_waiting(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "SAY_S", 0.05)
    one, deaf, other = upgrades(tmp_path), Controller(), Controller()
    deaf.reads = False
    for controller in (deaf, other):
        one.asked(controller, UpgradeWanted())
    await asyncio.wait_for(one.tell_all(), 10)
    assert (len(deaf.heard), len(other.heard)) == (0, 1)
    assert (deaf.hung_up, other.hung_up) == (["the Controller does not read"], [])


async def test_a_wish_is_passed_on_whole(tmp_path: Path) -> None:
    one, wished = upgrades(tmp_path), list[Any]()
    one.own.want = wished.append  # type: ignore[method-assign,assignment]
    one.asked(Controller(), UpgradeWanted(id="a1", version="1.1.0", sha256=ORDER.sha256, size=1000))
    one.asked(Controller(), UpgradeWanted(id="b1", version="1.0.0", back=True))
    one.asked(Controller(), UpgradeWanted())
    assert wished == [ORDER, Order("b1", "1.0.0", "", 0, back=True)]


async def test_a_damaged_standing_is_a_problem_in_the_status_of_an_engine_that_runs(tmp_path: Path) -> None:
    one = upgrades(tmp_path)
    assert one.problems == []
    (tmp_path / "versions").mkdir(0o700)
    files.write_private(tmp_path / "versions" / "standing.json", b"{")
    assert "standing.json is damaged" in one.problems[0]
