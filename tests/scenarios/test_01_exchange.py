"""A bundle makes one node, whose keys are pinned from then on; used again, it is worth nothing."""

from pathlib import Path

from fairlead.enrol import bundle as bundles
from tests.world import Machine, open_world, refusal


async def test_from_bundle_to_node(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        machine = Machine()
        # 1. the operator exports a bundle: a file
        file = (await world.export(node="se-1")).encode()
        bundle = bundles.decode(file)
        # 2. the machine exchanges keys: its name, address and keys are reserved
        core = await world.exchange(bundle, machine)
        assert (core.result, core.internal_address) == ("reserved", "127.64.1.0")
        # 3. it commits, and is a node
        await world.commit(bundle, machine, core)
        assert [n.name for n in world.directory.nodes.values() if n.state == "up"] == ["ctl-1", "se-1"]
        # 4. signed with its key, it reads its trust again
        request = world.signed({"op": "read"}, machine.user)
        assert world.believed(await world.ask(request), request)["result"] == "committed"
        # 5. it leaves
        request = world.signed({"op": "leave"}, machine.user)
        assert world.believed(await world.ask(request), request)["result"] == "removed"
        # 6. the whole way is on record, in one chain
        await world.audit.verify()
        assert [r.event for r in await world.audited()] == [
            "token.issued", "join.reserved", "join.committed", "node.left"]
        # 7. attack: the file was kept by somebody, with his keys and with the machine's own
        assert await refusal(world.exchange(bundle, Machine())) == "FL-JOIN-CONFLICT"
        assert await refusal(world.exchange(bundle, machine)) == "FL-JOIN-USED"
        world.clock.set(601)
        assert await refusal(world.exchange(bundle, Machine())) == "FL-JOIN-USED"
        assert [n.name for n in world.directory.nodes.values()] == ["ctl-1"]
