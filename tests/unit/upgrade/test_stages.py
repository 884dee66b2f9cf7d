"""Whose turn it is: never two Controllers at once, never the leader first, never more failures than the budget."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.upgrade import stages
from fairlead.upgrade.stages import Member, Upgrade, amount, hands_over, step

NOW = 1_700_000_000 * SECOND
OLD, NEW = "1.0.0", "1.1.0"


def upgrade(phase: stages.Phase = "distribute", **more: Any) -> Upgrade:
    made = Upgrade("1", "jane", NOW, NEW, OLD, phase, NOW, sha256="a" * 64, size=7, told_at=NOW)
    return replace(made, **more)


def nodes(controllers: int, engines: int, **more: Any) -> dict[str, Member]:
    found = [Member(f"c{n}", f"ctl-{n}", "controller", OLD, **more) for n in range(1, controllers + 1)]
    found += [Member(f"e{n:02d}", f"se-{n:02d}", "engine", OLD) for n in range(1, engines + 1)]
    return {one.id: one for one in found}


class World:
    """Nodes that do what they are told, and a leader that may change."""

    def __init__(self, controllers: int, engines: int, one: Upgrade) -> None:
        self.seen, self.one, self.now = nodes(controllers, engines), one, NOW
        if one.back:
            self.seen = {key: replace(member, version=one.before) for key, member in self.seen.items()}
        self.leader = "c1"
        self.order: list[str] = []
        self.bad: set[str] = set()
        self.most: dict[int, int] = {}

    def turn(self, seconds: float = 1.0) -> None:
        self.now += round(seconds * SECOND)
        after = step(self.one, self.seen, self.leader, self.now)
        if after is not None:
            for node_id in set(after.current) - set(self.one.current):
                self.order.append(node_id)
            self.one = after
        if hands_over(self.one, self.seen, self.leader):
            self.leader = next(key for key, one in self.seen.items() if one.role == "controller" and key != self.leader)

    def obey(self, node_id: str) -> None:
        """One step of what that node has to do."""
        one, member = self.one, self.seen[node_id]
        if one.phase == "distribute" and member.role == "controller" and member.state == "":
            self.seen[node_id] = replace(member, state="verified")
        elif stages.told(one, node_id, member.role) or member.state in ("switching", "trial"):
            match member.state:
                case "" | "verified":
                    self.seen[node_id] = replace(member, state="switching", online=False)
                case "switching":
                    self.seen[node_id] = replace(member, state="trial", version=one.version, online=True)
                case "trial" if node_id in self.bad:
                    self.seen[node_id] = replace(member, state="back", version=one.before, why="it does not join")
                case "trial":
                    self.seen[node_id] = replace(member, state="done")
                case _:
                    pass

    def restarting(self, role: str) -> list[str]:
        return [key for key, one in self.seen.items() if one.role == role and one.state in ("switching", "trial")]

    def run(self, turns: int = 400) -> Upgrade:
        for _ in range(turns):
            if self.one.phase == "over":
                break
            self.turn()
            for node_id in list(self.seen):
                self.obey(node_id)
        return self.one


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_comes_when_the_order_is_kept(data: st.DataObject) -> None:
    back = data.draw(st.booleans())
    one = upgrade("engines" if back else "distribute", batch=data.draw(st.sampled_from(["1", "3", "50%"])),
                  budget=data.draw(st.sampled_from(["0", "1", "2"])))
    if back:
        one = replace(one, back=True, version=OLD, before=NEW)
    world = World(data.draw(st.sampled_from([1, 2, 3, 5])), data.draw(st.integers(0, 7)), one)
    world.bad = data.draw(st.sets(st.sampled_from([key for key in world.seen if key[0] == "e"]), max_size=4)
                          if any(key[0] == "e" for key in world.seen) else st.just(set[str]()))
    budget, failed = int(one.budget), 0
    for _ in range(300):
        if world.one.phase == "over":
            break
        before = world.one
        world.turn(data.draw(st.sampled_from([0.5, 1.0, 3.0])))
        started = set(world.one.current) - set(before.current)
        for node_id in started:
            member = world.seen[node_id]
            if member.role == "controller":
                others = [m for m in world.seen.values() if m.role == "controller" and m.id != node_id]
                assert all(m.online and m.well for m in others), "a majority is there"
                assert node_id != world.leader or not others, "the leader has handed over"
                if not back:
                    assert not [m for m in world.seen.values() if m.role == "engine" and m.version == NEW]
            else:
                assert failed <= (budget if world.one.batches > 2 else 0)
        assert len(world.restarting("controller")) <= 1
        assert not (world.restarting("controller") and world.restarting("engine"))
        for node_id in data.draw(st.permutations(list(world.seen))):
            if data.draw(st.booleans()):
                world.obey(node_id)
        failed = sum(m.state == "back" for m in world.seen.values())
        if data.draw(st.integers(0, 20)) == 0:  # another leads
            leader = data.draw(st.sampled_from([key for key in world.seen if key[0] == "c"]))
            if world.seen[leader].online and leader not in world.one.current:
                world.leader = leader
    if world.one.phase == "over" and world.one.outcome == "done":
        running = {m.version for m in world.seen.values() if m.id not in world.one.failed}
        assert running == {one.version}
        assert len(world.one.failed) <= budget


def test_followers_the_leader_engines() -> None:
    world = World(3, 3, upgrade())
    done = world.run()
    assert done.outcome == "done"
    assert world.order == ["c2", "c3", "c1", "e01", "e02", "e03"]


def test_back_it_is_engines_followers_the_leader() -> None:
    world = World(3, 2, upgrade("engines", back=True, version=OLD, before=NEW))
    assert world.run().outcome == "done"
    assert world.order == ["e01", "e02", "c2", "c3", "c1"]


def test_nobody_restarts_before_every_controller_has_the_image() -> None:
    world = World(3, 1, upgrade())
    world.obey("c1")
    world.obey("c2")
    world.turn()
    assert world.one.phase == "distribute"
    world.seen["c3"] = replace(world.seen["c3"], state="failed", why="the disk is full")
    world.turn()
    world.turn()
    assert (world.one.phase, world.one.outcome, world.order) == ("over", "halted", [])
    assert "ctl-3: the disk is full" in world.one.why


def test_a_controller_that_is_away_or_unwell_keeps_the_others_from_restarting() -> None:
    world = World(3, 0, upgrade("controllers"))
    world.seen["c3"] = replace(world.seen["c3"], well=False)
    world.turn()
    assert world.one.current == ()
    world.turn(stages.PATIENCE_S + 1)
    assert (world.one.phase, world.one.why) == ("halting", "ctl-3: its member of the store is not well")


def test_engines_by_label_and_the_first_alone() -> None:
    world = World(1, 6, upgrade("engines", labels=("site=a", "site=b"), batch="2", pause_s=10))
    world.seen["c1"] = replace(world.seen["c1"], version=NEW)
    for node_id, label in {"e05": "site=a", "e06": "site=a", "e03": "site=b"}.items():
        world.seen[node_id] = replace(world.seen[node_id], labels=frozenset([label]))
    batches: list[tuple[tuple[str, ...], int, int]] = []
    for _ in range(200):
        world.turn()
        if world.one.current and (not batches or batches[-1][1] != world.one.batches):
            batches.append((world.one.current, world.one.batches, world.now))
        for node_id in list(world.seen):
            world.obey(node_id)
    assert [one for one, *_ in batches] == [("e05",), ("e06",), ("e03",), ("e01", "e02"), ("e04",)]
    assert all(later - earlier >= 10 * SECOND for (*_, earlier), (*_, later) in itertools.pairwise(batches))


def test_the_first_failure_ends_it_when_nothing_else_was_said() -> None:
    world = World(1, 4, upgrade("engines", batch="2"))
    world.seen["c1"] = replace(world.seen["c1"], version=NEW)
    world.bad = {"e01"}
    done = world.run()
    assert (done.outcome, world.order, done.failed) == ("halted", ["e01"], {"e01": "it does not join"})
    assert done.why == "1 failed, 0 may: se-01: it does not join"


def test_within_its_budget_it_goes_on_and_names_who_failed() -> None:
    world = World(1, 6, upgrade("engines", batch="2", budget="1"))
    world.seen["c1"] = replace(world.seen["c1"], version=NEW)
    world.bad = {"e03"}
    done = world.run()
    assert (done.outcome, list(done.failed)) == ("done", ["e03"])


def test_a_failure_in_the_first_batch_counts_whatever_the_budget() -> None:
    world = World(1, 3, upgrade("engines", budget="3"))
    world.seen["c1"] = replace(world.seen["c1"], version=NEW)
    world.bad = {"e01"}
    assert world.run().outcome == "halted"


def test_who_is_away_is_named_and_not_waited_for_but_for_a_moment() -> None:
    world = World(1, 2, upgrade("engines"))
    world.seen["c1"] = replace(world.seen["c1"], version=NEW)
    world.seen["e02"] = replace(world.seen["e02"], online=False)
    for _ in range(8):
        world.turn()
        world.obey("e01")
    assert world.one.phase == "engines", "it may be coming back"
    done = world.run()
    assert (done.outcome, done.away, world.order) == ("done", ("se-02",), ["e01"])


def test_who_was_told_and_does_not_come_back_has_failed() -> None:
    world = World(1, 1, upgrade("engines", patience_s=60))
    world.seen["c1"] = replace(world.seen["c1"], version=NEW)
    world.turn()
    world.seen["e01"] = replace(world.seen["e01"], state="switching", online=False)
    world.turn(61)
    assert world.one.failed == {"e01": "it is not connected since it was told (switching)"}


def test_called_off_nobody_new_begins_and_who_is_under_way_ends() -> None:
    world = World(1, 3, upgrade("engines", current=("e01", "e02"), batches=2))
    world.seen["e01"] = replace(world.seen["e01"], state="trial", version=NEW)
    world.one = stages.aborted(world.one, "jane", world.now)
    world.turn()
    assert world.one.current == ("e01",), "the other has not begun"
    assert not stages.told(world.one, "e02", "engine")
    world.seen["e01"] = replace(world.seen["e01"], state="", online=False)
    world.turn()
    assert world.one.current == ("e01",), "it is being started anew"
    world.seen["e01"] = replace(world.seen["e01"], state="trial", online=True)
    world.obey("e01")
    world.turn()
    assert (world.one.phase, world.one.outcome, world.one.why) == ("over", "aborted", "called off by jane")


@pytest.mark.parametrize(("text", "of", "many"), [("5", 100, 5), ("10%", 100, 10), ("10%", 3, 1), ("100%", 7, 7)],
                         ids=str)
def test_amounts(text: str, of: int, many: int) -> None:
    assert amount(text, of, least=1) == many


@pytest.mark.parametrize("text", ["", "-1", "1.5", "101%", "0", "0%", "ten", "1\n", "9999999"], ids=ascii)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(Refused, match="no number of nodes"):
        amount(text, 10, least=1)


def test_it_is_kept_as_it_is() -> None:
    one = upgrade("engines", labels=("a=b",), failed={"e1": "x"}, steps=(stages.Step("distribute", NOW),))
    assert stages.decode(stages.encode(one)) == one
    seen: Mapping[str, Member] = {}
    assert step(replace(one, phase="over"), seen, "c1", NOW) is None
