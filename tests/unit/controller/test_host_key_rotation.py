"""Host keys of three Controllers: each phase, each stop, each way back, and what others would like to slip in."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from fairlead.base import files
from fairlead.base.errors import OperatorError
from fairlead.controller.hostkeys import NEXT as NEXT_FILE
from fairlead.controller.hostkeys import HostKeys
from fairlead.controller.rotating.host_keys import (
    IN_USE_NAMESPACE,
    NEXT,
    NEXT_NAMESPACE,
    PINS,
    PROOF,
    HostKeyRotation,
    proof,
    proven,
    statement,
)
from fairlead.controller.rotating.own_host_key import OwnHostKey
from fairlead.enrol.trust import HOST_KEY, KEYS, save_key
from fairlead.fleet.attached import Whereabouts
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64
from fairlead.link.messages import PlanController
from fairlead.mesh.plan import plan_for
from fairlead.nodes import records
from fairlead.nodes.node import Node
from fairlead.nodes.records import KeyEntry
from fairlead.rotation.phases import Phase, Rotation
from fairlead.store.fence import NotLeading, unfenced
from fairlead.store.protocol import Put
from tests.world import World, open_world, refusal

FORWARD: tuple[Phase, ...] = ("stage", "distribute", "acknowledge", "cut-over", "retire")
IDLE: Phase = "over"


@dataclass
class Others:
    """What the Controllers have told, and who is there."""

    told: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, node_id: str) -> dict[str, str]:
        return self.told.get(node_id, {})


class Ground:
    """Three Controllers over one store."""

    def __init__(self, world: World, folder: Path) -> None:
        async def attached() -> Whereabouts:
            return Whereabouts()

        self.world, self.folder = world, folder
        self.rotation: Rotation | None = None
        self.others = Others()
        self.asleep: set[str] = set()
        self.ids = [world.controller.id, "id-2", "id-3"]
        self.own: dict[str, OwnHostKey] = {}
        self.kind = HostKeyRotation(
            world.cluster_uuid, world.store, world.audit, world.directory, unfenced, cast("Any", self.others),
            lambda: [node.name for node in world.directory.controllers() if node.id not in self.asleep], attached)

    async def begin(self) -> None:
        keys = {node_id: PrivateKey.generate() for node_id in self.ids}
        for number, node_id in enumerate(self.ids, 1):
            node = replace(self.world.controller, id=node_id, name=f"ctl-{number}",
                           internal_address=f"127.64.0.{number}", host_key=keys[node_id].public.line)
            line = node.host_key
            outcome = await self.world.store.transact([], [
                Put(records.NODES + node_id, records.encode(node)),
                Put(records.KEYS + PublicKey.from_line(line).fingerprint, records.encode(
                    KeyEntry(node_id, "host", "active", "", line)))])
            files.make_private_folder(self.folder / node_id / KEYS)
            save_key(self.folder / node_id, HOST_KEY, keys[node_id])
        await self.world.directory.reached(outcome.revision)
        self.start()

    def start(self) -> None:
        """Every Controller's process, anew, from its disk."""
        self.own = {node_id: OwnHostKey(
            HostKeys.load(self.folder / node_id), self.world.directory, node_id, self.world.cluster_uuid,
            lambda: self.rotation, lambda node_id=node_id: self.plan(node_id))  # type: ignore[misc]
            for node_id in self.ids}

    def plan(self, node_id: str) -> list[PlanController]:
        return plan_for(self.node(node_id), self.world.directory.nodes.values(), [], generation="g",
                        revision=1).controllers

    def node(self, node_id: str) -> Node:
        return self.world.directory.nodes[node_id]

    def shown(self) -> list[str]:
        return [self.own[node_id].keys.shown.public.line for node_id in self.ids]

    def known(self) -> list[tuple[str, str]]:
        return [(self.node(node_id).host_key, self.node(node_id).next_host_key) for node_id in self.ids]

    def files(self) -> list[list[str]]:
        return [sorted(path.name for path in (self.folder / node_id / KEYS).iterdir() if path.suffix != ".pub")
                for node_id in self.ids]

    def see(self) -> None:
        """Whoever is awake sees how it stands, and tells."""
        for node_id in set(self.ids) - self.asleep:
            self.own[node_id].step()
            self.others.told[node_id] = dict(self.own[node_id].facts())

    async def come_to(self, phase: Phase, name: str = "r1", *, restarted: bool = False) -> set[str]:
        """Begin a phase and see it to its end; by name, who was behind before he had seen it."""
        before = self.rotation
        self.rotation = Rotation(name, "host-keys", "jane", 1, 1, phase, 1, material=dict(
            before.material if before is not None and before.id == name else {}))
        waited = set[str]()
        for _ in range(3):
            if restarted:
                self.start()
            match phase:
                case "stage":
                    self.rotation = replace(self.rotation, material=dict(await self.kind.stage(self.rotation)))
                case "cut-over":
                    await self.kind.cut_over(self.rotation)
                case "cut-back":
                    await self.kind.cut_back(self.rotation)
                case "retire":
                    await self.kind.retire(self.rotation)
                case "withdraw":
                    await self.kind.withdraw(self.rotation)
            waited |= set(await self.kind.behind(self.rotation))
            self.see()
        assert set(await self.kind.behind(self.rotation)) == {self.node(one).name for one in self.asleep}
        return waited

    def over(self) -> None:
        self.rotation = None
        self.see()

    async def state(self, line: str) -> str:
        entry = await self.world.key(PublicKey.from_line(line))
        return entry.state if entry is not None else "none"


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with open_world(tmp_path) as world:
        made = Ground(world, tmp_path / "controllers")
        await made.begin()
        yield made


