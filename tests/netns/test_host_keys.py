"""Three Controllers and engines, 70 ms away: all host keys change, while the leader is killed, a follower is away, an
engine sleeps, and somebody calls it off. Nobody is left behind, no stream loses a byte, the old keys open nothing.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns import rotations
from tests.netns.controllers import Town, cluster
from tests.netns.life import life
from tests.netns.rotations import (
    ALL,
    PHASES,
    called_off,
    led_on,
    nothing_is_under_way,
    over,
    patience,
    trust,
    went_on_without,
)
from tests.processes import Daemon, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

NAMES = ["se-1", "se-2", "se-3"]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=len(NAMES)) as made:
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    """Each story begins where all is well, and ends where all know the Controllers by one key each, which is shown."""
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)
    yield
    nothing_is_under_way(town)
    until(lambda: all(pinned(town[name]) == shown(town) for name in NAMES), "engines pin what is shown")
    for name in ALL:
        until(lambda name=name: {row["host_key"] for row in town[name].get("/api/hosts/known")["results"]}  # type: ignore[misc]
              == shown(town), "people are told what is shown")
        assert sorted(path.name for path in (town[name].state / "keys").glob("host*")) == ["host", "host.pub"]


def shown(town: Town) -> set[str]:
    """The host keys that the Controllers have on their disks."""
    return {(town[name].state / "keys" / "host.pub").read_text().strip() for name in ALL}


def pinned(engine: Daemon) -> set[str]:
    """Those by which it knows Controllers."""
    return {key for one in trust(engine)["controllers"] for key in (one["host_key"], one["next_host_key"]) if key}


def start(town: Town, at: str, **more: object) -> dict[str, Any]:
    return rotations.start(town, at, "host-keys", **{"patience_s": 30} | more)


def test_1_all_change_while_everybody_works(town: Town) -> None:
    before = shown(town)
    with life(town, "host-keys", at=ALL, stream_to="ctl-2"):
        assert over(town, "ctl-1", start(town, "ctl-2"))["outcome"] == "done"
    assert len(shown(town)) == 3
    assert not shown(town) & before


@pytest.mark.parametrize("phase", PHASES)
def test_2_the_leader_is_killed_in_each_phase(town: Town, phase: str) -> None:
    before = shown(town)
    done = led_on(town, phase, lambda at: start(town, at, patience_s=60))
    until(lambda: bool(shown(town) & before) == (done["outcome"] != "done"), "all show what came of it")


@pytest.mark.parametrize("phase", PHASES)
def test_3_a_follower_is_cut_off_in_each_phase(town: Town, phase: str) -> None:
    before = shown(town)
    done = went_on_without(town, phase, lambda at: start(town, at, patience_s=patience(phase)))
    until(lambda: bool(shown(town) & before) == (done["outcome"] != "done"), "all show what came of it")


def test_4_an_engine_that_was_off_comes_back_without_a_new_token(town: Town) -> None:
    sleeper = town["se-3"]
    sleeper.stop()
    until(lambda: town["ctl-1"].node("se-3")["state"] == "down", "it is seen to be gone")
    before = pinned(sleeper)
    for _ in range(2):
        assert over(town, "ctl-1", start(town, "ctl-1"))["outcome"] == "done"
    assert pinned(sleeper) == before
    assert not before & shown(town)
    sleeper.start()
    until(lambda: town["ctl-1"].node("se-3")["state"] == "up", "it is back")


@pytest.mark.parametrize("phase", PHASES)
def test_5_it_is_called_off_in_each_phase(town: Town, phase: str) -> None:
    before = shown(town)
    done = called_off(town, phase, lambda at: start(town, at))
    until(lambda: bool(shown(town) & before) == (done["outcome"] != "done"), "all show what came of it")


def test_6_heads_of_before_still_count(town: Town) -> None:
    for name in ALL:
        town[name].cli("audit", "verify").done()
