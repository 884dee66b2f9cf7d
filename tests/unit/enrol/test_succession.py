"""Next user keys in the store: each step with its record, whoever else writes, and no key comes back."""

import itertools
from dataclasses import dataclass

import pytest

from fairlead.base.errors import FairleadError
from fairlead.enrol import next_key
from fairlead.enrol.succession import MOST_REPLACED, Succession
from fairlead.keys.ssh import PrivateKey
from fairlead.nodes.node import Node
from fairlead.nodes.user_keys import Keys, Wanted, due
from tests.world import Machine, World, refusal


@dataclass
class Story:
    """One engine whose user key is rotated."""

    world: World
    machine: Machine
    node_id: str
    succession: Succession

    @property
    def node(self) -> Node:
        return self.world.directory.nodes[self.node_id]

    async def offer(self, key: PrivateKey, rotation: str = "r1") -> None:
        await self.succession.register(self.node_id, rotation, next_key.offer(
            self.world.cluster_uuid, self.node_id, rotation, key, self.machine.host), "ctl-1")

    async def state(self, key: PrivateKey) -> str:
        entry = await self.world.key(key.public)
        return entry.state if entry else "unknown"


@pytest.fixture
async def story(world: World) -> Story:
    machine = Machine()
    node = await world.join("se-1", machine)
    world.clock.set(100)
    succession = Succession(world.store, world.audit, world.directory, world.cluster_uuid)
    return Story(world, machine, node.id, succession)


async def test_a_key_is_registered_used_and_the_last_one_revoked(story: Story) -> None:
    new, old = PrivateKey.generate(), story.machine.user
    await story.succession.want("r1", "next", "admin")
    await story.offer(new)
    assert (story.node.user_key, story.node.next_key) == (old.public.line, new.public.line)
    assert await story.succession.carry_out([(story.node_id, "use")], "ctl-1") == 1
    assert (story.node.user_key, story.node.last_key, story.node.next_key) == (new.public.line, old.public.line, "")
    assert await story.state(old) == "active"
    await story.succession.carry_out([(story.node_id, "retire")], "ctl-1")
    assert (story.node.user_key, story.node.last_key) == (new.public.line, "")
    assert (await story.state(old), await story.state(new)) == ("revoked", "active")
    assert [r.event for r in (await story.world.audited())[-4:]] == [
        "key.wanted", "key.next", "key.cut-over", "key.retired"]


async def test_it_leads_back(story: Story) -> None:
    new, old = PrivateKey.generate(), story.machine.user
    await story.succession.want("r1", "next", "admin")
    await story.offer(new)
    await story.succession.carry_out([(story.node_id, "use")], "ctl-1")
    await story.succession.want("r1", "back", "admin")
    await story.succession.carry_out([(story.node_id, "back")], "ctl-1")
    assert story.node.user_key == old.public.line
    await story.succession.want("r1", "drop", "admin")
    await story.succession.carry_out([(story.node_id, "drop")], "ctl-1")
    assert story.node.user_keys == (old.public.line,)
    assert (await story.state(old), await story.state(new)) == ("active", "revoked")
    assert await refusal(story.offer(PrivateKey.generate())) == "FL-KEY-ROTATION"
    await story.succession.want("r2", "next", "admin")
    assert await refusal(story.offer(new, "r2")) == "FL-KEY-USED"  # for ever


async def test_a_lost_answer_is_asked_again_and_writes_nothing(story: Story) -> None:
    new = PrivateKey.generate()
    await story.succession.want("r1", "next", "admin")
    await story.offer(new)
    before = await story.world.revision()
    await story.offer(new)
    await story.succession.want("r1", "next", "admin")
    assert await story.world.revision() == before


async def test_known_keys_are_nobodys_next_key(story: Story) -> None:
    other = Machine()
    await story.world.join("se-2", other)
    await story.succession.want("r1", "next", "admin")
    for key in (story.machine.user, other.user, other.host):
        assert await refusal(story.offer(key)) == "FL-KEY-USED"
    assert story.node.next_key == ""


async def test_a_key_that_another_node_has_proven_is_refused(story: Story) -> None:
    other, new = Machine(), PrivateKey.generate()
    node = await story.world.join("se-2", other)
    await story.succession.want("r1", "next", "admin")
    theirs = next_key.offer(story.world.cluster_uuid, node.id, "r1", new, other.host)
    assert await refusal(story.succession.register(story.node_id, "r1", theirs, "ctl-1")) == "FL-KEY-PROOF"
    assert await story.state(new) == "unknown"


async def test_no_rotation_no_key(story: Story) -> None:
    assert await refusal(story.offer(PrivateKey.generate())) == "FL-KEY-ROTATION"
    assert await refusal(story.succession.want("r1", "use", "admin")) == "FL-KEY-ROTATION"


async def test_removal_takes_the_next_key_and_the_last_one_with_it(story: Story) -> None:
    keys = [story.machine.user, PrivateKey.generate(), PrivateKey.generate()]
    await story.succession.want("r1", "next", "admin")
    await story.offer(keys[1])
    await story.succession.carry_out([(story.node_id, "use")], "ctl-1")
    await story.world.registry.remove("se-1", "admin")
    assert [await story.state(key) for key in keys] == ["revoked", "revoked", "unknown"]


