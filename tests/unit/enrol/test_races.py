"""Whatever comes between a reading and its transaction, and a hundred at once."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from fairlead.base.clock import MINUTE, SECOND
from fairlead.base.errors import FairleadError
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.redeem import GENERATION, LIVE, TOKENS, new_generation
from fairlead.nodes import records
from fairlead.nodes.service import declare
from fairlead.store.protocol import Put, Record
from tests.world import Machine, World, refusal


async def outcomes(work: list[Awaitable[object]]) -> Counter[str]:
    found = await asyncio.gather(*work, return_exceptions=True)
    assert all(isinstance(f, FairleadError) for f in found if isinstance(f, BaseException)), found
    return Counter(f.code if isinstance(f, FairleadError) else "done" for f in found)


async def test_a_hundred_times_the_same_keys_is_one_node(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    assert await outcomes([world.exchange(bundle, machine) for _ in range(100)]) == {"done": 100}
    core = await world.exchange(bundle, machine)
    assert await outcomes([world.commit(bundle, machine, core) for _ in range(100)]) == {"done": 100}
    assert [n.name for n in world.directory.nodes.values()] == ["ctl-1", "se-1"]
    assert len((await world.store.list(records.NODES)).records) == 2
    assert await world.events(bundle.token.id.hex()) == ["token.issued", "join.reserved", "join.committed"]


async def test_a_hundred_thieves_are_one_alarm_and_nobody_in(world: World) -> None:
    bundle, machines = await world.export(), [Machine() for _ in range(100)]
    done = await outcomes([world.exchange(bundle, m, f"se-{i}") for i, m in enumerate(machines)])
    assert done["done"] <= 1
    assert set(done) <= {"done", "FL-JOIN-CONFLICT", "FL-JOIN-FROZEN", "FL-STORE"}
    assert done["FL-JOIN-CONFLICT"] + done["FL-JOIN-FROZEN"] >= 90
    assert (await world.token(bundle)).state == "frozen"
    assert len((await world.store.list(records.NODES)).records) == 1
    assert [r.key for r in (await world.store.list(records.NAMES)).records] == [records.NAMES + "ctl-1"]
    events = Counter(await world.events(bundle.token.id.hex()))
    assert (events["join.reserved"], events["join.interception"], events["join.committed"]) == (1, 1, 0)
    assert 1 <= events["join.refused"] <= 32
    recorded = events["join.refused"]
    summed = sum(int(n) for e in world.refusals.flush(world.clock.now() + MINUTE) for n in e.details.values()
                 if isinstance(n, int))
    assert recorded + summed == done["FL-JOIN-CONFLICT"] + done["FL-JOIN-FROZEN"]  # none goes uncounted


async def test_thief_and_honest_node_at_once_under_one_name_raise_the_alarm(world: World) -> None:
    bundle = await world.export(node="se-1")
    done = await outcomes([world.exchange(bundle, Machine(), "se-1") for _ in range(2)])
    assert done == {"done": 1, "FL-JOIN-CONFLICT": 1}
    assert "join.interception" in await world.events(bundle.token.id.hex())


async def test_refusals_at_once_are_recorded_or_counted_each(world: World) -> None:
    bundle, machine = await world.export(node="se-1"), Machine()
    assert await outcomes([world.exchange(bundle, machine, "se-2") for _ in range(20)]) == {"FL-JOIN-NAME": 20}
    recorded = (await world.events(bundle.token.id.hex())).count("join.refused")
    summed = sum(int(e.details["FL-JOIN-NAME"]) for e in world.refusals.flush(world.clock.now() + MINUTE))
    assert recorded + summed == 20


async def test_twenty_bundles_at_once_share_nothing(world: World) -> None:
    bundles = [await world.export() for _ in range(20)]
    nodes = await asyncio.gather(*(world.join(f"se-{i}", bundle=b) for i, b in enumerate(bundles)))
    assert len({n.internal_address for n in nodes}) == len({n.name for n in nodes}) == 20
    assert sorted(n.internal_address for n in nodes) == sorted(f"127.64.1.{i}" for i in range(20))


async def test_two_bundles_for_one_name_make_one_node(world: World) -> None:
    bundles = [await world.export(node="se-1") for _ in range(2)]
    done = await outcomes([world.exchange(b, Machine(), "se-1") for b in bundles])
    assert done == {"done": 1, "FL-JOIN-NAME": 1}


# -- between the reading and the transaction --------------------------------------------------------------------------

async def keep_alive(world: World, bundle: Bundle) -> None:
    """Take the backstop away: a lease that the store lengthened, so that the other compares are alone."""
    await world.store.inner.transact([], [Put(LIVE + bundle.token.id.hex(), b"")])


async def test_a_slow_reservation_takes_no_effect_after_the_ceiling(world: World) -> None:
    bundle = await world.export()
    token = await world.token(bundle)
    await keep_alive(world, bundle)

    async def slow() -> None:
        world.clock.instant = token.expires_at

    world.clock.instant = token.expires_at - 1
    world.store.step_in(records.NODES, slow)
    assert await refusal(world.exchange(bundle, Machine())) == "FL-JOIN-EXPIRED"
    assert (await world.token(bundle)).state == "expired"
    assert len((await world.store.list(records.NODES)).records) == 1
    assert "join.reserved" not in await world.events(bundle.token.id.hex())


async def test_a_slow_commit_takes_no_effect_after_the_ceiling(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    core = await world.exchange(bundle, machine)
    token = await world.token(bundle)
    await keep_alive(world, bundle)

    async def slow() -> None:
        world.clock.instant = token.commit_by

    world.clock.instant = token.commit_by - 1
    world.store.step_in(records.NODES, slow)
    assert await refusal(world.commit(bundle, machine, core)) == "FL-JOIN-EXPIRED"
    assert core.node_id not in world.directory.nodes
    assert "join.committed" not in await world.events(token.id)


async def test_a_clock_that_was_set_back_does_not_help(world: World) -> None:
    """The transaction compares the store's mark, which never runs backwards."""
    bundle = await world.export()
    world.clock.set(601)
    await world.store.transact([], [Put("clock/mark", b"%020d" % world.clock.now())])
    world.clock.set(1)
    assert await refusal(world.exchange(bundle, Machine())) in ("FL-STORE", "FL-JOIN-EXPIRED")
    assert await world.name("se-1") is None


