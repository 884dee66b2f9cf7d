"""Three Controllers that have to bear what machines do: wrong clocks, full disks, pauses, restarts one by one.

A writer, somebody who redeems tokens and a stream go on all the while, and are judged at the end of each (`life`).
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead.base.clock import SECOND, from_rfc3339
from fairlead.enrol import bundle as bundles
from tests.netns.controllers import Town, cluster
from tests.netns.disks import disk, full
from tests.netns.life import life
from tests.processes import Daemon, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

ALL = ("ctl-1", "ctl-2", "ctl-3")
CLOCK = Path(__file__).parent / "clock"
HOUR_S = 3600
ELECTION_S = 10.0
"""So long nothing may be written while another one comes to lead: a lease and an election, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What a test does to them."""

    town: Town
    folder: Path

    @contextlib.contextmanager
    def wrong(self, name: str, ahead_s: int) -> Iterator[None]:
        """The clock of that Controller is so far ahead."""
        self._set(name, ahead_s)
        try:
            yield
        finally:
            self._set(name, 0)

    def _set(self, name: str, ahead_s: int) -> None:
        made = self.folder / f"{name}.clock.new"
        made.write_text(str(ahead_s))
        made.replace(self.folder / f"{name}.clock")

    def full(self, name: str) -> contextlib.AbstractContextManager[None]:
        """There is no room on the disk of its state folder."""
        return full(self.town[name])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Each Controller has a disk and a clock of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as after:
        def around(name: str) -> list[str]:
            return ["env", f"PYTHONPATH={CLOCK}", f"WALL_CLOCK={folder / name}.clock"] \
                if name in ALL else []

        for name in ALL:
            (folder / f"{name}.clock").write_text("0")
            after.enter_context(disk(folder / name))
        yield Machines(after.enter_context(cluster(folder, controllers=3, engines=1, around=around)), folder)


@pytest.fixture
def town(machines: Machines) -> Town:
    """Each story begins where all is well."""
    town = machines.town
    town.until_well(*ALL)
    until(lambda: all(town[c].node("se-1").get("state") == "up" for c in ALL), "the engine has a link to each")
    return town


def others(town: Town) -> tuple[str, tuple[str, str]]:
    """Who leads, and who does not."""
    leader = town.until_led("ctl-1")
    one, two = (name for name in ALL if name != leader)
    return leader, (one, two)


def told(town: Town, at: str, name: str) -> bool:
    """Whether *at* says that the clock of *name* is off, and of nobody else's."""
    alarms = town.status(at).get("alarms", [])
    return len(alarms) == 1 and f"the clock of {name} is" in alarms[0] and "FL-TIME-OFF" in alarms[0]


def store_time(town: Town, at: str) -> float:
    """How far the store's time is ahead of the right one, seconds, by what a bundle is dated."""
    asked = time.time()
    file = town.export("engine", "se-dated", at, "--ttl", "60s")
    return from_rfc3339(json.loads(file.read_text())["expires_at"]) / SECOND - asked - 60


def exported(town: Town, node: str, at: str, *options: str) -> str:
    """The id of a new token."""
    return bundles.decode(town.export("engine", node, at, *options).read_bytes()).token.id.hex()