async def test_all_change_and_nothing_of_the_old_is_left(ground: Ground) -> None:
    old = ground.shown()
    waited = {phase: await ground.come_to(phase) for phase in FORWARD[:3]}
    new = [following for _, following in ground.known()]
    assert ground.shown() == old
    assert ground.known() == list(zip(old, new, strict=True))
    assert ground.files() == [["host", "host.next"]] * 3
    for node_id in ground.ids:
        own = ground.own[node_id]
        assert {key.public for key in own.shown()} == set(ground.node(node_id).host_keys), "people are told both"
    waited["cut-over"] = await ground.come_to("cut-over")
    assert ground.shown() == new
    assert ground.known() == list(zip(old, new, strict=True)), "both are pinned while they change"
    waited["retire"] = await ground.come_to("retire")
    assert waited == {"stage": {"ctl-1", "ctl-2", "ctl-3"}, "distribute": set(), "acknowledge": waited["acknowledge"],
                      "cut-over": {"ctl-1", "ctl-2", "ctl-3"}, "retire": {"ctl-1", "ctl-2", "ctl-3"}}
    assert ground.known() == [(line, "") for line in new]
    assert ground.files() == [["host"]] * 3
    ground.over()
    assert ground.shown() == new
    assert not set(old) & set(new)
    assert [await ground.state(line) for line in (*old, *new)] == ["revoked"] * 3 + ["active"] * 3
    events = [record.event for record in await ground.world.audited() if record.event.startswith("host-key.")]
    assert events == ["host-key.next"] * 3 + ["host-key.retired"] * 3
    assert all(not own.facts() for own in ground.own.values())


async def test_every_process_is_started_anew_in_each_phase(ground: Ground) -> None:
    old = ground.shown()
    for name in ("r1", "r2"):
        for phase in FORWARD:
            await ground.come_to(phase, name, restarted=True)
    ground.over()
    assert ground.files() == [["host"]] * 3
    assert [(line, "") for line in ground.shown()] == ground.known()
    assert not set(old) & set(ground.shown())


@pytest.mark.parametrize("last", FORWARD[:4])
async def test_called_off_in_each_phase_leads_back(ground: Ground, last: Phase) -> None:
    old = ground.shown()
    for phase in FORWARD[:FORWARD.index(last) + 1]:
        await ground.come_to(phase)
    new = [following for _, following in ground.known()]
    if last == "cut-over":
        assert await ground.come_to("cut-back", restarted=True) == {"ctl-1", "ctl-2", "ctl-3"}
    await ground.come_to("withdraw", restarted=True)
    ground.over()
    assert ground.shown() == old
    assert ground.known() == [(line, "") for line in old]
    assert ground.files() == [["host"]] * 3
    assert [await ground.state(line) for line in (*old, *new)] == ["active"] * 3 + ["revoked"] * 3
    for phase in FORWARD:
        await ground.come_to(phase, "r2")
    assert not set(ground.shown()) & {*old, *new}, "what was withdrawn does not come back"