async def test_the_generation_changes_meanwhile(world: World) -> None:
    bundle, machine = await world.export(), Machine()

    async def restore() -> None:
        await world.store.inner.transact([], [Put(GENERATION, new_generation())])

    world.store.step_in(records.NODES, restore)
    assert await refusal(world.exchange(bundle, machine)) == "FL-STORE"
    assert await world.name("se-1") is None
    other = await world.export()
    core = await world.exchange(other, machine)
    world.store.step_in(records.NODES, restore)
    assert await refusal(world.commit(other, machine, core)) == "FL-STORE"
    node = await world.node(core.node_id)
    assert node is not None
    assert node.state == "joining"


async def test_a_token_is_revoked_meanwhile(world: World) -> None:
    bundle, other, machine = await world.export(), await world.export(), Machine()

    async def revoke(revoked: Bundle) -> None:
        await world.beside().enrolment.revoke(revoked.token.id.hex(), "admin")
        await keep_alive(world, revoked)

    world.store.step_in(records.NODES, partial(revoke, bundle))
    assert await refusal(world.exchange(bundle, machine)) == "FL-JOIN-REVOKED"
    assert await world.name("se-1") is None
    core = await world.exchange(other, machine)
    world.store.step_in(records.NODES, partial(revoke, other))
    assert await refusal(world.commit(other, machine, core)) == "FL-JOIN-REFUSED"
    assert core.node_id not in world.directory.nodes
    assert (await world.token(other)).state == "revoked"


