"""Three Controllers and engines, 70 ms away: the portal's certificate changes to an organisation's and back, again and
again, while the leader is killed, a follower is cut off, and a clock is an hour off.

A writer, somebody who redeems tokens and a stream go on all the while and are judged at the end of each (`life`).
Afterwards nobody is stranded, all believe the same, and every step is on record.
"""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fairlead.client.control import ControlClient
from tests.netns import rotations
from tests.netns.controllers import Town, cluster
from tests.netns.life import life
from tests.netns.rotations import (
    ALL,
    PHASES,
    bring,
    called_off,
    led_on,
    nothing_is_under_way,
    one_of,
    over,
    patience,
    recorded,
    trust,
    went_on_without,
)
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

NAMES = [f"se-{number}" for number in range(1, 5)]
CLOCK = Path(__file__).parent / "clock"
ODD = "se-2"
"""Its clock is an hour ahead."""
PATIENCE_S = 20


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "clock").write_text("3600")

    def around(name: str) -> Sequence[str]:
        return ["env", f"PYTHONPATH={CLOCK}", f"WALL_CLOCK={folder / 'clock'}"] if name == ODD else []

    with cluster(folder, controllers=3, engines=len(NAMES), around=around) as made:
        bring(made, folder / "pki")
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    """Each story begins where all is well, and ends where all believe the same."""
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)
    yield
    settled(town)


def used(town: Town) -> str:
    """Which certificate the portals present."""
    return rotations.used(town, "secure-channel")


def settled(town: Town) -> None:
    """Nothing is under way, and every node follows the same statement and knows the portals by the same."""
    nothing_is_under_way(town)
    nodes = [town[name] for name in (*ALL, *NAMES)]

    def same() -> bool:
        found = [trust(node) for node in nodes]
        return len({(one["statement"], *one["ca_certificates"], one["tls_name"]) for one in found}) == 1

    until(same, "all believe the same")
    assert len(trust(nodes[0])["ca_certificates"]) == 1


def start(town: Town, at: str, **more: object) -> dict[str, Any]:
    """Begin to change to the certificate that is not in use."""
    return rotations.start(town, at, "secure-channel", **{"patience_s": PATIENCE_S} | more)


def test_1_there_and_back_with_everybody(town: Town) -> None:
    for _ in range(2):
        before = used(town)
        with life(town, f"from-{before[:4].lower()}", at=ALL, stream_to="ctl-2"):
            done = over(town, "ctl-1", start(town, "ctl-2"))
        assert done["outcome"] == "done", done
        assert used(town) != before


@pytest.mark.parametrize("phase", PHASES)
def test_2_the_leader_is_killed_in_each_phase(town: Town, phase: str) -> None:
    before = used(town)
    done = led_on(town, phase, lambda at: start(town, at, patience_s=60))
    assert (used(town) != before) == (done["outcome"] == "done")


@pytest.mark.parametrize("phase", ["scheduled", *PHASES])
def test_3_a_follower_is_cut_off(town: Town, phase: str) -> None:
    """It turns the rotation back, or catches up when it is healed."""
    before = used(town)
    done = went_on_without(town, phase, lambda at: start(town, at, patience_s=patience(phase)))
    assert (used(town) != before) == (done["outcome"] == "done")


def test_4_an_engine_that_was_off_all_the_time_comes_back(town: Town) -> None:
    sleeper = town["se-3"]
    sleeper.stop()
    until(lambda: town["ctl-1"].node("se-3")["state"] == "down", "it is seen to be gone")
    for _ in range(3):
        assert over(town, "ctl-1", start(town, "ctl-1"))["outcome"] == "done"
    sleeper.start()
    until(lambda: town["ctl-1"].node("se-3")["state"] == "up", "it is back")


@pytest.mark.parametrize("reaches", ["everybody", "a follower"])
def test_5_an_engine_that_says_nothing_turns_it_back(town: Town, reaches: str) -> None:
    """Also one that the leader does not see at all: another Controller does."""
    before, leader = used(town), town.until_led("ctl-1")
    link = town.net.links[leader, "se-4"]
    try:
        if reaches == "a follower":
            link.cut()
            until(lambda: not [tunnel for tunnel in town[leader].listed("tunnel") if tunnel["peer"] == "se-4"],
                  "the leader has lost it")
        town["se-4"].signal(signal.SIGSTOP)
        asleep = ControlClient(town["ctl-1"].state, 60.0).get("/api/rotation/plan", kind="secure-channel")["sleeping"]
        assert "se-4" not in asleep
        done = over(town, "ctl-1", start(town, "ctl-1", patience_s=3))
    finally:
        town["se-4"].signal(signal.SIGCONT)
        link.heal()
    assert done["outcome"] == "rolled-back"
    assert "se-4" in done["why"]
    assert used(town) == before


@pytest.mark.parametrize("phase", PHASES)
def test_6_it_is_called_off_in_each_phase(town: Town, phase: str) -> None:
    before = used(town)
    done = called_off(town, phase, lambda at: start(town, at))
    assert (used(town) != before) == (done["outcome"] == "done")


def test_7_of_two_that_are_asked_for_at_once_one_begins(town: Town) -> None:
    begun = one_of(town, lambda: start(town, "ctl-1"), lambda: start(town, "ctl-2"))
    assert over(town, "ctl-3", begun)["outcome"] == "done"


def test_8_every_step_is_on_record(town: Town) -> None:
    town["ctl-1"].cli("audit", "verify").done()
    for one in town["ctl-1"].get("/api/rotation")["past"]:
        recorded(town, one)
