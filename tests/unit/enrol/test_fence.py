"""A Controller whose term has passed while it worked changes nothing; one that does not lead does not begin."""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fairlead.base.clock import DAY
from fairlead.base.errors import Refused
from fairlead.cluster.tenure import LEADER
from fairlead.enrol.redeem import KEEP_TERMINAL, TOKENS
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.records import NODES
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import MARK, Born, Compare, Delete, Put
from tests.world import Machine, World, refusal

Act = Callable[[], Coroutine[Any, Any, object]]


async def lead(world: World) -> None:
    """The world's Controller begins a term."""
    await world.store.inner.transact([], [Delete(LEADER)])
    created = (await world.store.inner.transact([], [Put(LEADER, b"")])).revision
    fence_with(world, lambda: (Born(LEADER, created),))


def fence_with(world: World, fence: Callable[[], Sequence[Compare]]) -> None:
    world.enrolment.office = replace(world.enrolment.office, fence=fence)
    world.registry._fence = fence


async def content(world: World) -> list[tuple[str, bytes, int]]:
    """All that stands in the store, but who leads and what the time is."""
    return [(r.key, r.value, r.revision) for r in (await world.store.list("")).records if r.key not in (LEADER, MARK)]


async def issue(world: World) -> Act:
    return world.export


async def reserve(world: World) -> Act:
    bundle = await world.export()
    return lambda: world.exchange(bundle, Machine())


async def commit(world: World) -> Act:
    bundle, machine = await world.export(), Machine()
    core = await world.exchange(bundle, machine)
    return lambda: world.commit(bundle, machine, core)


async def freeze(world: World) -> Act:
    bundle = await world.export()
    await world.exchange(bundle, Machine())
    return lambda: world.exchange(bundle, Machine(), "se-2")


async def conflict(world: World) -> Act:
    bundle = await world.export()
    await world.join(bundle=bundle)
    return lambda: world.exchange(bundle, Machine(), "se-2")


async def expire(world: World) -> Act:
    bundle = await world.export()
    await world.exchange(bundle, Machine())
    world.clock.instant = (await world.token(bundle)).commit_by
    return lambda: world.exchange(bundle, Machine())


async def revoke(world: World) -> Act:
    bundle = await world.export()
    await world.exchange(bundle, Machine())
    return lambda: world.enrolment.revoke(bundle.token.id.hex(), "admin")


async def remove(world: World) -> Act:
    await world.join("se-1")
    return lambda: world.registry.remove("se-1", "admin")


async def release(world: World) -> Act:
    bundle = await world.export()
    node = await world.join(bundle=bundle)
    await refusal(world.exchange(bundle, Machine(), "se-2"))  # a thief: the node is frozen
    stored = await world.store.get(NODES + node.id)
    assert stored is not None
    await world.directory.reached(stored.revision)
    fingerprint = PublicKey.from_line(node.host_key).fingerprint
    return lambda: world.registry.release("se-1", fingerprint, "admin")


STEPS = (issue, reserve, commit, freeze, conflict, expire, revoke, remove, release)


@pytest.mark.parametrize("prepare", STEPS)
async def test_whose_term_has_passed_changes_nothing(world: World, prepare: Callable[[World], Awaitable[Act]]) -> None:
    await lead(world)
    act = await prepare(world)
    await world.store.inner.sweep()
    before = await content(world)

    async def another_leads() -> None:
        await world.store.inner.transact([], [Delete(LEADER)])
        await world.store.inner.transact([], [Put(LEADER, b"")])

    world.store.step_in(NODES if prepare in (remove, release) else TOKENS, another_leads)
    assert await refusal(act()) == "FL-STORE"  # not Refused: it is asked again, and then another one answers
    assert await content(world) == before
    await lead(world)
    with contextlib.suppress(Refused):  # of the thief, or of who comes too late
        await act()  # the same step by who leads: it was the fence that held the other back
    assert await content(world) != before


@pytest.mark.parametrize("prepare", STEPS)
async def test_who_does_not_lead_does_not_begin(world: World, prepare: Callable[[World], Awaitable[Act]]) -> None:
    act = await prepare(world)
    before, writes = await content(world), world.store.writes
    fence_with(world, not_leading)
    assert await refusal(act()) == "FL-NOT-LEADER"
    assert (await content(world), world.store.writes) == (before, writes)


def not_leading() -> Sequence[Compare]:
    raise NotLeading("ctl-2")


async def test_only_the_leader_keeps_house(world: World) -> None:
    bundle = await world.export()
    fence_with(world, not_leading)
    world.clock.set(700)
    await world.enrolment.expire_due()
    assert (await world.token(bundle)).state == "open"
    await lead(world)
    await world.enrolment.expire_due()
    assert (await world.token(bundle)).state == "expired"

    fence_with(world, not_leading)
    world.clock.instant += KEEP_TERMINAL + DAY
    await world.enrolment.tidy()
    assert (await world.token(bundle)).state == "expired"


async def test_a_portal_that_does_not_lead_says_that_the_join_is_to_be_tried_again(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    fence_with(world, not_leading)
    body = machine.body(machine.claim(bundle, world.certificate), bundle)
    answer = await world.post(body)
    assert (answer.status, answer.code) == (503, "FL-JOIN-UNAVAILABLE")
