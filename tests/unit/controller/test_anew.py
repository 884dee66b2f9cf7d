"""A store that begins again with one Controller gives no token and no node its rights back."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.base.errors import Refused
from fairlead.cluster.tenure import LEADER
from fairlead.controller.anew import Anew, begin_anew
from fairlead.controller.secrets import CLUSTER_KEY
from fairlead.enrol import state as states
from fairlead.enrol.redeem import GENERATION, LIVE, TOKENS
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import (
    ADDRESSES,
    KEYS,
    NAMES,
    NODES,
    TOLD,
    KeyEntry,
    address_from,
    encode,
    key_from,
    name_from,
)
from fairlead.rotation import phases
from fairlead.rotation.driver import NOW
from fairlead.rotation.phases import Phase, Rotation
from fairlead.store.protocol import Operation, Put
from tests.world import START, Machine, World, open_world, refusal

ENDPOINT = Endpoint(("192.0.2.2",), 443, 8443, 22)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


async def test_a_token_of_before_joins_nobody_by_its_state_and_by_its_generation(world: World) -> None:
    opened, reserved, machine = await world.export(), await world.export(), Machine()
    core = await world.exchange(reserved, machine, "se-1")
    anew = await begin(world)
    assert anew.revoked == 2
    tokens = {o.key: o for o in anew.operations if o.key.startswith(TOKENS)}
    # without one of both the other still holds, though the leases, too, had come back
    dead = [o for o in anew.operations if not o.key.startswith(LIVE)]
    for operations in ([o for o in dead if o.key not in tokens], [o for o in dead if o.key != GENERATION]):
        before = await records(world)
        await apply(world, operations)
        no = ("FL-JOIN-REFUSED", "FL-JOIN-REVOKED", "FL-STORE")
        assert await refusal(world.exchange(opened, Machine(), "se-2")) in no
        assert await refusal(world.exchange(reserved, machine, "se-1")) in no
        assert await refusal(world.commit(reserved, machine, core)) in no
        assert [n.name for n in world.directory.nodes.values() if n.state == "up"] == ["ctl-1"]
        await apply(world, [Put(key, value) for key, value in before.items()])
    await apply(world, anew.operations)
    assert not [key for key in await records(world) if key.startswith(LIVE)]
    # the name that was reserved is free again, and new bundles work
    await world.join("se-1")


@pytest.mark.parametrize(("phase", "becomes"), [
    ("scheduled", None), ("stage", "withdraw"), ("acknowledge", "withdraw"), ("cut-over", "cut-back"),
    ("retire", "retire")])
async def test_a_rotation_that_was_under_way_is_called_off(world: World, phase: Phase, becomes: str | None) -> None:
    """It was decided on for another cluster, months ago perhaps; what the others said of it is forgotten."""
    asked = phases.at(Rotation("1", "secure-channel", "jane", 1, 1, "scheduled", 1), phase, 1)
    await apply(world, [Put(NOW, phases.encode(asked)), Put(TOLD + "ctl-2", b"{}")])
    await apply(world, (await begin(world)).operations)
    kept = await records(world)
    assert TOLD + "ctl-2" not in kept
    assert (phases.decode(kept[NOW]).phase if NOW in kept else None) == becomes
    if becomes:
        assert phases.decode(kept[NOW]).since >= START, "nobody's patience has run out meanwhile"


async def test_a_rotation_that_nobody_can_read_is_none(world: World) -> None:
    await apply(world, [Put(NOW, b"{}")])
    await apply(world, (await begin(world)).operations)
    assert NOW not in await records(world)


async def test_the_other_controllers_and_who_is_named_are_out_for_good(world: World) -> None:
    engine, stays = await world.join("se-1"), await world.join("se-2")
    other = await second_controller(world)
    await apply(world, [Put(CLUSTER_KEY + other.id, b"sealed"), Put(LEADER, b"{}")])
    anew = await begin(world, "se-1")
    await apply(world, anew.operations)
    assert anew.removed == ["ctl-2", "se-1"]
    assert [node.name for node in anew.left] == ["ctl-1", "se-2"]
    found = await records(world)
    for node in (engine, other):
        assert NODES + node.id not in found
        assert name_from(found[NAMES + node.name]).state == "tombstone"
        assert address_from(found[ADDRESSES + node.internal_address]).state == "quarantined"
        for line in (node.host_key, node.user_key):
            assert key_from(found[KEYS + PublicKey.from_line(line).fingerprint]).state == "revoked"
    assert CLUSTER_KEY + other.id not in found
    assert LEADER not in found
    assert found[NODES + stays.id] == encode(stays)
    assert sorted(entry.subject for entry in anew.entries if entry.event == "node.removed") == ["ctl-2", "se-1"]


async def test_who_is_out_is_out_with_its_next_key_and_its_last_one(world: World) -> None:
    engine = await world.join("se-1")
    following, last = Machine().user.public, Machine().user.public
    await apply(world, [Put(NODES + engine.id, encode(replace(engine, next_key=following.line, last_key=last.line))), *(
        Put(KEYS + key.fingerprint, encode(KeyEntry(engine.id, "user", "active", "r1", key.line)))
        for key in (following, last))])
    await apply(world, (await begin(world, "se-1")).operations)
    found = await records(world)
    assert {key_from(found[KEYS + key.fingerprint]).state for key in (following, last)} == {"revoked"}


async def test_a_frozen_token_stays_frozen_and_a_wrong_name_is_refused(world: World) -> None:
    bundle = await world.export()
    await world.exchange(bundle, Machine(), "se-1")
    assert await refusal(world.exchange(bundle, Machine(), "se-1")) == "FL-JOIN-CONFLICT"
    await apply(world, (await begin(world)).operations)
    token = states.decode((await records(world))[TOKENS + bundle.token.id.hex()])
    assert token.state == "frozen"
    for name, code in (("se-9", "FL-NODE-UNKNOWN"), ("ctl-1", "FL-NODE-CONTROLLER")):
        with pytest.raises(Refused) as caught:
            await begin(world, name)
        assert caught.value.code == code


async def second_controller(world: World) -> Node:
    """Another Controller, admitted."""
    bundle, machine = await world.export("controller"), Machine()
    core = await world.exchange(bundle, machine, "ctl-2", endpoint=ENDPOINT)
    await world.commit(bundle, machine, core)
    return await world.enrolment.admit(core.node_id, "ctl-1")


async def begin(world: World, *removed: str) -> Anew:
    return begin_anew(await records(world), world.controller.id, removed, by="restore", now=START)


async def records(world: World) -> dict[str, bytes]:
    return {record.key: record.value for record in (await world.store.list("")).records}


async def apply(world: World, operations: Sequence[Operation]) -> None:
    outcome = await world.store.transact([], operations)
    await world.directory.reached(outcome.revision)
