"""The rotation of user keys from the leader's side: who is waited for, who is not, what leads back, who goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.base.errors import OperatorError
from fairlead.controller import user_keys as module
from fairlead.controller.rotating.user_keys import TOO_OLD, UserKeysOfNodes
from fairlead.controller.user_keys import NodeKeys, OwnKeys
from fairlead.enrol import keyring, next_key
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.next_key import Offer
from fairlead.enrol.succession import Succession
from fairlead.enrol.trust import KEYS, USER_KEY, save_key
from fairlead.fleet import user_keys as fleet
from fairlead.fleet.attached import Whereabouts
from fairlead.fleet.others import Others
from fairlead.fleet.user_keys import EngineKeys
from fairlead.keys.ssh import PrivateKey
from fairlead.link.keys import NEXT, STANDING, Standing
from fairlead.link.messages import (
    TAKES_KEYS,
    AnyFromController,
    AnyFromEngine,
    KeyTrouble,
    NextKey,
    NextKeyWanted,
    UserKeys,
    UsingKey,
)
from fairlead.nodes import records
from fairlead.nodes.node import Node
from fairlead.nodes.records import KeyEntry
from fairlead.nodes.user_keys import Due
from fairlead.rotation.phases import Phase, Rotation
from fairlead.store.protocol import Put, StoreUnavailable
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from tests.unit.transport.world import until
from tests.world import Machine, World, open_world, refusal


@dataclass(eq=False)
class FakeTunnel:
    peer: Peer


@dataclass
class Engine:
    """Software that does as it is told, unless it is deaf."""

    node: Node
    machine: Machine
    in_use: PrivateKey
    cluster: Any
    here: bool = True
    deaf: bool = False
    full: bool = False
    old: bool = False
    held: list[PrivateKey] = field(default_factory=list)
    tunnels: list[FakeTunnel] = field(default_factory=list)

    def connect(self, key: PrivateKey) -> FakeTunnel:
        made = FakeTunnel(Peer(self.node.id, self.node.name, "engine", "aviseuser", "active", key.public.fingerprint))
        self.tunnels.append(made)
        return made

    def answer(self, message: AnyFromController) -> AnyFromEngine | None:
        match message:
            case NextKeyWanted(rotation=rotation):
                if self.full:
                    return KeyTrouble(code="FL-DISK", words="no space left")
                made = next((key for key in self.held if key.public != self.in_use.public), None)
                if made is None:
                    self.held.append(made := PrivateKey.generate())
                offer = next_key.offer(self.cluster, self.node.id, rotation, made, self.machine.host)
                return NextKey(rotation=rotation, key=offer.key, user_proof=offer.user_proof,
                               host_proof=offer.host_proof)
            case UserKeys(use=use, revoked=revoked):
                self.held = [key for key in self.held if key.public.fingerprint not in revoked]
                self.in_use = next(key for key in self.held if key.public.fingerprint == use)
                for tunnel in self.tunnels[:2]:  # its own
                    tunnel.peer = replace(tunnel.peer, fingerprint=use)
                return UsingKey(fingerprint=use, held=[key.public.fingerprint for key in self.held])
            case _:
                return None


@dataclass
class House:
    """One Controller, its engines, and another Controller that says what the test wants."""

    world: World
    keyring: Keyring
    engines: dict[str, Engine] = field(default_factory=dict)
    others: Any = None
    there: dict[str, Standing] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    leading: bool = True
    leader: str | None = "ctl-1"

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> None:
        """What a process is made of; again after a crash."""
        world = self.world
        self.keys = EngineKeys(world.controller.id, world.directory, cast("Any", self), self._register)
        self.succession = Succession(world.store, world.audit, world.directory, world.cluster_uuid)
        self.nodes = NodeKeys("ctl-1", world.directory, self.keys, self.succession, cast("Others", self),
                              cast("Any", self), world.clock)
        self.own = OwnKeys(world.controller.id, world.cluster_uuid, lambda: world.host_key, self.keyring,
                           world.directory, self.keys, self._register, list)
        self.kind = UserKeysOfNodes(self.nodes, self.succession, self.attached)
        self.begin(self.keys.push())

    async def attached(self) -> Whereabouts:
        return Whereabouts()

    def begin(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def again(self) -> None:
        """The process dies, and another one leads."""
        await self.close()
        self.build()
        await self.world.directory.load()
        for engine in self.engines.values():
            if engine.here:
                await self.keys.greeted(engine.node.id)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def _register(self, node: Node, rotation: str, offer: Offer) -> None:
        await self.nodes.register(node, rotation, offer)

    async def engine(self, name: str, **ways: bool) -> Engine:
        machine = Machine()
        node = await self.world.join(name, machine)
        made = Engine(node, machine, machine.user, self.world.cluster_uuid, held=[machine.user])
        self.engines[node.id] = made
        for way, is_so in ways.items():
            setattr(made, way, is_so)
        await self.come(made)
        return made

    async def come(self, engine: Engine) -> None:
        if engine.here:
            engine.tunnels = []
            engine.connect(engine.in_use)
            engine.connect(engine.in_use)
            await self.keys.greeted(engine.node.id)

    # Engines, as the sessions show them.

    def linked(self, ability: str) -> list[str]:
        return [one for one, engine in self.engines.items() if engine.here and not engine.old]

    def abilities(self, node_id: str) -> frozenset[str] | None:
        engine = self.engines.get(node_id)
        return None if engine is None or not engine.here else frozenset([] if engine.old else [TAKES_KEYS])

    def tunnels_of(self, node_id: str) -> list[Tunnel]:
        engine = self.engines.get(node_id)
        return cast("list[Tunnel]", engine.tunnels) if engine is not None and engine.here else []

    def link_of(self, node_id: str) -> Tunnel | None:
        return next(iter(self.tunnels_of(node_id)), None)

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        engine = self.engines[node_id]
        if engine.here and not engine.deaf and (answer := engine.answer(message)) is not None:
            await self.keys.heard(node_id, answer)

    # The other Controllers.

    async def all(self, op: str, asked: Any, form: Any) -> Any:
        assert op == STANDING
        return type("Heard", (), {"answers": self.there, "silent": self.silent})

    # What the driver does.

    async def do(self, phase: Phase) -> dict[str, str]:
        rotation = Rotation("r1", "user-keys", "admin", 0, 0, phase, 0)
        works: dict[str, Callable[[Rotation], Any]] = {
            "stage": self.kind.stage, "cut-over": self.kind.cut_over, "retire": self.kind.retire,
            "cut-back": self.kind.cut_back, "withdraw": self.kind.withdraw}
        if phase in works:
            await works[phase](rotation)
        await self.nodes.turn()
        return dict(await self.kind.behind(rotation))

    async def through(self, *phases: Phase) -> None:
        for phase in phases:
            async with asyncio.timeout(10):
                while await self.do(phase):
                    await self.own.turn()
                    await asyncio.sleep(0.01)

    def node(self, engine: Engine) -> Node:
        return self.world.directory.nodes[engine.node.id]

    def revoked(self, engine: Engine) -> list[PrivateKey]:
        """Keys that it holds to no purpose."""
        known = self.world.directory.keys
        return [key for key in engine.held if key.public.fingerprint in known and self.state(key) == "revoked"]

    def state(self, key: PrivateKey) -> str:
        return self.world.directory.keys[key.public.fingerprint].state


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(fleet, "RETRY_S", 0.02)
    async with open_world(tmp_path) as world:
        mine = PrivateKey.generate()
        (tmp_path / KEYS).mkdir(mode=0o700)
        save_key(tmp_path, USER_KEY, mine)
        me = replace(world.controller, user_key=mine.public.line)
        outcome = await world.store.transact([], [
            Put(records.NODES + me.id, records.encode(me)),
            Put(records.KEYS + mine.public.fingerprint, records.encode(
                KeyEntry(me.id, "user", "active", "", mine.public.line)))])
        await world.directory.reached(outcome.revision)
        made = House(world, Keyring(tmp_path))
        yield made
        await made.close()


FORWARD: tuple[Phase, ...] = ("stage", "distribute", "acknowledge", "cut-over", "retire")


async def test_everybody_changes_and_the_controller_too(house: House) -> None:
    engine = await house.engine("se-1")
    before, mine = engine.in_use, house.keyring.in_use
    house.world.clock.set(10)
    await house.through(*FORWARD)
    assert house.state(before) == house.state(mine) == "revoked"
    assert house.node(engine).user_keys == (engine.in_use.public.line,)
    assert house.keyring.in_use.public.line == house.world.directory.nodes[house.world.controller.id].user_key
    assert house.nodes.late() == []
    await until(lambda: engine.held == [engine.in_use])
    await house.own.turn()
    assert house.keyring.held == [house.keyring.in_use]


async def test_nothing_is_used_before_all_that_are_there_have_made_a_key(house: House) -> None:
    engine = await house.engine("se-1")
    await house.engine("se-2", deaf=True)
    house.world.clock.set(10)
    await house.do("stage")
    await house.own.turn()
    await until(lambda: bool(house.node(engine).next_key))
    assert await house.do("acknowledge") == {"se-2": "it has not made its next user key"}
    assert house.node(engine).user_key == engine.machine.user.public.line


@pytest.mark.parametrize("reached", [0, 1, 2, 3])
async def test_it_leads_back_from_each_phase(house: House, reached: int) -> None:
    engine = await house.engine("se-1")
    asleep = await house.engine("se-2")
    before, mine = engine.in_use, house.keyring.in_use
    house.world.clock.set(10)
    await house.through(*FORWARD[:reached])
    asleep.here = False
    await house.do(FORWARD[reached])
    if reached == 3:
        await house.through("cut-back")
    await house.through("withdraw")
    for node in (engine, asleep):
        assert house.node(node).user_keys == (node.machine.user.public.line,)
    assert house.world.directory.nodes[house.world.controller.id].user_keys == (mine.public.line,)
    assert house.keyring.in_use.public == mine.public
    assert house.state(before) == "active"
    asleep.here = True
    await house.come(asleep)
    await until(lambda: not house.revoked(engine) and not house.revoked(asleep))
    assert {e.state for e in house.world.directory.keys.values() if e.token_id == "r1"} <= {"revoked"}


async def test_another_leader_goes_on_in_each_phase(house: House) -> None:
    engine = await house.engine("se-1")
    before = engine.in_use
    house.world.clock.set(10)
    for phase in FORWARD:
        await house.do(phase)
        await house.again()
        await house.through(phase)
    assert house.state(before) == "revoked"
    assert house.node(engine).user_keys == (engine.in_use.public.line,)


async def test_a_node_that_was_off_keeps_its_key_until_it_has_changed_it(house: House) -> None:
    engine = await house.engine("se-1", here=False)
    before = engine.in_use
    house.world.clock.set(10)
    await house.through(*FORWARD)
    assert (house.nodes.late(), house.state(before)) == (["se-1"], "active")
    engine.here = True
    await house.come(engine)
    async with asyncio.timeout(10):
        while house.nodes.late():
            await house.nodes.turn()
            await asyncio.sleep(0.01)
    assert house.state(before) == "revoked"
    assert house.node(engine).user_keys == (engine.in_use.public.line,)


async def test_what_a_store_that_was_away_did_not_take_is_done_when_it_is_back(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was late retires its key while the store does not answer, and nobody says anything afterwards."""
    monkeypatch.setattr(module, "TURN_S", 0.01)
    engine = await house.engine("se-1", here=False)
    before, carry_out, failed, away = engine.in_use, house.succession.carry_out, list[str](), True

    async def carried_out(dues: Sequence[tuple[str, Due]], by: str) -> int:
        if away and "retire" in [what for _, what in dues]:
            failed.append(by)
            raise StoreUnavailable("it is away")
        return await carry_out(dues, by)

    house.world.clock.set(10)
    await house.through(*FORWARD)
    house.begin(house.nodes.lead())
    await until(lambda: not house.keys.moved.is_set())
    monkeypatch.setattr(house.succession, "carry_out", carried_out)
    engine.here = True
    await house.come(engine)
    await until(lambda: bool(failed))
    await asyncio.sleep(0.2)  # all that the engine says is said
    assert house.state(before) == "active"
    away = False
    await until(lambda: not house.nodes.late())
    assert house.state(before) == "revoked"


