"""What this Controller saw of its engines: each change once, in one sweep, and nobody's at another's expense."""

from dataclasses import replace

from structlog.testing import capture_logs

from fairlead.fleet.changes import MOST, MOST_LINES, Changes
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from tests.unit.fleet.test_sessions import NoStore
from tests.unit.nodes.test_policy import CTL_1, SE_1, SE_2
from tests.world import ManualClock, denied


class Fleet:
    """Engines that are as the test says."""

    def __init__(self, *engines: Node) -> None:
        self.clock = ManualClock()
        self.directory = Directory(NoStore())
        self.directory.nodes = {node.id: node for node in (CTL_1, *engines)}
        self.now: dict[str, str] = {}
        self.seconds = 0.0
        self.changes = Changes(self.directory, self, self.clock)

    def state(self, node: Node) -> str:
        return self.now.get(node.name, "down")

    async def sweep(self, after_s: float = 1.0, **states: str) -> None:
        self.seconds += after_s
        self.clock.set(self.seconds)
        self.now |= {name.replace("_", "-"): state for name, state in states.items()}
        await self.changes.sweep()

    def of(self, name: str) -> list[str]:
        return [change["state"] for change in self.changes.of(name)]


async def test_each_change_is_kept_and_told_once_with_what_was_before() -> None:
    fleet = Fleet(SE_1, SE_2)
    with capture_logs() as said:
        await fleet.sweep()
        assert fleet.of("se-1") == [], "nobody has seen it yet: that it is not here is no news"
        for state in ("up", "up", "late", "late", "down", "up"):
            await fleet.sweep(se_1=state)
    assert fleet.of("se-1") == ["up", "down", "late", "up"]
    assert [change["before"] for change in fleet.changes.of("se-1")] == ["down", "late", "up", "down"]
    assert fleet.of("se-2") == fleet.of("ctl-1") == []
    assert [(one["event"], one["engine"]) for one in said] == [
        ("engine.up", "se-1"), ("engine.late", "se-1"), ("engine.down", "se-1"), ("engine.up", "se-1")]
    assert denied(lambda: fleet.of("nobody")) == "FL-NODE-UNKNOWN"


async def test_attack_an_engine_that_comes_and_goes_pushes_nobody_elses_changes_out() -> None:
    fleet = Fleet(SE_1, SE_2)
    await fleet.sweep(se_1="up")
    for number in range(100):
        await fleet.sweep(se_2=("up", "down")[number % 2])
    assert len(fleet.of("se-2")) == MOST
    assert fleet.of("se-1") == ["up"]


async def test_a_fleet_that_comes_at_once_is_one_line_of_the_log() -> None:
    many = [replace(SE_1, id=f"id-{number}", name=f"e{number}") for number in range(MOST_LINES + 1)]
    fleet = Fleet(*many)
    await fleet.sweep()
    with capture_logs() as said:
        fleet.now = {node.name: "up" for node in many}
        await fleet.sweep()
    assert [(one["event"], one["up"], len(one["first"])) for one in said] == [
        ("engines.changed", MOST_LINES + 1, MOST_LINES)]
    assert all(fleet.of(node.name) == ["up"] for node in many)


async def test_a_controller_that_stood_still_calls_nobody_late_before_it_has_looked_again() -> None:
    fleet = Fleet(SE_1)
    await fleet.sweep(se_1="up")
    await fleet.sweep(60.0, se_1="late")
    assert fleet.of("se-1") == ["up"]
    await fleet.sweep(se_1="late")
    assert fleet.of("se-1") == ["late", "up"]


async def test_of_who_is_removed_nothing_is_kept() -> None:
    fleet = Fleet(SE_1, SE_2)
    await fleet.sweep(se_1="up", se_2="up")
    del fleet.directory.nodes[SE_1.id]
    await fleet.sweep()
    assert not fleet.changes._changes.keys() - {SE_2.id}
    assert denied(lambda: fleet.of("se-1")) == "FL-NODE-UNKNOWN"
