"""What the leader does for etcd: decided on paper, and done to a real one that is full."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fairlead.cluster.etcd import peer_url
from fairlead.cluster.members import Alarm, Member, Members, Status, status
from fairlead.cluster.upkeep import (
    KEPT_S,
    WORTH_BYTES,
    Compact,
    Defragment,
    Disarm,
    HandOver,
    Situation,
    Step,
    Upkeep,
    next_step,
)
from fairlead.store.gateway import EXHAUSTED, GatewayRefused
from tests.unit.cluster.ring import Site, ring, until
from tests.unit.cluster.test_members import promoted

QUOTA = 10 * WORTH_BYTES
FULL = Alarm(2, "NOSPACE")


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> int:
        return int(self.at * 1_000_000)

    def monotonic(self) -> float:
        return self.at


def member(number: int) -> Member:
    return Member(number, f"ctl-{number}", [], [], learner=False)


def one(number: int, size: int = WORTH_BYTES, in_use: int = WORTH_BYTES) -> Status:
    return Status(number, "3.4.23", leader=1, term=2, raft_index=50, applied_index=50, revision=40, size=size,
                  in_use=in_use, learner=False, alarms=[], errors=[])


def three(*others: Status, old: int = 0, compacted: int = 0) -> Situation:
    """Three members that are well, but for what *others* says."""
    statuses = {number: one(number) for number in (1, 2, 3)} | {other.id: other for other in others}
    return Situation([member(number) for number in (1, 2, 3)], list(statuses.values()), old, compacted, QUOTA)


def relieved(*others: Status, compacted: int = 40) -> Situation:
    """The same, after all history was given up."""
    return replace(three(*others, compacted=compacted), relieved=True)


HOLLOW = {number: one(number, 3 * WORTH_BYTES, WORTH_BYTES) for number in (1, 2, 3)}
FULL_ONE = replace(one(2, QUOTA, QUOTA), alarms=[FULL])


@pytest.mark.parametrize(("now", "step"), [
    (three(), None),
    (three(old=7), Compact(7)),
    (three(old=7, compacted=7), None),
    (replace(three(old=7), statuses=[one(1)]), Compact(7)),  # that needs no more than a majority
    (three(*HOLLOW.values()), Defragment(2)),
    (three(HOLLOW[1], HOLLOW[3]), Defragment(3)),
    (three(HOLLOW[1]), HandOver(1, 2)),
    (three(HOLLOW[1], replace(one(2), learner=True)), HandOver(1, 3)),
    (Situation([member(1)], [HOLLOW[1]], 0, 0, QUOTA), Defragment(1)),
    (three(one(2, WORTH_BYTES, 1)), None),  # not worth it
    (three(one(2, 9 * WORTH_BYTES, 7 * WORTH_BYTES)), None),
    (replace(three(*HOLLOW.values()), statuses=[HOLLOW[1], HOLLOW[2]]), None),  # one is down
    (three(HOLLOW[2], replace(one(3), errors=["x"])), None),
    (three(HOLLOW[2], replace(one(3), leader=0)), None),
    (three(HOLLOW[2], replace(one(3), leader=3)), None),
    (three(FULL_ONE), Compact(40)),
    (three(replace(FULL_ONE, in_use=WORTH_BYTES), compacted=39), Compact(40)),
    (relieved(FULL_ONE), Defragment(2)),  # what it says of itself may be old
    (replace(relieved(FULL_ONE), tried=frozenset((2,))), None),  # nothing helps any more: people must
    (replace(relieved(FULL_ONE, compacted=39), tried=frozenset((2,))), Compact(40)),
    (relieved(FULL_ONE, compacted=39), Compact(40)),  # they did
    (relieved(replace(FULL_ONE, in_use=WORTH_BYTES), compacted=39), Defragment(2)),
    (relieved(replace(FULL_ONE, size=WORTH_BYTES, in_use=WORTH_BYTES)), Disarm(FULL)),
    (relieved(replace(FULL_ONE, size=WORTH_BYTES), one(3, QUOTA, QUOTA)), Defragment(3)),
    (replace(relieved(replace(FULL_ONE, size=WORTH_BYTES), one(3, QUOTA, QUOTA)), tried=frozenset((3,))), None),
    (replace(relieved(), statuses=[one(1), replace(FULL_ONE, in_use=WORTH_BYTES)]), None),
    (three(replace(HOLLOW[2], alarms=[Alarm(3, "CORRUPT")]), old=7), None),
])
def test_one_thing_at_a_time_and_nothing_that_could_cost_the_majority(now: Situation, step: Step | None) -> None:
    assert next_step(now) == step


async def steps_until_it_is_well(upkeep: Upkeep, site: Site) -> list[Step]:
    """What is done until there is no alarm; members say a little late what is free."""
    steps: list[Step] = []
    for _ in range(200):
        step = await upkeep.step()
        if step is not None:
            steps.append(step)
        elif not await Members(site.own).alarms():
            return steps
        else:
            await asyncio.sleep(0.05)
    pytest.fail(f"it stays full: {steps}")


async def test_a_full_etcd_is_noticed_and_made_room_in(tmp_path: Path) -> None:
    quota = 6 * 1024 * 1024
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1, quota=quota).start().ready()
        upkeep = Upkeep(Members(site.own), lambda _: site.own, quota, Hands())
        value = base64.b64encode(bytes(1_000_000)).decode()
        with pytest.raises(GatewayRefused) as refused:
            for _ in range(30):
                await site.own.call("kv/put", {"key": "a2V5", "value": value})
        assert refused.value.code == EXHAUSTED
        await until(lambda: site.problem("FL-ETCD-SPACE"), "it is said that it is full")
        assert [type(step) for step in await steps_until_it_is_well(upkeep, site)] == [Compact, Defragment, Disarm]
        assert (await status(site.own)).size < quota // 2
        await until(lambda: not site.etcd.problems, "all is well again")
        assert not await Members(site.own).alarms()
        await site.own.call("kv/put", {"key": "a2V5", "value": value})


async def test_history_of_ten_minutes_is_kept_and_older_is_not(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = await cluster.site(1).start().ready()
        clock = Hands()
        upkeep = Upkeep(Members(site.own), lambda _: site.own, QUOTA, clock)
        revisions = []
        for at in (0.0, KEPT_S / 2):
            clock.at = at
            answer = await site.own.call("kv/put", {"key": "a2V5", "value": "YQ=="})
            revisions.append(int(answer["header"]["revision"]))
            assert await upkeep.step() is None
        clock.at = KEPT_S
        assert await upkeep.step() == Compact(revisions[0])
        assert await upkeep.step() is None
        await site.own.call("kv/range", {"key": "a2V5", "revision": str(revisions[1])})
        clock.at = 1.5 * KEPT_S
        await site.own.call("kv/put", {"key": "a2V5", "value": "YQ=="})
        assert await upkeep.step() == Compact(revisions[1])
        with pytest.raises(GatewayRefused, match="compacted"):
            await site.own.call("kv/range", {"key": "a2V5", "revision": str(revisions[0])})


async def test_the_leader_gives_the_lead_away_before_it_is_deaf(tmp_path: Path) -> None:
    quota = 6 * 1024 * 1024
    async with ring(tmp_path) as cluster:
        first = await cluster.site(1, quota=quota).start().ready()
        members = Members(first.own)
        added = await members.add_learner(peer_url(cluster.address(2)))
        second = await cluster.site(2, quota=quota).start().ready()
        await promoted(members, added.id)
        value = base64.b64encode(bytes(1_000_000)).decode()
        with pytest.raises(GatewayRefused):
            for _ in range(30):
                await first.own.call("kv/put", {"key": "a2V5", "value": value})
        leader = (await status(first.own)).id
        calls = {leader: first.own, added.id: second.own}
        upkeep = Upkeep(members, lambda of: calls[of.id], quota, Hands())
        deaf, lead = set(), leader
        for step in await steps_until_it_is_well(upkeep, first):
            match step:
                case HandOver(old, new):
                    assert old == lead
                    lead = new
                case Defragment(one_of_them):
                    assert one_of_them != lead
                    deaf.add(one_of_them)
        assert deaf == {leader, added.id}
        assert (await status(first.own)).leader == lead
        await first.own.call("kv/put", {"key": "a2V5", "value": value})


async def test_what_fails_is_tried_again(tmp_path: Path) -> None:
    async with ring(tmp_path) as cluster:
        site = cluster.site(1)
        upkeep = Upkeep(Members(site.own), lambda _: site.own, QUOTA, Hands(), every_s=0.01, kept_s=-1.0)
        with capture_logs() as logs:
            running = asyncio.ensure_future(upkeep.run())
            try:
                await until(lambda: any(log["event"] == "etcd.upkeep" for log in logs), "it failed")
                site.start()
                await until(lambda: any("step" in log for log in logs), "it did something")
            finally:
                running.cancel()
                await asyncio.wait([running])
        assert next(log["code"] for log in logs if log["event"] == "etcd.upkeep") == "FL-STORE"