async def test_a_node_that_leaves_before_the_cut_is_late_and_ends_it_when_it_comes_back(house: House) -> None:
    engine = await house.engine("se-1")
    before = engine.in_use
    house.world.clock.set(10)
    await house.through("stage", "distribute")
    engine.here = False
    await house.through("acknowledge", "cut-over", "retire")
    assert (house.nodes.late(), house.state(before)) == (["se-1"], "active")
    engine.here = True
    await house.come(engine)
    async with asyncio.timeout(10):
        while house.nodes.late():
            await house.nodes.turn()
            await asyncio.sleep(0.01)
    assert house.state(before) == "revoked"


async def test_an_engine_that_is_too_old_is_stranded_and_keeps_its_key(house: House) -> None:
    engine = await house.engine("se-1", old=True)
    assert await house.kind.stranded("") == {"se-1": TOO_OLD}
    house.world.clock.set(10)
    await house.do("stage")
    await house.own.turn()
    assert await house.do("distribute") == {"se-1": "it has not made its next user key"}
    await house.do("retire")
    assert house.nodes.late() == ["ctl-1", "se-1"]
    assert house.state(engine.in_use) == "active"


async def test_what_an_engine_cannot_do_is_said_of_it(house: House) -> None:
    engine = await house.engine("se-1", full=True)
    house.world.clock.set(10)
    await house.do("stage")
    await house.own.turn()
    await until(lambda: bool(house.keys.standing([engine.node.id]).troubles))
    assert await house.do("distribute") == {"se-1": "it has not made its next user key: FL-DISK, no space left"}
    engine.full = False
    await house.through("distribute")


