"""Changes of nodes and services: each with its record, in one step, whoever else writes."""

import asyncio
from dataclasses import replace

import pytest

from fairlead.base.clock import MINUTE
from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import PrivateKey
from fairlead.nodes import records
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import AddressEntry, KeyEntry, NameEntry
from fairlead.nodes.service import declare
from fairlead.store.protocol import Put
from tests.world import Machine, World, refusal


async def put(world: World, node: Node) -> None:
    outcome = await world.store.transact([], [Put(records.NODES + node.id, records.encode(node))])
    await world.directory.reached(outcome.revision)


async def test_removal_leaves_nothing_to_inherit(world: World) -> None:
    machine = Machine()
    node = await world.join("se-1", machine)
    await world.registry.label("se-1", ["site=lab"], "admin")
    assert (await world.registry.remove("se-1", "admin")).id == node.id
    assert await world.node(node.id) is None
    assert world.directory.named("se-1") is None  # here already when the answer leaves
    assert await world.name("se-1") == NameEntry(node.id, "tombstone")
    assert await world.address(node.internal_address) == AddressEntry(
        node.id, "quarantined", world.clock.now() + 10 * MINUTE)
    for key in (machine.host, machine.user):
        entry = await world.key(key.public)
        assert entry is not None
        assert (entry.state, entry.node_id) == ("revoked", node.id)
    last = (await world.audited())[-1]
    assert (last.event, last.subject, last.by, last.details["host_key"]) == (
        "node.removed", "se-1", "admin", machine.host.public.fingerprint)
    before = await world.revision()
    assert await refusal(world.registry.remove("se-1", "admin")) == "FL-NODE-UNKNOWN"
    assert await world.revision() == before


async def test_removal_revokes_the_host_key_that_was_to_follow_too(world: World) -> None:
    node, following = await world.join("se-1"), PrivateKey.generate().public
    await put(world, replace(node, next_host_key=following.line))
    await world.store.transact([], [Put(records.KEYS + following.fingerprint, records.encode(
        KeyEntry(node.id, "host", "active", "", following.line)))])
    await world.registry.remove("se-1", "admin")
    entry = await world.key(following)
    assert entry is not None
    assert entry.state == "revoked"


async def test_a_node_that_is_joining_ends_with_its_token(world: World) -> None:
    await world.exchange(await world.export(), Machine())
    before = await world.revision()
    assert await refusal(world.registry.remove("se-1", "admin")) == "FL-NODE-STATE"
    assert await world.revision() == before


async def test_the_only_controller_is_not_removed(world: World) -> None:
    before = await world.revision()
    assert await refusal(world.registry.remove("ctl-1", "admin")) == "FL-NODE-CONTROLLER"
    assert await world.revision() == before


async def test_release(world: World) -> None:
    machine = Machine()
    node = await world.join("se-1", machine)
    assert await refusal(world.registry.release("se-1", machine.host.public.fingerprint, "admin")) == "FL-NODE-STATE"
    for key in (machine.host, machine.user):
        await put(world, replace(node, state="frozen"))
        for wrong in ("", key.public.fingerprint[:-1], Machine().host.public.fingerprint, key.public.line):
            assert await refusal(world.registry.release("se-1", wrong, "admin")) == "FL-NODE-FINGERPRINT"
        assert (await world.registry.release("se-1", key.public.fingerprint, "admin")).state == "up"
        assert world.directory.nodes[node.id] == node
        assert (await world.events("se-1"))[-1] == "node.released"


async def test_a_controller_that_froze_before_its_admission_is_released_into_waiting(world: World) -> None:
    bundle, machine = await world.export("controller"), Machine()
    endpoint = Endpoint(("192.0.2.11",), 443, 8443, 22)
    core = await world.exchange(bundle, machine, "ctl-2", endpoint=endpoint)
    await world.commit(bundle, machine, core)
    assert await refusal(world.exchange(bundle, Machine(), "ctl-2", endpoint=endpoint)) == "FL-JOIN-CONFLICT"
    await world.directory.reached(await world.revision())
    released = await world.registry.release("ctl-2", machine.host.public.fingerprint, "admin")
    assert released.state == "joining"  # ADMIT is what makes it one of us, not a release
    assert world.directory.nodes[core.node_id].state == "joining"


async def test_an_engine_is_drained_and_not_a_controller(world: World) -> None:
    await world.join("se-1")
    assert (await world.registry.drain("se-1", "admin", drained=True)).drained
    assert (await world.registry.drain("se-1", "admin", drained=True)).drained
    assert not (await world.registry.drain("se-1", "admin", drained=False)).drained
    assert await refusal(world.registry.drain("ctl-1", "admin", drained=True)) == "FL-NODE-CONTROLLER"


