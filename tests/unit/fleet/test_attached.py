"""Engines that are connected to some Controller: waited for wherever they are, asked for only if they are not here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fairlead.fleet.attached import Attached, Whereabouts
from fairlead.fleet.trusting import TOO_OLD
from fairlead.link.attached import STANDING
from fairlead.nodes.node import Node
from tests.unit.fleet.ring import Ring
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1, SE_2, node

LATE = "it has not acknowledged the trust statement"


@dataclass
class Here:
    """What one Controller has connected."""

    links: list[str] = field(default_factory=list)
    late: dict[str, str] = field(default_factory=dict)
    old: frozenset[str] = frozenset()
    skew_s: float = 0.0

    def linked(self, ability: str) -> list[str]:
        assert not ability
        return self.links

    def behind(self, number: int) -> Mapping[str, str]:
        return self.late

    def too_old(self) -> frozenset[str]:
        return self.old

    def standing(self, one: Node) -> Any:
        return SimpleNamespace(skew_s=self.skew_s)


def attached(ring: Ring, me: Node, here: Here) -> Attached:
    one = Attached(here, here, ring.directory, ring.others(me))
    ring.answers[me.name] = one.answer
    return one


async def test_a_fleet_that_is_whole_costs_no_question() -> None:
    ring = Ring()
    attached(ring, CTL_2, Here())
    one = attached(ring, CTL_1, Here([SE_1.id, SE_2.id], {SE_2.id: LATE}))
    assert await one.look(9) == Whereabouts({SE_2.name: LATE}, {}, {SE_1.name: 0, SE_2.name: 0}, [])
    assert ring.asked == []


async def test_an_engine_that_is_connected_elsewhere_only_is_waited_for_and_named() -> None:
    ring = Ring()
    attached(ring, CTL_2, Here([SE_1.id, SE_2.id], {SE_2.id: LATE}, frozenset({SE_2.id}), 3.0))
    one = attached(ring, CTL_1, Here([SE_1.id]))
    assert await one.look(9) == Whereabouts({SE_2.name: LATE}, {SE_2.name: TOO_OLD},
                                            {SE_1.name: 0, SE_2.name: 3_000_000}, [], ["ctl-3"])
    assert ring.asked == [("ctl-1", "ctl-2", STANDING), ("ctl-1", "ctl-3", STANDING)]


async def test_who_is_connected_nowhere_is_away_and_who_is_removed_is_nothing() -> None:
    ring = Ring()
    gone = node("se-3", state="removed")
    ring.directory.nodes[gone.id] = gone
    attached(ring, CTL_2, Here())
    found = await attached(ring, CTL_1, Here()).look(9)
    assert found == Whereabouts(away=[SE_1.name, SE_2.name], silent=["ctl-3"])


async def test_what_one_controller_has_heard_is_enough() -> None:
    ring = Ring()
    ctl_3 = next(one for one in ring.directory.controllers() if one.name == "ctl-3")
    attached(ring, CTL_2, Here([SE_1.id], {SE_1.id: LATE}))
    attached(ring, ctl_3, Here([SE_1.id]))
    one = attached(ring, CTL_1, Here())
    assert (await one.look(9)).behind == {}
    assert (await one.look(9)).silent == []
    ring.silent.add("ctl-3")
    assert await one.look(9) == Whereabouts({SE_1.name: LATE}, {}, {SE_1.name: 0}, [SE_2.name], ["ctl-3"]), (
        "what it has heard may be that nobody is late")


async def test_of_engines_that_are_connected_here_another_controller_says_nothing() -> None:
    ring = Ring()
    one = attached(ring, CTL_1, Here([SE_1.id], {SE_1.id: LATE}))

    async def lies(asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        assert fields == {"number": 9, "nodes": [SE_2.id]}
        return {"here": [SE_1.id], "behind": {SE_2.id: "?"}, "old": [SE_1.id], "skews": {SE_1.id: 10**9, SE_2.id: 1}}

    ring.answers["ctl-2"] = lies
    assert await one.look(9) == Whereabouts({SE_1.name: LATE}, {}, {SE_1.name: 0}, [SE_2.name], ["ctl-3"])
