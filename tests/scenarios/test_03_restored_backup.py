"""A backup that is restored gives no token a second life, and no removed node its rights back."""

from pathlib import Path

from fairlead.enrol.redeem import GENERATION, new_generation
from fairlead.store.protocol import Put
from tests.world import Machine, open_world, refusal


async def test_a_token_redeemed_after_the_backup(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        bundle, machine = await world.export(), Machine()
        # 1. a backup is made while the token is open
        backup = {r.key: r.value for r in (await world.store.list("enrol/")).records}
        # 2. the token is redeemed
        await world.join("se-1", machine, bundle)
        await world.registry.remove("se-1", "admin")
        # 3. the backup is restored: the token stands there as open, under a new generation
        backup[GENERATION] = new_generation()
        outcome = await world.store.transact([], [Put(key, value) for key, value in backup.items()])
        await world.directory.reached(outcome.revision)
        assert (await world.token(bundle)).state == "open"
        # 4. attack: the old file is used again
        for attacker in (Machine(), machine):
            assert await refusal(world.exchange(bundle, attacker, "se-2")) in ("FL-STORE", "FL-JOIN-KEYS")
        assert [n.name for n in world.directory.nodes.values()] == ["ctl-1"]
        # 5. new bundles work
        await world.join("se-3")