async def test_attack_a_connection_held_open_with_the_old_key_puts_retirement_off_for_a_while_only(
        house: House) -> None:
    engine = await house.engine("se-1")
    before = engine.in_use
    engine.connect(before)  # a thief's
    house.world.clock.set(10)
    await house.through("stage", "distribute", "acknowledge", "cut-over")
    assert "se-1" in await house.do("retire")
    assert house.state(before) == "active"
    house.world.clock.set(11 + module.GRACE_S)
    await house.through("retire")
    assert house.state(before) == "revoked"


async def test_another_controller_s_connections_are_waited_for(house: House) -> None:
    engine = await house.engine("se-1")
    before = engine.in_use
    house.there = {"ctl-2": Standing(here=[engine.node.id], open=[engine.node.id])}
    house.world.clock.set(10)
    await house.through("stage", "distribute", "acknowledge", "cut-over")
    assert "se-1" in await house.do("retire")
    house.there, house.silent = {}, ("ctl-2",)
    assert "se-1" in await house.do("retire"), "it may have some"
    house.silent = ()
    await house.through("retire")
    assert house.state(before) == "revoked"


async def test_attack_who_has_the_old_key_only_does_not_say_that_the_new_one_is_used(house: House) -> None:
    engine = await house.engine("se-1", deaf=True)
    house.world.clock.set(10)
    await house.do("stage")
    made = PrivateKey.generate()
    await house.succession.register(engine.node.id, "r1", next_key.offer(
        house.world.cluster_uuid, engine.node.id, "r1", made, engine.machine.host), "ctl-1")
    await house.do("cut-over")
    await house.keys.heard(engine.node.id, UsingKey(fingerprint=made.public.fingerprint))
    await house.do("retire")
    house.world.clock.set(100)
    assert "se-1" in await house.do("retire")
    assert house.state(engine.machine.user) == "active", "nobody has proven the new one"


