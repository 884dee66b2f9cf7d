"""What is open at an engine, at all Controllers: none that is silent is taken for one that has nothing."""

from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.fleet.answering import Answering
from fairlead.fleet.draining import Draining
from tests.unit.fleet.ring import CTL_3, Ring
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1, SE_2
from tests.world import refusal


@pytest.fixture
def ring() -> Ring:
    return Ring()


def draining(ring: Ring) -> dict[str, Draining]:
    """At ctl-1 two streams of se-1 and one of se-2, at ctl-2 three, at ctl-3 none."""
    made = {}
    for one, counts in ((CTL_1, [(SE_1, 2), (SE_2, 1)]), (CTL_2, [(SE_1, 1), (SE_1, 2)]), (CTL_3, [])):
        here: Any = SimpleNamespace(tunnels=[SimpleNamespace(streams=count, peer=SimpleNamespace(node_id=engine.id))
                                             for engine, count in counts])
        made[one.name] = Draining(ring.directory, here, ring.others(one))
        directory: Any = ring.directory
        nothing: Any = None
        ring.answers[one.name] = Answering(directory, nothing, nothing, made[one.name]).answer
    return made


async def test_streams_are_counted_at_all_controllers(ring: Ring) -> None:
    made = draining(ring)
    for at in made:
        assert await made[at].streams("se-1") == {"streams": 5, "unheard": []}
        assert await made[at].streams("se-2") == {"streams": 1, "unheard": []}


async def test_who_does_not_say_is_named(ring: Ring) -> None:
    made = draining(ring)
    ring.silent.add("ctl-2")
    assert await made["ctl-1"].streams("se-1") == {"streams": 2, "unheard": ["ctl-2"]}


async def test_only_engines_are_drained(ring: Ring) -> None:
    made = draining(ring)
    for name in ("ctl-1", "nobody"):
        assert await refusal(made["ctl-1"].streams(name)) == "FL-NODE-UNKNOWN"
    for fields in ({"engine": CTL_1.id}, {"engine": "x"}, {}):
        answer: Any = ring.answers["ctl-1"](CTL_2, "engine-streams", fields)
        assert await refusal(answer) in ("FL-NODE-UNKNOWN", "FL-PEER-QUESTION")