async def test_one_that_sleeps_is_waited_for_and_finds_its_way_whatever_came_of_it(ground: Ground) -> None:
    ground.asleep = {"id-3"}
    assert await refusal(ground.kind.check("")) == "FL-ROTATE-CONTROLLER"
    await ground.come_to("stage")
    ground.asleep.clear()
    for phase in FORWARD[:4]:
        await ground.come_to(phase)
    old, new = ground.known()[2]
    ground.asleep = {"id-3"}  # it shows its new one, and all turn back
    await ground.come_to("cut-back")
    await ground.kind.withdraw(replace(cast("Rotation", ground.rotation), phase="withdraw"))
    ground.asleep.clear()
    ground.start()
    assert (ground.shown()[2], ground.known()[2]) == (new, (new, "")), "nobody refuses it when it comes back"
    assert [await ground.state(line) for line in (old, new)] == ["revoked", "active"]
    ground.over()
    assert ground.files() == [["host"]] * 3
    assert [(line, "") for line in ground.shown()] == ground.known()


async def test_one_that_sleeps_while_the_old_one_is_retired_forgets_it_when_it_comes_back(ground: Ground) -> None:
    for phase in FORWARD[:4]:
        await ground.come_to(phase)
    ground.asleep = {"id-3"}
    await ground.kind.retire(replace(cast("Rotation", ground.rotation), phase="retire"))
    ground.asleep.clear()
    ground.start()
    assert [(ground.shown()[2], "")] == ground.known()[2:]
    ground.over()
    assert ground.files() == [["host"]] * 3


async def test_a_next_key_that_is_lost_is_made_anew_and_the_lost_one_revoked(ground: Ground) -> None:
    await ground.come_to("stage")
    lost = ground.known()[0][1]
    (ground.folder / ground.ids[0] / KEYS / NEXT_FILE).unlink()
    ground.start()
    await ground.come_to("stage")
    assert ground.known()[0][1] != lost
    assert await ground.state(lost) == "revoked"


async def test_one_that_slept_while_its_next_key_was_withdrawn_makes_another(ground: Ground) -> None:
    await ground.come_to("stage")
    withdrawn = ground.known()[0][1]
    ground.asleep = {ground.ids[0]}  # so the withdrawn one stays on its disk
    await ground.come_to("withdraw")
    ground.asleep.clear()
    ground.start()
    await ground.come_to("stage", "r2")
    assert ground.known()[0][1] not in ("", withdrawn)


async def test_a_key_that_the_cluster_knows_and_the_disk_does_not_is_said(ground: Ground) -> None:
    for phase in FORWARD[:3]:
        await ground.come_to(phase)
    (ground.folder / ground.ids[0] / KEYS / NEXT_FILE).unlink()
    ground.start()
    ground.rotation = replace(cast("Rotation", ground.rotation), phase="cut-over")
    with pytest.raises(OperatorError) as said:
        ground.own[ground.ids[0]].step()
    assert said.value.code == "FL-HOST-KEY"
    assert "it shows its old host key" in (await ground.kind.behind(ground.rotation))["ctl-1"]


async def test_whoever_does_not_pin_all_next_keys_is_waited_for(ground: Ground) -> None:
    for phase in FORWARD[:3]:
        await ground.come_to(phase)
    assert ground.rotation is not None
    told = ground.others.told["id-2"]
    told[PINS] = told[PINS].split()[0]
    assert set(await ground.kind.behind(ground.rotation)) == {"ctl-2"}