async def test_labels(world: World) -> None:
    await world.join("se-1")
    assert (await world.registry.label("se-1", ["site=lab", "rack=1"], "admin")).labels == {"rack": "1", "site": "lab"}
    assert (await world.registry.label("se-1", ["rack-", "site=x"], "admin")).labels == {"site": "x"}
    before = await world.revision()
    for bad in (["site"], ["engines"], ["a=b", "$(id)=x"], ["site=\n"]):
        assert await refusal(world.registry.label("se-1", bad, "admin")) == "FL-LABEL"
    assert await world.revision() == before


async def test_what_comes_between_is_read_again(world: World) -> None:
    node = await world.join("se-1")
    world.store.step_in(records.NODES, lambda: world.beside().registry.label("se-1", ["a=1"], "admin"))
    assert (await world.registry.label("se-1", ["b=2"], "admin")).labels == {"a": "1", "b": "2"}
    world.store.step_in(records.NODES, lambda: world.beside().registry.remove("se-1", "admin"))
    assert await refusal(world.registry.label("se-1", ["c=3"], "admin")) == "FL-NODE-UNKNOWN"
    assert await world.node(node.id) is None  # a label does not bring it back


async def test_epochs_rise_and_are_given_once(world: World) -> None:
    found = await asyncio.gather(*(world.registry.next_epoch("node") for _ in range(10)))
    assert sorted(found) == list(range(1, 11))
    assert await world.registry.next_epoch("other") == 1


async def test_announce(world: World) -> None:
    endpoint = Endpoint(("192.0.2.11", "198.51.100.1:8444"), 443, 8443, 22)
    await world.registry.announce(world.controller.id, endpoint, "ctl-1")
    assert world.directory.nodes[world.controller.id].endpoint == endpoint
    before = await world.revision()
    await world.registry.announce(world.controller.id, endpoint, "ctl-1")
    assert await world.revision() == before
    assert await refusal(world.registry.announce("nobody", endpoint, "x")) == "FL-NODE-REMOVED"


# -- services ---------------------------------------------------------------------------------------------------------

DB = declare("db", node="ctl-1", role=None, port=5432, target=None, allow=["engines"])


async def test_services(world: World) -> None:
    await world.join("se-1")
    await world.registry.add_service(DB, "admin")
    assert world.directory.services == {"db": DB}
    table = [
        (replace(DB, port=1), "FL-SERVICE-EXISTS"), (replace(DB, name="db2"), "FL-SERVICE-PORT"),
        (replace(DB, name="db2", owner="role:controller"), "FL-SERVICE-PORT"),
        (replace(DB, name="x", owner="se-9"), "FL-NODE-UNKNOWN"),
        (replace(DB, name="x", port=2, scrape="/metrics"), "FL-SERVICE"),
        (replace(DB, name="x", port=2, scrape="/metrics", owner="role:controller"), "FL-SERVICE"),
        (replace(DB, name="x", owner="se-1"), "FL-SERVICE-ENGINES"),
        (replace(DB, name="x", owner="role:engine", allow=("engines", "se-1")), "FL-SERVICE-ENGINES")]
    before = await world.revision()
    for service, code in table:
        assert await refusal(world.registry.add_service(service, "admin")) == code
    assert await refusal(world.registry.remove_service("x", "admin")) == "FL-SERVICE-UNKNOWN"
    assert await world.revision() == before
    await world.registry.remove_service("db", "admin")
    assert world.directory.services == {}
    assert await world.events("db") == ["service.added", "service.removed"]


@pytest.mark.parametrize("owners", [("ctl-1", "ctl-1"), ("role:controller", "ctl-1")])
async def test_two_at_once_never_share_a_place(world: World, owners: tuple[str, str]) -> None:
    """Also when the second one is decided before this Controller has heard of the first."""
    services = [replace(DB, name=f"db{i}", owner=owner) for i, owner in enumerate(owners)]
    world.store.flowing.clear()
    adding = asyncio.gather(*(world.beside().registry.add_service(s, "admin") for s in services),
                            return_exceptions=True)
    async with asyncio.timeout(10):
        while not (await world.store.list(records.SERVICES)).records:
            pass
    for _ in range(20):
        await world.store.now()
    world.store.flowing.set()
    found = await adding
    assert sorted(f.code if isinstance(f, FairleadError) else "done" for f in found) == ["FL-SERVICE-PORT", "done"]
    assert len((await world.store.list(records.SERVICES)).records) == 1
