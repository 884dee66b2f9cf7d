"""The leader drives: each step once, whoever leads; what is refused before it begins."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.audit.log import AuditLog
from fairlead.base.errors import FairleadError, Refused
from fairlead.cluster.undertaking import Ledger
from fairlead.rotation.driver import NOW as ROTATION
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import Absent, Delete, Put
from fairlead.store.sqlite import SQLiteStore
from fairlead.upgrade import stages
from fairlead.upgrade.driver import KIND, NOW, WANTED, Driver, Image, Wish
from fairlead.upgrade.stages import Member, Upgrade
from tests.world import ManualClock

IMAGE = Image("image-1", "1.1.0", "1.0.0", ("controller", "engine"), "a" * 64, 1000)


class House:
    """Three Controllers and engines that follow the record; each Controller may lead."""

    def __init__(self, store: SQLiteStore, clock: ManualClock, engines: int = 2) -> None:
        self.store, self.clock, self.image = store, clock, IMAGE
        nodes = [Member(f"c{n}", f"ctl-{n}", "controller", "1.0.0") for n in (1, 2, 3)]
        nodes += [Member(f"e{n}", f"se-{n}", "engine", "1.0.0") for n in range(1, engines + 1)]
        self.nodes = {one.id: one for one in nodes}
        self.previous = dict.fromkeys(self.nodes, "")
        self.leader = "c1"
        self.order: list[str] = []
        self.ledger = Ledger(store, KIND, stages.encode, stages.decode)
        self.drivers = {node_id: self.controller(node_id) for node_id in ("c1", "c2", "c3")}

    def controller(self, node_id: str) -> Driver:
        def fence() -> Sequence[Any]:
            if self.leader != node_id:
                raise NotLeading(self.leader)
            return ()

        async def hand_over() -> None:
            self.leader = next(one for one in ("c2", "c3", "c1") if one != node_id)

        name = f"ctl-{node_id[1:]}"
        return Driver(self.store, AuditLog(self.store, name), fence, lambda: self.leader == node_id, name, node_id,
                      fleet=self, images=self, hand_over=hand_over)

    @property
    def driver(self) -> Driver:
        return self.drivers[self.leader]

    async def find(self, name: str) -> Image:
        if name != self.image.uuid:
            raise Refused("FL-UPGRADE-IMAGE", "no")
        return self.image

    async def seen(self, upgrade: Upgrade | None) -> Mapping[str, Member]:
        if upgrade is None:
            return {key: replace(one, state="") for key, one in self.nodes.items()}
        return dict(self.nodes)

    def way_back(self, node_id: str) -> str:
        return self.previous[node_id]

    async def now(self) -> Upgrade | None:
        current = await self.ledger.current()
        return current[1] if current is not None else None

    async def start(self, **wish: Any) -> Upgrade:
        return await self.driver.start("image-1", Wish(**wish), "jane")

    async def follow(self, one: Upgrade, *, fails: frozenset[str]) -> None:
        """Every node takes a step, as it would."""
        for node_id, member in list(self.nodes.items()):
            if one.phase == "distribute" and member.role == "controller":
                self.nodes[node_id] = replace(member, state="verified")
            elif stages.told(one, node_id, member.role) and member.state in ("", "verified"):
                self.order.append(node_id)
                if node_id in fails:
                    self.nodes[node_id] = replace(member, state="back", why="no tunnel")
                else:
                    self.nodes[node_id] = replace(member, state="done", version=one.version)
                    self.previous[node_id] = one.before

    async def run(self, *, fails: frozenset[str] = frozenset(), deposed_at: int = -1) -> Upgrade:
        for turn in range(60):
            one = await self.now()
            if one is None:
                return (await self.ledger.past())[0]
            await self.follow(one, fails=fails)
            if turn == deposed_at:
                self.leader = "c2" if self.leader == "c1" else "c1"
            self.drivers[self.leader] = self.controller(self.leader)  # as after a crash
            self.clock.set(2 * turn)
            await self.driver.drive()
        raise AssertionError("it does not end")

    async def events(self) -> list[str]:
        return [record.event for chain in (await AuditLog(self.store, "ctl-1").chains()).values() for record in chain]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = ManualClock()
    store = SQLiteStore.open(tmp_path / "store.sqlite", clock)
    yield House(store, clock)
    await store.close()


async def test_it_goes_through_all_of_it(house: House) -> None:
    await house.start()
    done = await house.run()
    assert (done.outcome, done.before) == ("done", "1.0.0")
    assert house.order == ["c2", "c3", "c1", "e1", "e2"]
    assert house.leader != "c1", "it has handed over"
    wanted = await house.store.get(WANTED)
    assert wanted is not None
    assert stages.decode(wanted.value).version == "1.1.0"
    events = await house.events()
    assert {"upgrade.distribute", "upgrade.controllers", "upgrade.engines", "upgrade.over", "upgrade.turn"} <= {*events}


@pytest.mark.parametrize("turn", range(10), ids=lambda turn: f"turn {turn}")
async def test_another_leader_goes_on_wherever_it_is(house: House, turn: int) -> None:
    await house.start()
    done = await house.run(deposed_at=turn)
    assert done.outcome == "done"
    assert {one.version for one in house.nodes.values()} == {"1.1.0"}
    assert len(house.order) == len(set(house.order)) == 5, "nobody changes twice"
    assert max(map(house.order.index, ("c1", "c2", "c3"))) == 2, "engines come last"


async def test_of_two_that_believe_they_lead_one_writes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.start()
    for node_id in ("c1", "c2", "c3"):
        house.nodes[node_id] = replace(house.nodes[node_id], state="verified")
    old, new = house.controller("c1"), house.controller("c2")
    monkeypatch.setattr(old, "_fence", lambda: ())
    monkeypatch.setattr(new, "_fence", lambda: ())
    outcomes = await asyncio.gather(old.drive(), new.drive(), return_exceptions=True)
    now = await house.now()
    assert now is not None
    assert len(now.steps) == 2
    assert sum(isinstance(one, NotLeading) for one in outcomes) <= 1


async def test_who_leads_no_more_writes_nothing(house: House) -> None:
    await house.start()
    house.leader = "c2"
    for node_id in ("c1", "c2", "c3"):
        house.nodes[node_id] = replace(house.nodes[node_id], state="verified")
    with pytest.raises(NotLeading):
        await house.drivers["c1"].drive()


async def test_an_engine_that_fails_halts_it_and_is_named(house: House) -> None:
    await house.start()
    done = await house.run(fails=frozenset(["e1"]))
    assert (done.outcome, done.failed, house.order[-1]) == ("halted", {"e1": "no tunnel"}, "e1")
    assert await house.store.get(WANTED) is None, "nobody follows what has halted"


async def refusal(house: House, code: str, **wish: Any) -> str:
    with pytest.raises(Refused) as refused:
        await house.start(**wish)
    assert refused.value.code == code
    assert await house.store.get(NOW) is None
    return refused.value.message


async def test_who_is_too_old_is_named(house: House) -> None:
    house.image = replace(IMAGE, minimum="1.0.5", version="1.1.0")
    house.nodes["e2"] = replace(house.nodes["e2"], version="1.0.9")
    house.nodes["e1"] = replace(house.nodes["e1"], able=False)
    said = await refusal(house, "FL-UPGRADE-OLD")
    assert said.endswith("too old: ctl-1 (1.0.0), ctl-2 (1.0.0), ctl-3 (1.0.0), se-1 (its software takes no upgrades)")


@pytest.mark.parametrize(("change", "code"), [
    ({"image": {"roles": ("engine",)}}, "FL-UPGRADE-ROLE"), ({"image": {"version": "1.0.0"}}, "FL-UPGRADE-SAME"),
    ({"image": {"version": "0.9.0", "minimum": "0.1.0"}}, "FL-UPGRADE-OLDER"),
    ({"c3": {"online": False}}, "FL-UPGRADE-AWAY"), ({"c3": {"well": False}}, "FL-UPGRADE-AWAY"),
    ({"wish": {"batch": "0"}}, "FL-UPGRADE-AMOUNT"), ({"wish": {"budget": "x"}}, "FL-UPGRADE-AMOUNT"),
    ({"wish": {"pause_s": -1}}, "FL-UPGRADE-PACE"), ({"wish": {"labels": ("a",)}}, "FL-UPGRADE-LABEL"),
    ({"image": {"uuid": "image-2"}}, "FL-UPGRADE-IMAGE")], ids=lambda one: one if isinstance(one, str) else "")
async def test_what_cannot_go_well_does_not_begin(house: House, change: dict[str, Any], code: str) -> None:
    house.image = replace(IMAGE, **change.get("image", {}))
    if "c3" in change:
        house.nodes["c3"] = replace(house.nodes["c3"], **change["c3"])
    await refusal(house, code, **change.get("wish", {}))


async def test_upgrades_and_rotations_exclude_one_another(house: House) -> None:
    await house.store.transact([], [Put(ROTATION, b"{}")])
    assert await refusal(house, "FL-UPGRADE-BUSY") == "a rotation is under way"
    await house.store.transact([], [Delete(ROTATION)])
    await house.start()
    with pytest.raises(Refused, match=r"an upgrade is under way \(to 1.1.0\)"):
        await house.start()


async def test_asked_again_when_the_answer_was_lost_it_is_the_same(house: House) -> None:
    first = await house.driver.start("image-1", Wish(), "jane", name="ab12")
    assert await house.driver.start("image-1", Wish(), "jane", name="ab12") == first


async def test_called_off_it_ends_where_it_is(house: House) -> None:
    await house.start()
    await house.driver.abort("jane")
    done = await house.run()
    assert (done.outcome, done.why, house.order) == ("aborted", "called off by jane", [])
    with pytest.raises(Refused, match="no upgrade is under way"):
        await house.driver.abort("jane")


async def test_back_from_one_that_is_done(house: House) -> None:
    await house.start()
    await house.run()
    house.order.clear()
    for node_id in house.nodes:
        house.nodes[node_id] = replace(house.nodes[node_id], state="")
    begun = await house.driver.back(Wish(), "jane")
    assert (begun.version, begun.before, begun.phase) == ("1.0.0", "1.1.0", "engines")
    assert await house.store.get(WANTED) is None
    done = await house.run()
    assert (done.outcome, {one.version for one in house.nodes.values()}) == ("done", {"1.0.0"})
    assert house.order[:2] == ["e1", "e2"]
    with pytest.raises(Refused, match=r"went back to 1.0.0 already"):
        await house.driver.back(Wish(), "jane")


async def test_back_after_one_that_halted_and_was_applied_again(house: House) -> None:
    await house.start()
    await house.run(fails=frozenset(["e1"]))
    for node_id in house.nodes:
        house.nodes[node_id] = replace(house.nodes[node_id], state="")
    again = await house.start()
    assert (again.version, again.before) == ("1.1.0", "1.0.0")
    await house.run()
    assert (await house.driver.back(Wish(), "jane")).version == "1.0.0"


async def test_asked_for_again_while_the_first_time_is_slow_it_is_the_same(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = await house.driver.start("image-1", Wish(), "jane", name="abc")

    async def nothing(_: str) -> None:
        return None

    monkeypatch.setattr(house.driver._ledger, "named", nothing)
    assert await house.driver.start("image-1", Wish(), "jane", name="abc") == begun
    with pytest.raises(Refused, match="under way"):
        await house.driver.start("image-1", Wish(), "jane", name="def")


async def test_who_leads_no_more_when_it_is_written_says_so_and_not_that_it_is_busy(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.store.transact([], [Put("another leads", b"")])
    monkeypatch.setattr(house.driver, "_fence", lambda: [Absent("another leads")])
    with pytest.raises(NotLeading):
        await house.start()


async def test_back_in_the_midst_of_one_ends_it(house: House) -> None:
    await house.start()
    one = await house.now()
    assert one is not None
    house.nodes["c2"] = replace(house.nodes["c2"], version="1.1.0")
    house.previous["c2"] = "1.0.0"
    await house.driver.back(Wish(), "jane")
    assert [(past.id, past.outcome) for past in await house.ledger.past()] == [(one.id, "aborted")]
    now = await house.now()
    assert now is not None
    assert now.back


async def test_no_way_back_where_a_controller_has_none(house: House) -> None:
    await house.start()
    await house.run()
    house.previous["c2"] = house.previous["e2"] = ""
    with pytest.raises(FairleadError, match=r"1.0.0: ctl-2 \(none\);") as refused:
        await house.driver.back(Wish(), "jane")
    assert refused.value.code == "FL-UPGRADE-PREVIOUS"


@pytest.mark.parametrize("says", ["", "0.9.0"], ids=["none", "another one"])
async def test_attack_no_engine_keeps_the_others_from_going_back(house: House, says: str) -> None:
    """A stolen one, or one that was installed with the new version: it is left where it is, and named."""
    await house.start()
    await house.run()
    house.order.clear()
    house.nodes = {node_id: replace(one, state="") for node_id, one in house.nodes.items()}
    house.previous["e1"] = says
    begun = await house.driver.back(Wish(), "jane")
    assert (begun.left, begun.why) == (("e1",), f"left as they are, with no way back to 1.0.0: se-1 ({says or 'none'})")
    done = await house.run()
    assert (done.outcome, done.failed, done.away, done.missing) == ("done", {}, ("se-1",), 1)
    assert (house.order[0], sorted(house.order)) == ("e2", ["c1", "c2", "c3", "e2"])
    assert house.nodes["e1"].version == "1.1.0"


async def test_there_is_nothing_to_go_back_from(house: House) -> None:
    with pytest.raises(Refused) as refused:
        await house.driver.back(Wish(), "jane")
    assert refused.value.code == "FL-UPGRADE-NONE"


@pytest.mark.parametrize("seen", [{"number": 13}, {"counter": 3}], ids=["a newer bundle", "a higher counter"])
async def test_attack_no_older_bundle_after_a_restore(house: House, seen: dict[str, int]) -> None:
    """The store is of before, the engine is not."""
    house.image = replace(IMAGE, number=12, counter=2)
    house.nodes["e2"] = replace(house.nodes["e2"], **seen)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="se-2") as refused:
        await house.driver.start("image-1", Wish(), "jane")
    assert refused.value.code == "FL-UPGRADE-SEEN"
    house.nodes["e2"] = replace(house.nodes["e2"], number=12, counter=2)
    assert (await house.driver.start("image-1", Wish(), "jane")).phase == "distribute"
