"""The root CA changes while a follower is cut off, in each phase."""

from collections.abc import Iterator

import pytest

from tests.netns.controllers import Town, cluster
from tests.netns.root_ca import NAMES, root, start, well
from tests.netns.rotations import PHASES, patience, went_on_without

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
def test_a_follower_is_cut_off_in_each_phase(town: Town, phase: str) -> None:
    """It turns the rotation back; or it finds back by itself, also where the others believe the new root only."""
    before = root(town)
    done = went_on_without(town, phase, lambda at: start(town, at, patience_s=patience(phase)))
    assert (root(town) != before) == (done["outcome"] == "done")