async def test_a_key_registered_while_the_node_is_removed_does_not_outlive_it(story: Story) -> None:
    new = PrivateKey.generate()
    await story.succession.want("r1", "next", "admin")
    story.world.store.step_in("nodes/", lambda: story.world.beside().registry.remove("se-1", "admin"))
    with pytest.raises(FairleadError, match="no such node"):
        await story.offer(new)
    assert await story.state(new) == "unknown"


async def test_a_node_removed_while_its_key_is_registered_takes_the_key_with_it(story: Story) -> None:
    new = PrivateKey.generate()
    await story.succession.want("r1", "next", "admin")
    beside = story.world.beside()
    other = Succession(beside.store, beside.audit, beside.directory, beside.cluster_uuid)

    async def offered() -> None:
        await other.register(story.node_id, "r1", next_key.offer(
            beside.cluster_uuid, story.node_id, "r1", new, story.machine.host), "ctl-1")

    story.world.store.step_in("names/", offered)
    await story.world.registry.remove("se-1", "admin")
    assert await story.state(new) == "revoked"


async def test_a_node_that_lost_its_next_key_shows_another_a_few_times(story: Story) -> None:
    keys = [PrivateKey.generate() for _ in range(MOST_REPLACED + 2)]
    await story.succession.want("r1", "next", "admin")
    for key in keys[:-1]:
        await story.offer(key)
    assert await refusal(story.offer(keys[-1])) == "FL-KEY-USED"
    assert [await story.state(key) for key in keys] == ["revoked"] * MOST_REPLACED + ["active", "unknown"]
    await story.succession.carry_out([(story.node_id, "use")], "ctl-1")
    assert story.node.user_keys == (keys[-2].public.line, story.machine.user.public.line)


async def test_attack_an_engine_that_has_changed_brings_key_after_key(story: Story) -> None:
    """The rotation is the newest still, for nodes that were off: each turn would leave a key and records for ever."""
    new = PrivateKey.generate()
    await story.succession.want("r1", "next", "admin")
    await story.offer(new)
    await story.succession.want("r1", "retire", "admin")
    for step in ("use", "retire"):
        await story.succession.carry_out([(story.node_id, step)], "ctl-1")
    before = await story.world.revision()
    assert await refusal(story.offer(PrivateKey.generate())) == "FL-KEY-ROTATION"
    assert await story.world.revision() == before
    assert story.node.user_keys == (new.public.line,)
    await story.offer(new)  # the answer was lost
    assert await story.world.revision() == before


async def test_attack_an_engine_that_joined_since_brings_a_key_that_nobody_wants(story: Story) -> None:
    await story.succession.want("r1", "next", "admin")
    story.world.clock.set(200)
    story.machine = Machine()
    story.node_id = (await story.world.join("se-2", story.machine)).id
    before = await story.world.revision()
    assert await refusal(story.offer(PrivateKey.generate())) == "FL-KEY-ROTATION"
    assert await story.world.revision() == before


async def test_what_was_dropped_gives_way_to_the_rotation_before(story: Story) -> None:
    first = await story.succession.want("r1", "next", "admin")
    await story.succession.want("r1", "retire", "admin")
    story.world.clock.set(200)
    assert (await story.succession.want("r2", "next", "admin")).before == "r1"
    await story.succession.want("r2", "drop", "admin")
    await story.succession.forget("r2", "admin")
    assert await story.succession.wanted() == Wanted("r1", "retire", first.since)


async def test_what_is_due_comes_to_an_end_for_a_node_that_was_off(story: Story) -> None:
    """It slept through one rotation; the next one begins; it comes back, and ends with one key."""
    new = itertools.count(1)
    await story.succession.want("r1", "next", "admin")
    await story.offer(PrivateKey.from_seed(bytes([next(new)]) * 32))
    await story.succession.want("r1", "retire", "admin")  # used by nobody: it is off
    await story.succession.carry_out([(story.node_id, "use")], "ctl-1")
    await story.succession.want("r2", "next", "admin")

    async def step() -> str | None:
        node, wanted = story.node, await story.succession.wanted()
        assert wanted is not None

        def brought(line: str) -> str:
            return next((e.token_id for e in story.world.directory.keys.values() if e.line == line), "")

        what = due(Keys(node, brought(node.user_key), brought(node.next_key)), wanted, used=True, settled=True)
        if what == "ask":
            await story.offer(PrivateKey.from_seed(bytes([next(new)]) * 32), wanted.rotation)
        elif what is not None:
            await story.succession.carry_out([(story.node_id, what)], "ctl-1")
        return what

    assert [await step() for _ in range(3)] == ["retire", "ask", None]
    await story.succession.want("r2", "retire", "admin")
    assert [await step() for _ in range(3)] == ["use", "retire", None]
    assert story.node.user_keys == (PrivateKey.from_seed(bytes([2]) * 32).public.line,)
