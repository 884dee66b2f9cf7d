"""Whom changes concern: gathered, taken once, everybody's when in doubt."""

from dataclasses import replace

from fairlead.nodes.concerned import Concerned
from fairlead.nodes.records import NODES, encode
from fairlead.nodes.service import declare
from fairlead.store.protocol import Put
from tests.unit.nodes.test_policy import SE_1, SE_2
from tests.world import World


async def test_changes_of_nodes_concern_those_and_of_services_everybody(world: World) -> None:
    concerned = Concerned(world.directory, lambda: world.directory.common)
    world.directory.listen(concerned.note)
    for node in (SE_1, SE_2, replace(SE_1, labels={"site": "lab"})):
        await world.directory.reached((await world.store.transact([], [Put(NODES + node.id, encode(node))])).revision)
    assert concerned.take() == frozenset((SE_1.id, SE_2.id))
    assert concerned.take() == frozenset()
    await world.registry.add_service(
        declare("db", node="ctl-1", role=None, port=5432, target=None, allow=["engines"]), "admin")
    await world.directory.reached((await world.store.transact([], [Put(NODES + SE_1.id, encode(SE_1))])).revision)
    assert concerned.take() is None
    assert concerned.take() == frozenset()


async def test_a_picture_that_is_read_anew_concerns_everybody(world: World) -> None:
    concerned = Concerned(world.directory, lambda: world.directory.common)
    world.directory.listen(concerned.note)
    await world.directory.load()
    assert concerned.take() is None


async def test_something_else_may_concern_everybody(world: World) -> None:
    concerned = Concerned(world.directory, lambda: world.directory.common)
    concerned.all()
    assert concerned.take() is None