async def test_attack_an_engine_shows_somebody_else_s_key(house: House) -> None:
    engine, other = await house.engine("se-1", deaf=True), await house.engine("se-2", deaf=True)
    house.world.clock.set(10)
    await house.do("stage")
    made = PrivateKey.generate()
    offer = next_key.offer(house.world.cluster_uuid, other.node.id, "r1", made, other.machine.host)
    await house.keys.heard(engine.node.id, NextKey(rotation="r1", key=offer.key, user_proof=offer.user_proof,
                                                   host_proof=offer.host_proof))
    await until(lambda: bool(house.keys.standing([engine.node.id]).troubles))
    assert "FL-KEY-PROOF" in house.keys.standing([engine.node.id]).troubles[engine.node.id]
    assert house.node(engine).next_key == house.node(other).next_key == ""


async def test_attack_an_engine_shows_keys_that_it_was_not_asked_for(house: House) -> None:
    """The leader is not even troubled with them; one that it has shown already may be shown again."""
    engine, registered = await house.engine("se-1"), list[str]()

    async def register(node: Node, rotation: str, offer: Offer) -> None:
        registered.append(offer.key)
        await house.nodes.register(node, rotation, offer)

    async def show(key: PrivateKey) -> None:
        offer = next_key.offer(house.world.cluster_uuid, engine.node.id, "r1", key, engine.machine.host)
        await until(lambda: engine.node.id not in house.keys._registering)  # nothing of before is under way
        await house.keys.heard(engine.node.id, NextKey(rotation="r1", key=offer.key, user_proof=offer.user_proof,
                                                       host_proof=offer.host_proof))
        if (taking := house.keys._registering.get(engine.node.id)) is not None:
            await taking

    house.world.clock.set(10)
    await house.through("stage", "distribute")
    house.keys._register = register
    await show(engine.held[-1])
    assert registered == [house.node(engine).next_key]
    await show(PrivateKey.generate())
    assert len(registered) == 1
    await house.through("acknowledge", "cut-over", "retire")
    await show(PrivateKey.generate())
    assert len(registered) == 1
    assert house.node(engine).user_keys == (engine.in_use.public.line,)


