"""Three Controllers and engines: certificates and keys change while the disk of one node is full.

Whoever has no room says so, is waited for, and turns the rotation back when patience ends; with room again he goes on
from there. A writer, somebody who redeems tokens and a stream go on at the others all the while (`life`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from fairlead.rotation.phases import KINDS
from tests.netns.controllers import Town, cluster
from tests.netns.disks import disk, full
from tests.netns.life import life
from tests.netns.rotations import ALL, bring, nothing_is_under_way, over, recorded, start
from tests.netns.trusted import everything, until_replaced
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

NAMES = ["se-1", "se-2"]
SMALL = "se-2"
"""The engine whose disk is filled."""
SMALL_MB = 8


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as after:
        for name in ALL:
            after.enter_context(disk(folder / name))
        after.enter_context(disk(folder / SMALL, SMALL_MB))
        made = after.enter_context(cluster(folder, controllers=3, engines=len(NAMES)))
        bring(made, folder / "pki")
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)
    yield
    nothing_is_under_way(town)


def behind(town: Town, at: str, name: str) -> str:
    """What that node lacks, as the rotation that is under way has it."""
    current: dict[str, Any] | None = town[at].get("/api/rotation")["current"]
    return str(current["behind"].get(name, "")) if current is not None else ""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "api"])
def test_1_an_engine_whose_disk_is_full_turns_it_back_or_is_waited_for(town: Town, kind: str) -> None:
    before = everything(town, kind, [*ALL, *NAMES])
    with life(town, f"engine-{kind}", at=ALL, stream_to="ctl-2"):
        with full(town[SMALL]):
            done = over(town, "ctl-1", start(town, "ctl-2", kind, patience_s=5))
            assert done["outcome"] == "rolled-back", done
            assert SMALL in done["why"]
            assert "space" in done["why"]
            recorded(town, done)
            begun = start(town, "ctl-2", kind, patience_s=60)
            until(lambda: "space" in behind(town, "ctl-1", SMALL), "it is waited for, and says why")
        done = over(town, "ctl-1", begun)
        assert done["outcome"] == "done", done
    until_replaced(town, kind, before)


@pytest.mark.parametrize("kind", KINDS)
def test_2_a_follower_whose_disk_is_full_is_waited_for(town: Town, kind: str) -> None:
    leader = town.until_led("ctl-1")
    filled, other = (name for name in ALL if name != leader)
    before = everything(town, kind, [*ALL, *NAMES])
    with life(town, f"follower-{kind}", at=[leader, other], stream_to=other):
        with full(town[filled]):
            until(lambda: any("FL-ETCD" in line for line in town[filled].get("/api/status")["problems"]), "it says so")
            begun = start(town, other, kind, patience_s=60)
            if kind != "api":  # for which nothing has to be written down there
                until(lambda: behind(town, other, filled), "it is waited for")
        done = over(town, other, begun)
        assert done["outcome"] == "done", done
        town.until_well(*ALL)
    recorded(town, done)
    until_replaced(town, kind, before)
