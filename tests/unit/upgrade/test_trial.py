"""When a version has proven itself."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import OperatorError
from fairlead.upgrade import launch, trial
from fairlead.upgrade.trial import HEALTHY_S, Facts, Proving, missing
from fairlead.upgrade.versions import Versions
from tests.unit.upgrade.test_versions import NEW, NEWER, OWN, go
from tests.world import ManualClock

ENGINE = Facts(controllers=3, links=1, answering=3, needed=1)
CONTROLLER = Facts(controllers=2, links=1, answering=2, needed=1)


@pytest.mark.parametrize(("now", "before", "healthy"), [
    pytest.param(ENGINE, {}, True, id="joined"),
    pytest.param(replace(ENGINE, links=0), {}, False, id="not-let-in"),
    pytest.param(replace(ENGINE, links=0, answering=0), {}, False, id="silence-that-nobody-noted"),
    pytest.param(replace(ENGINE, links=0, answering=0), {"links": 1}, False, id="silence-that-is-new"),
    pytest.param(replace(ENGINE, links=0, answering=0), {"links": 0}, True, id="the-same-silence"),
    pytest.param(replace(ENGINE, links=0, answering=1), {"links": 0}, False, id="one-answers-and-does-not-let-in"),
    pytest.param(replace(ENGINE, links=0), {"links": "0"}, False, id="a-note-that-is-none"),
    pytest.param(replace(ENGINE, listeners=("a",)), {"links": 1, "listeners": ["a"]}, True, id="wrong-as-before"),
    pytest.param(replace(ENGINE, listeners=("a", "b")), {"links": 1, "listeners": ["a"]}, False, id="newly-wrong"),
    pytest.param(replace(ENGINE, lacking=("the store",)), {"links": 1}, False, id="lacking"),
    pytest.param(CONTROLLER, {"links": 2}, True, id="a-majority"),
    pytest.param(replace(CONTROLLER, links=0), {"links": 2}, False, id="no-majority"),
    pytest.param(Facts(0, 0, 0, 0), {}, True, id="alone")])
def test_what_is_healthy(now: Facts, before: Mapping[str, Any], healthy: bool) -> None:
    assert (missing(now, before) == []) is healthy


class World:
    """A version on trial, and time that passes when it looks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (state := folder / "state").mkdir(0o700)
        self.versions = Versions(state, OWN)
        self.clock = ManualClock()
        self.looks = 0
        self.healthy_from = 0
        self.ill_at = -1

        async def sleep(seconds: float) -> None:
            self.clock.instant += round(seconds * SECOND)

        monkeypatch.setattr("fairlead.upgrade.trial.asyncio.sleep", sleep)

    def facts(self) -> Facts:
        self.looks += 1
        if self.looks > 1000:
            raise asyncio.CancelledError
        return replace(ENGINE, links=int(self.looks >= self.healthy_from and self.looks != self.ill_at))

    async def run(self, version: str = NEW) -> None:
        await Proving(self.versions, version, self.facts, self.clock).run()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


async def test_healthy_for_some_seconds_on_end_is_confirmed(world: World) -> None:
    go(world.versions, NEW)
    world.healthy_from, world.ill_at = 3, 10
    began = world.clock.monotonic()
    await world.run()
    assert world.versions.standing().outcome == "confirmed"
    assert world.clock.monotonic() - began >= HEALTHY_S + 10 * trial.LOOK_S
    assert world.versions.explained() == ""


async def test_what_never_gets_there_says_what_is_missing(world: World) -> None:
    go(world.versions, NEW)
    world.healthy_from = 10_000
    with pytest.raises(asyncio.CancelledError):
        await world.run()
    assert world.versions.standing().trial
    assert "let this node in" in world.versions.explained()


async def test_nothing_is_confirmed_that_is_not_the_one_on_trial(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.run()
    go(world.versions, NEW)
    monkeypatch.setenv(launch.GUARD, str(os.getppid()))
    await world.run(OWN)
    assert world.looks == 0
    assert world.versions.standing().trial, "its guard judges what gives itself another number"


async def test_a_trial_that_failed_on_a_full_disk_is_recorded_later_by_what_runs_in_its_place(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    go(world.versions, NEW)
    back, tried = Versions.back, list[int]()

    def full(versions: Versions, why: str, now: int) -> None:
        tried.append(now)
        if len(tried) < 4:
            raise OperatorError("FL-DISK", "full")
        back(versions, why, now)

    monkeypatch.setattr(Versions, "back", full)
    await world.run(OWN)
    said = world.versions.standing()
    assert (said.current, said.trial, said.outcome, said.wanted) == (OWN, False, "failed", NEW)
    assert "no record" in said.why
    assert tried == sorted(set(tried)), "not all at once"
    assert len(tried) == 4


async def test_another_switch_than_the_one_that_failed_is_left_alone(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has switched by hand while the disk was full, say."""
    go(world.versions, NEW)

    def full(versions: Versions, why: str, now: int) -> None:
        go(versions, NEWER)
        raise OperatorError("FL-DISK", "full")

    monkeypatch.setattr(Versions, "back", full)
    await world.run(OWN)
    assert (world.versions.standing().current, world.versions.standing().trial) == (NEWER, True)


async def test_a_full_disk_confirms_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    go(world.versions, NEW)
    confirm, tried = Versions.confirm, list[int]()

    def full(versions: Versions, now: int) -> None:
        tried.append(now)
        if len(tried) < 4:
            raise OperatorError("FL-DISK", "full")
        confirm(versions, now)

    monkeypatch.setattr(Versions, "confirm", full)
    await world.run()
    assert len(tried) == 4
    assert world.versions.standing().outcome == "confirmed"