async def test_a_key_of_a_rotation_that_went_back_is_dropped_and_another_one_made(house: House) -> None:
    engine = await house.engine("se-1")
    house.world.clock.set(10)
    await house.through("stage", "distribute")
    engine.here = False
    await house.through("withdraw")
    old = engine.held[-1]
    engine.here = True
    await house.succession.want("r2", "next", "admin")
    await house.come(engine)
    await until(lambda: bool(house.node(engine).next_key))
    assert house.node(engine).next_key != old.public.line
    assert house.state(old) == "revoked"


async def test_it_is_for_no_certificate_and_called_off_before_it_began_it_does_nothing(house: House) -> None:
    assert await refusal(house.kind.check("some-uuid")) == "FL-ROTATE-TO"
    await house.kind.check("")
    before = await house.world.revision()
    assert await house.do("withdraw") == {}
    assert await house.world.revision() == before


async def test_what_another_controller_asks(house: House) -> None:
    engine = await house.engine("se-1", deaf=True)
    house.world.clock.set(10)
    await house.do("stage")
    offer = next_key.offer(house.world.cluster_uuid, engine.node.id, "r1", PrivateKey.generate(), engine.machine.host)
    fields = {"node": engine.node.id, "rotation": "r1", "key": offer.key, "user_proof": offer.user_proof,
              "host_proof": offer.host_proof}
    asking = house.world.controller
    assert await house.nodes.answer(asking, NEXT, fields) == {}
    assert house.node(engine).next_key == offer.key
    standing = await house.nodes.answer(asking, STANDING, {"nodes": [engine.node.id, "unknown"]})
    assert standing == Standing(here=[engine.node.id]).model_dump()
    assert await refusal(house.nodes.answer(asking, NEXT, fields | {"key": 7})) == "FL-PEER-QUESTION"
    assert await house.nodes.answer(asking, "else", {}) is None


async def test_a_full_disk_of_a_controller_is_its_problem(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OperatorError("FL-DISK", "no space left", "free some")

    house.world.clock.set(10)
    await house.do("stage")
    monkeypatch.setattr(keyring, "save_key", full)
    monkeypatch.setattr(module, "TURN_S", 0.01)
    house.begin(house.own.follow())
    await until(lambda: "FL-DISK" in house.own.problem)
    assert await house.do("distribute") == {"ctl-1": "it has not made its next user key"}
    monkeypatch.undo()
    await until(lambda: not house.own.problem)
    await until(lambda: bool(house.world.directory.nodes[house.world.controller.id].next_key))
