"""How each node stands in an upgrade, as it is shown, and as the leader sees it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from fairlead.controller.upgrading import Following, Upgrading, _member, _row, shown
from fairlead.link.report import Report
from fairlead.upgrade.stages import Upgrade
from tests.unit.nodes.test_policy import SE_1

LAST = Upgrade("a1", "jane", 1, "1.1.0", "1.0.0", "engines", 1, failed={}, names={})


@pytest.mark.parametrize(("report", "more", "state", "why"), [
    (Report(version="1.0.0"), {}, "waiting", ""),
    (Report(version="1.0.0", id="a1", state="fetching", bytes=5), {}, "fetching", ""),
    (Report(version="1.0.0", id="a1", state="back", why="no tunnel"), {}, "back", "no tunnel"),
    (Report(version="1.0.0", id="a0", state="back", why="of before"), {}, "waiting", ""),
    (Report(version="1.1.0", id="a0", state="done"), {}, "done", ""),
    (Report(version="1.0.0"), {"under_way": False}, "", ""),
    (None, {"online": False}, "offline", ""),
    (None, {"able": False}, "failed", "its software takes no upgrades"),
], ids=["its turn comes", "under way", "back", "back from another one", "it runs it", "it is over", "away", "too old"])
def test_a_row_says_of_this_upgrade_and_no_other(report: Report | None, more: dict[str, Any], state: str,
                                                 why: str) -> None:
    row = _row(SE_1, "engine", report, LAST, **{"under_way": True, "online": True, "able": True} | more)
    assert (row["state"], row["why"]) == (state, why)
    assert (row["node"], row["role"], row["version"]) == (SE_1.name, "engine", report.version if report else None)
    assert row["bytes"] == (5 if state == "fetching" else 0)


def test_an_engine_that_is_left_on_the_way_back_is_shown_with_the_reason() -> None:
    last = Upgrade("b2", "jane", 2, "1.0.0", "1.1.0", "engines", 2, back=True, left=(SE_1.id,))
    row = _row(SE_1, "engine", Report(version="1.1.0", id="a1", state="done"), last, under_way=True, online=True,
               able=True)
    assert (row["state"], row["why"]) == ("failed", "no way back to 1.0.0")


def test_what_a_node_said_of_another_upgrade_is_nothing_but_a_trial_counts() -> None:
    seen = _member(SE_1, Report(version="1.0.0", id="a0", state="back", why="x"), LAST, online=True, able=True)
    assert (seen.state, seen.why) == ("", "")
    seen = _member(SE_1, Report(version="1.1.0", id="a0", state="trial"), LAST, online=True, able=True)
    assert seen.state == "trial", "it may go back yet"
    assert _member(SE_1, None, LAST, online=False, able=True).version == ""


def test_an_upgrade_uses_its_image_and_the_way_back_none() -> None:
    following = Following(Mock())
    assert not following.uses("image-1")
    following.records = {"now": replace(LAST, image="image-1"), "past/1": replace(LAST, image="image-2")}
    assert following.uses("image-1")
    assert not following.uses("image-2")


def test_it_is_shown_with_names() -> None:
    one = Upgrade("a1", "jane", 1, "1.1.0", "1.0.0", "over", 1, failed={"i": "no"}, names={"i": "se-1"}, outcome="done")
    assert shown(one)["failed"] == {"se-1": "no"}


def test_a_controller_that_unpacks_yet_does_not_switch_once_its_upgrade_was_called_back() -> None:
    """The way back takes it for one that never changed: nobody would ever bring it back."""
    following, own = SimpleNamespace(now=LAST), Mock()
    Upgrading(following=following, own=own, **dict.fromkeys((  # type: ignore[arg-type]
        "audit", "cluster", "mesh", "desk", "engines", "others", "telling", "images"), Mock()))
    assert own.still(LAST.order)
    following.now = Upgrade("b2", "jane", 2, "1.0.0", "1.1.0", "engines", 2, back=True)
    assert not own.still(LAST.order)
    following.now = None
    assert not own.still(LAST.order)