def expired(town: Town, at: str, token: str) -> bool:
    """Whether that token has."""
    return any(row["id"] == token and row["state"] == "expired" for row in town[at].listed("token"))


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_1_a_follower_whose_clock_is_off_is_named_and_does_not_come_to_lead(
        machines: Machines, town: Town, ahead_s: int) -> None:
    """Not even when only one other is left, which alone could not say who of them is wrong."""
    leader, (wrong, right) = others(town)
    term = town.status(right)["term"]
    with life(town, f"follower-{ahead_s}", at=(wrong, right), stream_to=right) as seen:
        with machines.wrong(wrong, ahead_s):
            until(lambda: all(told(town, name, wrong) for name in ALL), "each names it")
            assert any("FL-TIME-OFF" in problem for problem in town[wrong].get("/api/status")["problems"])
            assert town.status(right)["term"] == term, "that is nobody else's affair"
            town[leader].signal(signal.SIGTERM)
            assert town[leader].ended() == 0
            assert town.until_led(right, but=leader) == right
            seen.goes_on()
            assert abs(store_time(town, wrong)) < 30
            assert not any(record["term"] > term for record in town[wrong].events("leader.elected"))
        until(lambda: not any(town.status(name)["alarms"] for name in (wrong, right)), "it is right again")
        town[leader].start()
        town.until_well(*ALL)


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_2_a_leader_whose_clock_gets_off_leads_no_more_and_no_token_lives_longer_or_shorter(
        machines: Machines, town: Town, ahead_s: int) -> None:
    leader, rest = others(town)
    long = exported(town, "se-long", leader)
    with life(town, f"leader-{ahead_s}", at=ALL, stream_to=rest[0]) as seen:
        began = time.monotonic()
        short = exported(town, "se-short", leader, "--ttl", "15s")
        with machines.wrong(leader, ahead_s):
            assert town.until_led(rest[0], but=leader) in rest
            until(lambda: all(told(town, name, leader) for name in ALL), "each names it")
            until(lambda: expired(town, rest[0], short), "what is to live fifteen seconds ends")
            assert 14 < time.monotonic() - began < 30
            assert not expired(town, rest[0], long), "and what is to live ten minutes does not"
            seen.goes_on()
            assert abs(store_time(town, leader)) < 30
        until(lambda: not any(town.status(name)["alarms"] for name in ALL), "it is right again")


@pytest.mark.parametrize("victim", ["follower", "leader"])
def test_3_a_disk_that_is_full_stops_one_and_it_comes_back_when_there_is_room(
        machines: Machines, town: Town, victim: str) -> None:
    leader, rest = others(town)
    filled, well = (leader, rest[0]) if victim == "leader" else rest
    with life(town, f"full-{victim}", at=ALL, stream_to=well) as seen:
        with machines.full(filled):
            until(lambda: any("no space left" in r["reason"] for r in town[filled].events("etcd.down")), "it is logged")
            assert any("FL-ETCD" in problem for problem in town[filled].get("/api/status")["problems"])
            until(lambda: _state(town, well, filled) == "down", "the others see it")
            seen.goes_on()
            assert town.status(well)["quorum"]
        town.until_well(*ALL)
        assert town[filled].runs, "the daemon itself did not end"
        until(lambda: not town[filled].get("/api/status")["problems"], "it is well again")


def _state(town: Town, at: str, name: str) -> str:
    return next((str(m["state"]) for m in town.status(at)["members"] if m["name"] == name), "")


def test_4_a_controller_that_is_started_on_a_full_disk_comes_up_when_there_is_room(
        machines: Machines, town: Town) -> None:
    _leader, (filled, well) = others(town)
    with life(town, "full-start", at=(well,), stream_to=well) as seen:
        town[filled].signal(signal.SIGTERM)
        assert town[filled].ended() == 0
        with machines.full(filled):
            town[filled].start(ready=False)
            seen.goes_on()
        if not town[filled].runs:  # it may say why, and end; the one that supervises it starts it again
            assert "Traceback" not in town[filled].log
            town[filled].start()
        town.until_well(*ALL)


def test_5_all_are_started_anew_one_after_the_other(town: Town) -> None:
    with life(town, "rolling", at=ALL, stream_to=None) as seen:
        for name in ALL:
            seen.at = [other for other in ALL if other != name]
            seen.writes_on()  # nothing is under way at the one that is stopped
            town[name].signal(signal.SIGTERM)
            assert town[name].ended() == 0
            town[name].start()
            town.until_well(*ALL)
        longest = seen.longest_s
    assert longest < ELECTION_S


def test_6_a_machine_that_was_paused_wakes_to_no_power(town: Town) -> None:
    """The leader, with its member of the store; what was asked of it meanwhile is done once, or not at all."""
    leader, rest = others(town)
    with life(town, "paused", at=ALL, stream_to=rest[0]) as seen:
        machine = [town[leader].pid, _etcd(town[leader])]
        _all(machine, signal.SIGSTOP)
        try:
            new = town.until_led(rest[0], but=leader)
            assert new in rest
            seen.goes_on()
        finally:
            _all(machine, signal.SIGCONT)
        until(lambda: town.status(leader)["leader"] == new, "it learns who leads")
        town.until_well(*ALL)


def _etcd(node: Daemon) -> int:
    return int(node.events("etcd.started")[-1]["pid"])


def _all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