async def test_a_commit_undoes_nothing_that_happened_to_the_node_meanwhile(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    core = await world.exchange(bundle, machine)
    world.store.step_in(records.NODES, lambda: world.beside().registry.label("se-1", ["site=lab"], "admin"))
    await world.commit(bundle, machine, core)
    node = world.directory.nodes[core.node_id]
    assert (node.state, node.labels) == ("up", {"site": "lab"})


async def test_a_thief_comes_between(world: World) -> None:
    """Honest and thief both read ``open``: one reserves, the other freezes; between reading and COMMIT likewise."""
    bundle, honest, thief = await world.export(), Machine(), Machine()

    async def first() -> None:
        await world.beside().exchange(bundle, thief, "se-2")

    world.store.step_in(records.NODES, first)
    assert await refusal(world.exchange(bundle, honest)) == "FL-JOIN-CONFLICT"
    assert (await world.token(bundle)).state == "frozen"

    bundle, honest, thief = await world.export(), Machine(), Machine()
    core = await world.exchange(bundle, honest, "se-3")

    async def freeze() -> None:
        assert await refusal(world.beside().exchange(bundle, thief, "se-4")) == "FL-JOIN-CONFLICT"

    world.store.step_in(records.NODES, freeze)
    assert await refusal(world.commit(bundle, honest, core)) == "FL-JOIN-REFUSED"
    assert (await world.token(bundle)).state == "frozen"
    assert core.node_id not in world.directory.nodes


async def test_a_commit_comes_before_the_freeze(world: World) -> None:
    bundle, honest = await world.export(), Machine()
    core = await world.exchange(bundle, honest)

    async def commit() -> None:
        await world.beside().enrolment.commit(honest.user.public.fingerprint, {
            "token_id": bundle.token.id.hex(), "node_id": core.node_id, "keys_hash": core.keys_hash})

    world.store.step_in(TOKENS, commit)
    assert await refusal(world.exchange(bundle, Machine(), "se-2")) == "FL-JOIN-CONFLICT"
    node = await world.node(core.node_id)
    assert node is not None
    assert ((await world.token(bundle)).state, node.state) == ("redeemed", "frozen")


@pytest.mark.parametrize("what", ["name", "address", "key", "mention"])
async def test_somebody_takes_it_meanwhile(world: World, what: str) -> None:
    """The name is refused then; another address is found; keys are refused; a new mention in a policy counts."""
    bundle, machine = await world.export(), Machine()
    entry = records.NameEntry("somebody", "held")
    puts = {"name": Put(records.NAMES + "se-1", records.encode(entry)),
            "address": Put(records.ADDRESSES + "127.64.1.0", records.encode(records.AddressEntry("somebody", "held"))),
            "key": Put(records.KEYS + machine.user.public.fingerprint, records.encode(
                records.KeyEntry("somebody", "user", "active", "", machine.user.public.line)))}

    async def take() -> None:
        if what == "mention":
            await world.beside().registry.add_service(
                declare("db", node="ctl-1", role=None, port=5432, target=None, allow=["se-1"]), "admin")
        else:
            outcome = await world.store.inner.transact([], [puts[what]])
            await world.directory.reached(outcome.revision)

    world.store.step_in(records.NODES, take)
    if what == "address":
        assert (await world.exchange(bundle, machine)).internal_address == "127.64.1.1"
    else:
        assert await refusal(world.exchange(bundle, machine)) == ("FL-JOIN-KEYS" if what == "key" else "FL-JOIN-NAME")
        assert (await world.token(bundle)).state == "open"


async def test_a_token_that_never_stands_still_is_answered_later(world: World) -> None:
    bundle = await world.export()
    stored = await world.store.get(TOKENS + bundle.token.id.hex())
    assert stored is not None

    async def touch() -> None:
        await world.store.inner.transact([], [Put(stored.key, stored.value)])

    for _ in range(3):
        world.store.step_in(records.NODES, touch)
    assert await refusal(world.exchange(bundle, Machine())) == "FL-STORE"
    assert (await world.exchange(bundle, Machine())).result == "reserved"


async def test_services_that_are_declared_all_the_while_hold_no_join_up(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a policy that begins to mention the very name does."""
    bundle, beside, read = await world.export(), world.beside(), world.store.get
    ports = itertools.count(5432)

    async def meanwhile(key: str) -> Record | None:
        """After the name was looked at, and before what was found is compared."""
        if key.startswith(records.KEYS):
            port = next(ports)
            await beside.registry.add_service(
                declare(f"db-{port}", node="ctl-1", role=None, port=port, target=None, allow=["se-other"]), "admin")
        return await read(key)

    monkeypatch.setattr(world.store, "get", meanwhile)
    assert (await world.exchange(bundle, Machine())).result == "reserved"
    assert len(world.directory.services) > 1


async def test_a_deadline_is_not_lost_when_a_token_is_reserved_while_its_expiry_is_looked_at(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, machine = await world.export(), Machine()
    token = await world.token(bundle)
    read: Callable[[str], Awaitable[records.Entry]] = world.store.get  # type: ignore[assignment]

    async def late(key: str) -> object:
        """Between the look at the deadlines and this reading, the last reservation is written and noticed."""
        monkeypatch.undo()
        world.clock.instant = token.expires_at - 1
        await world.exchange(bundle, machine)
        async with asyncio.timeout(10):
            while world.enrolment._deadlines.get(token.id) != token.commit_by:
                await world.store.now()
        world.clock.instant = token.expires_at
        return await read(key)

    world.clock.instant = token.expires_at
    monkeypatch.setattr(world.store, "get", late)
    await world.enrolment.expire_due()
    assert (await world.token(bundle)).state == "reserved"
    world.clock.instant = token.commit_by + SECOND
    await world.enrolment.expire_due()
    assert (await world.token(bundle)).state == "expired"
