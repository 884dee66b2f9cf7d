"""Three Controllers and engines, 70 ms away: the root CA changes, members of the store are restarted one after the
other, and everybody writes, joins and streams all the while.

A writer, somebody who redeems tokens and a stream go on and are judged at the end of each story (`life`).
"""

from collections.abc import Iterator

import pytest

from fairlead.client.control import ControlClient
from tests.netns.controllers import Town, cluster
from tests.netns.life import life
from tests.netns.root_ca import NAMES, root, start, well
from tests.netns.rotations import ALL, PHASES, called_off, over
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

GAP_S = 5.0
"""The longest time without a write: a change of leader, on a machine that is busy with other tests."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=len(NAMES)) as made:
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    with well(town):
        yield


def test_1_everything_is_signed_anew_while_everybody_writes(town: Town) -> None:
    before = root(town)
    with life(town, "rotated", at=ALL, stream_to="ctl-2") as seen:
        done = over(town, "ctl-1", start(town, "ctl-2"))
    assert (done["outcome"], done["why"]) == ("done", "")
    assert root(town) != before
    assert seen.longest_s < GAP_S, seen
    for name in ALL:
        assert len(town[name].events("etcd.restart")) == 2  # for both roots, and for the new one only
        assert not [line for line in town[name].get("/api/status")["problems"] if "etcd" in line]


def test_2_a_controller_that_was_off_all_the_time_comes_back(town: Town) -> None:
    """Its member knows the retired root only, and no other member lets it in."""
    away = next(name for name in ALL if name != town.until_led("ctl-1"))
    rest = [name for name in ALL if name != away]
    town[away].stop()
    asked = ControlClient(town[rest[0]].state, 60.0)
    until(lambda: away in asked.get("/api/rotation/plan", kind="root-ca")["stranded"], "the plan names it")
    for _ in range(2):
        before = root(town, rest[0])
        assert over(town, rest[0], start(town, rest[0], force=[away]))["outcome"] == "done"
        assert root(town, rest[0]) != before
    town[away].start()
    town.until_well(*ALL)


@pytest.mark.parametrize("phase", PHASES)
def test_3_it_is_called_off_in_each_phase(town: Town, phase: str) -> None:
    before = root(town)
    done = called_off(town, phase, lambda at: start(town, at))
    assert (root(town) != before) == (done["outcome"] == "done")
