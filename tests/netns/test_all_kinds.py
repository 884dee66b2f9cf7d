"""Three Controllers and twenty engines, 70 ms away: each kind of certificate and key changes while everything goes on.

A numbered stream runs through a tunnel of each engine, somebody writes, and tokens are redeemed (`life`). Afterwards no
byte was lost, all links are there, no node trusts anything of before, and every step is on record. The clock of one
engine is an hour ahead. What is done to rotations in each phase is in the files of the kinds, with fewer engines.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fairlead.base.clock import SystemClock
from fairlead.client.control import ControlClient
from fairlead.enrol.trust import USER_KEY, load, load_key
from fairlead.link.messages import Plan
from fairlead.mesh.dialling import dialling
from fairlead.rotation.phases import KINDS
from fairlead.transport.way import Stock
from tests.netns.controllers import Town, cluster
from tests.netns.life import life
from tests.netns.passages import Passage, passages, streaming
from tests.netns.rotations import ALL, bring, one_of, over, recorded, start
from tests.netns.trusted import everything, until_replaced
from tests.processes import until
from tests.world import refusal

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

ENGINES = int(os.environ.get("FAIRLEAD_TEST_ENGINES", "20"))
NAMES = [f"se-{number}" for number in range(1, ENGINES + 1)]
CLOCK = Path(__file__).parent / "clock"
ODD, SLEEPER, ROBBED = "se-2", "se-3", "se-4"
"""Engines: its clock is an hour ahead; it is off for a while; a thief has been at its disk."""
PATIENCE_S = 60


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "clock").write_text("3600")

    def around(name: str) -> Sequence[str]:
        return ["env", f"PYTHONPATH={CLOCK}", f"WALL_CLOCK={folder / 'clock'}"] if name == ODD else []

    with cluster(folder, controllers=3, engines=ENGINES, around=around) as made:
        bring(made, folder / "pki")
        yield made


@pytest.fixture(scope="module")
def ways(town: Town) -> Iterator[list[Passage]]:
    with passages(town, ALL, NAMES) as made:
        yield made


@pytest.fixture(autouse=True)
def _well(town: Town) -> Iterator[None]:
    """Nobody is stranded."""
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)
    yield
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)


def planned(town: Town, kind: str) -> dict[str, str]:
    """Who would be stranded."""
    asking = ControlClient(town["ctl-1"].state, 60.0)
    stranded: dict[str, str] = asking.get("/api/rotation/plan", kind=kind)["stranded"]
    return stranded


@pytest.mark.parametrize("kind", KINDS)
def test_1_each_changes_while_everything_goes_on(town: Town, ways: list[Passage], kind: str) -> None:
    nodes = [*ALL, *NAMES]
    before = everything(town, kind, nodes)
    downs = {name: len(town[name].events("link.down")) for name in NAMES}
    assert planned(town, kind) == {}
    with life(town, kind, at=ALL), streaming(town, ways):
        done = over(town, "ctl-1", start(town, "ctl-2", kind, patience_s=PATIENCE_S))
        assert (done["outcome"], done["why"], done["behind"]) == ("done", "", {})
        until_replaced(town, kind, before)
    assert {name: len(town[name].events("link.down")) for name in NAMES} == downs, "every link stood"
    recorded(town, done)


def test_2_an_engine_that_was_off_during_all_of_them_comes_back_and_a_thief_does_not(town: Town) -> None:
    """Of those that are asked for at once, one begins; whoever has an engine's key of before has nothing."""
    nodes = [*ALL, *NAMES]
    before = {kind: everything(town, kind, nodes) for kind in KINDS}
    thief = town.site.folder / "thief"
    shutil.copytree(town[ROBBED].state, thief, ignore=shutil.ignore_patterns("control.sock", ".*", "host"))
    with town.net.hosts[ROBBED].inside():
        asyncio.run(came_in(town[ROBBED].state, thief))
    town[SLEEPER].stop()
    until(lambda: town["ctl-1"].node(SLEEPER)["state"] == "down", "it is seen to be gone")
    left = list(KINDS)
    while left:
        begun = one_of(town, *(lambda kind=kind, at=at: start(town, at, kind, patience_s=PATIENCE_S)
                         for kind, at in zip([*left, *left], ALL, strict=False)))
        left.remove(begun["kind"])
        done = over(town, "ctl-1", begun)
        assert (done["outcome"], done["why"]) == ("done", ""), done
        recorded(town, done)
    town[SLEEPER].start()
    town.until_up([SLEEPER], ALL)
    for kind in KINDS:
        until_replaced(town, kind, before[kind])
    with town.net.hosts[ROBBED].inside():
        assert asyncio.run(refusal(came_in(town[ROBBED].state, thief))) == "FL-SSH-REFUSED"


async def came_in(state: Path, thief: Path) -> None:
    """As the engine with that *state*, which knows the Controllers, with the *thief*'s key. Raises FairleadError."""
    plan = Plan.model_validate_json((state / "plan.json").read_bytes())
    with closing(Stock()) as way:
        held = load_key(thief, USER_KEY)
        tunnel = await dialling(load(state).user, lambda: [held], 15.0, SystemClock(), way)(
            plan.controllers[0], plan.controllers[0].addresses[0])
        tunnel.close("enough")


def test_3_the_records_are_whole(town: Town) -> None:
    for name in ALL:
        town[name].cli("audit", "verify").done()
