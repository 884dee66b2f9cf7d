"""A thief with a plain bundle gets an alarm in either order; with a bound one he gets nothing."""

from pathlib import Path

from tests.world import Machine, World, open_world, refusal


async def alarms(world: World) -> list[str]:
    return [r.event for r in await world.audited() if "interception" in r.event or r.event == "join.bound"]


async def test_the_thief_comes_first(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        bundle, honest, thief = await world.export(node="db"), Machine(), Machine()
        # 1. attack: he reserves with the stolen file
        core = await world.exchange(bundle, thief, "db", source="203.0.113.5")
        # 2. the honest machine comes, and is told that it is not alone
        assert await refusal(world.exchange(bundle, honest, "db")) == "FL-JOIN-CONFLICT"
        assert await alarms(world) == ["join.interception"]
        # 3. the thief is out: he cannot commit, and his keys never join anything again
        assert await refusal(world.commit(bundle, thief, core)) == "FL-JOIN-REFUSED"
        assert await refusal(world.exchange(await world.export(), thief, "x")) == "FL-JOIN-KEYS"
        # 4. a new bundle, and new keys, bring the honest machine in
        node = await world.join("db", Machine(), await world.export(node="db"))
        assert node.internal_address == "127.64.1.1"  # the thief's address rests


async def test_the_thief_comes_after_the_commit(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        bundle, honest, thief = await world.export(node="db"), Machine(), Machine()
        node = await world.join("db", honest, bundle)
        # 1. attack: within the ten minutes he tries the file too
        assert await refusal(world.exchange(bundle, thief, "db", source="203.0.113.5")) == "FL-JOIN-CONFLICT"
        assert await alarms(world) == ["join.interception-late"]
        await world.directory.reached(await world.revision())
        assert world.directory.nodes[node.id].state == "frozen"
        # 2. the operator compares the fingerprint on the machine's console, and releases it
        await world.registry.release("db", honest.host.public.fingerprint, "admin")
        assert world.directory.nodes[node.id].state == "up"
        # 3. attack: he cannot do it again, not with other keys either
        for _ in range(3):
            assert await refusal(world.exchange(bundle, Machine(), "db")) == "FL-JOIN-CONFLICT"
        assert world.directory.nodes[node.id].state == "up"
        assert await alarms(world) == ["join.interception-late"]


async def test_the_thief_has_a_bound_bundle(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        honest, thief = Machine(), Machine()
        bundle = await world.export(node="db", bound=honest)
        # 1. attack: before, between and after, he changes nothing
        assert await refusal(world.exchange(bundle, thief, "db")) == "FL-JOIN-BOUND"
        core = await world.exchange(bundle, honest, "db")
        assert await refusal(world.exchange(bundle, thief, "db")) == "FL-JOIN-BOUND"
        await world.commit(bundle, honest, core)
        assert await refusal(world.exchange(bundle, thief, "db")) == "FL-JOIN-BOUND"
        assert world.directory.nodes[core.node_id].state == "up"
        # 2. but every time is on record
        assert await alarms(world) == ["join.bound"] * 3