async def test_a_certificate_is_refused_and_another_leader_writes_nothing(ground: Ground) -> None:
    assert await refusal(ground.kind.check("certificate-x")) == "FL-ROTATE-KIND"
    await ground.kind.check("")
    await ground.come_to("stage")
    rotation = replace(cast("Rotation", ground.rotation), phase="retire")

    def fence() -> Sequence[Any]:
        raise NotLeading(None)

    with pytest.raises(NotLeading):
        await replace(ground.kind, fence=fence).retire(rotation)
    assert all(following for _, following in ground.known())


# -- attacks ----------------------------------------------------------------------------------------------------------

CLUSTER = UUID(int=7)
PRESENT, FOLLOWING, MALLORY = (PrivateKey.from_seed(letter * 32) for letter in (b"p", b"f", b"m"))
ME = Node("id-1", "ctl-1", "controller", "up", "127.64.0.1", PRESENT.public.line, MALLORY.public.line, 1)
RIGHT = {NEXT: FOLLOWING.public.line, PROOF: proof(CLUSTER, "r1", "id-1", PRESENT, FOLLOWING)}


def test_a_next_key_counts_with_both_signatures() -> None:
    assert proven(CLUSTER, "r1", ME, RIGHT) == FOLLOWING.public


@pytest.mark.parametrize("told", [
    {}, {NEXT: RIGHT[NEXT]}, {PROOF: RIGHT[PROOF]}, RIGHT | {NEXT: "ssh-ed25519 AAAA"}, RIGHT | {PROOF: "x y z"},
    RIGHT | {NEXT: MALLORY.public.line}, RIGHT | {NEXT: PRESENT.public.line},
    {NEXT: MALLORY.public.line, PROOF: proof(CLUSTER, "r1", "id-1", MALLORY, MALLORY)},
    RIGHT | {PROOF: " ".join(reversed(RIGHT[PROOF].split()))},
    RIGHT | {PROOF: proof(CLUSTER, "r0", "id-1", PRESENT, FOLLOWING)},
    RIGHT | {PROOF: proof(CLUSTER, "r1", "id-2", PRESENT, FOLLOWING)},
    RIGHT | {PROOF: proof(UUID(int=8), "r1", "id-1", PRESENT, FOLLOWING)},
    {NEXT: PRESENT.public.line, PROOF: proof(CLUSTER, "r1", "id-1", PRESENT, PRESENT)},
], ids=range(13))
def test_attack_a_next_key_of_somebody_else_does_not_count(told: dict[str, str]) -> None:
    assert proven(CLUSTER, "r1", ME, told) is None


@pytest.mark.parametrize("half", [0, 1])
def test_attack_one_signature_of_the_two_is_none(half: int) -> None:
    """Who writes into the store has no key of ours; who has taken over a Controller has not another's key."""
    said = statement(CLUSTER, "r1", "id-1", PRESENT.public, FOLLOWING.public)
    signed = [b64(PRESENT.sign(IN_USE_NAMESPACE, said)), b64(FOLLOWING.sign(NEXT_NAMESPACE, said))]
    signed[half] = b64(MALLORY.sign((IN_USE_NAMESPACE, NEXT_NAMESPACE)[half], said))
    assert proven(CLUSTER, "r1", ME, RIGHT | {PROOF: " ".join(signed)}) is None


async def test_attack_a_key_that_was_somebodys_before_is_nobodys_next_one(ground: Ground) -> None:
    """A revoked key, an engine's, another Controller's: whoever has it does not come back as a Controller with it."""
    stolen = PrivateKey.generate()
    outcome = await ground.world.store.transact([], [Put(records.KEYS + stolen.public.fingerprint, records.encode(
        KeyEntry("somebody who was removed", "host", "revoked", "", stolen.public.line)))])
    await ground.world.directory.reached(outcome.revision)
    ground.rotation = Rotation("r1", "host-keys", "jane", 1, 1, "stage", 1)
    mine = ground.own["id-2"].keys.shown
    ground.others.told["id-2"] = {
        NEXT: stolen.public.line, PROOF: proof(ground.world.cluster_uuid, "r1", "id-2", mine, stolen)}
    assert await ground.kind.stage(ground.rotation) == {}
    assert "ctl-2" in await ground.kind.behind(ground.rotation)
    assert ground.known()[1][1] == ""
    assert await ground.state(stolen.public.line) == "revoked"


