"""The root CA changes while the leader is killed, in each phase."""

from collections.abc import Iterator

import pytest

from tests.netns.controllers import Town, cluster
from tests.netns.root_ca import NAMES, root, start, well
from tests.netns.rotations import PHASES, led_on

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=len(NAMES)) as made:
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    with well(town):
        yield


@pytest.mark.parametrize("phase", PHASES)
def test_the_leader_is_killed_in_each_phase(town: Town, phase: str) -> None:
    before = root(town)
    done = led_on(town, phase, lambda at: start(town, at, patience_s=60))
    assert (root(town) != before) == (done["outcome"] == "done")
