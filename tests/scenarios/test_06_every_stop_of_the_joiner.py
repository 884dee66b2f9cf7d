"""A machine is stopped before and after every change of its folder and every message: the same command goes on.

A join that was killed, or whose machine lost its power, or that found no room, is repeated with the same bundle and
ends with one node, whose keys are those that were sent first. So are the other commands that write: making a
Controller and ending it, exporting a bundle, leaving.
"""

import itertools
import json
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from fairlead.base import configuration, files
from fairlead.base.errors import FairleadError, Refused
from fairlead.cli import daemons
from fairlead.controller import initialise as initialising
from fairlead.controller import secrets as sealing
from fairlead.controller.initialise import destroy, initialise
from fairlead.controller.settings import ControllerSettings
from fairlead.engine.settings import EngineSettings
from fairlead.enrol import bundle as bundles
from fairlead.enrol import join as joining
from fairlead.enrol import signed
from fairlead.enrol.join import Joiner
from fairlead.enrol.trust import HOST_KEY, KEYS, USER_KEY, load, load_key, save_key
from fairlead.keys.ssh import PrivateKey
from fairlead.nodes import records
from fairlead.store.sqlite import SQLiteStore
from fairlead.users.accounts import Account
from tests.disk import Disk
from tests.soundness import sound
from tests.unit.enrol.test_join import FakeTunnel, Network
from tests.unit.enrol.test_trust import TRUST
from tests.world import Death, ManualClock, World, open_world, refusal

CRASHES = {"before": (False, False), "after": (True, False), "the power is cut": (True, True)}
"""Whether the step happened, and whether what was not synced is lost."""
each_crash = pytest.mark.parametrize(("happened", "power"), CRASHES.values(), ids=CRASHES)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    (root := tmp_path / "disk").mkdir()
    return Disk(root, monkeypatch)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


class Machine:
    """Somebody who joins, again and again with the same command."""

    def __init__(self, network: Network, disk: Disk, name: str) -> None:
        self.network, self.world, self.disk, self.name = network, network.world, disk, name
        self.state = disk.root / name
        self.file = disk.root / f"{name}.bundle"
        self.secret = ""

    async def gets_a_bundle(self) -> None:
        """On its disk, for good."""
        self.network.posted.clear()
        bundle = await self.world.export(node=self.name)
        self.secret = bundle.token.encode()
        self.file.touch(0o600)
        self.file.write_bytes(bundle.encode())
        self.disk.keep()

    async def joins(self) -> None:
        """``engine join``. Raises FairleadError."""
        await Joiner(self.state, "engine", self.name, self.network.clock).join(
            bundles.decode(self.file.read_bytes()), lambda: daemons._forget(str(self.file), keep=False),
            lambda: daemons._settle(self.state, EngineSettings()))

    async def joins_again(self) -> None:
        """The same command, where there is something left to do."""
        if not self.file.exists():
            return
        spent = not (self.state / "pending" / "join.json").exists() and (self.state / "trust.json").exists()
        if spent:
            assert await refusal(self.joins()) == "FL-ALREADY-JOINED"
            self.file.unlink()
        else:
            await self.joins()

    def has_joined(self) -> None:
        """It is one node, with the keys that it sent first; nothing secret is left of the way there."""
        trust = load(self.state)
        (node,) = (n for n in self.world.directory.nodes.values() if n.name == self.name)
        assert (trust.node_id, trust.internal_address) == (node.id, node.internal_address)
        assert node.state == "up"
        assert [load_key(self.state, key).public.line for key in (HOST_KEY, USER_KEY)] == [node.host_key, node.user_key]
        assert {json.loads(body)["host_key"] for body in self.network.posted} == {node.host_key}
        assert configuration.load(self.state, EngineSettings) == EngineSettings()
        assert not self.file.exists()
        assert not any(self.secret.encode() in f.read_bytes() for f in self.state.rglob("*") if f.is_file())
        assert not list((self.state / "pending").glob("*"))
        self.disk.clear()


@pytest.fixture
def network(world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Exchange, dialling and commit are steps, too."""
    made, send = Network(world), FakeTunnel.send

    async def request(*given: Any, **more: Any) -> Any:
        return await disk.remote_step("exchange", partial(made.request, *given, **more))

    async def dial(*given: Any, **more: Any) -> FakeTunnel:
        return await disk.remote_step("dial", partial(made.dial, *given, **more))

    async def sending(tunnel: FakeTunnel, data: bytes) -> None:
        await disk.remote_step("commit", partial(send, tunnel, data))

    monkeypatch.setattr(joining, "request", request)
    monkeypatch.setattr(joining, "dial", dial)
    monkeypatch.setattr(FakeTunnel, "send", sending)
    return made


async def dies(work: Awaitable[None], disk: Disk, step: int, *, happened: bool, power: bool) -> bool:
    """Whether *work* comes to that step of the disk, where it dies; afterwards the disk goes on."""
    disk.stop_at(step, happened=happened)
    try:
        await work
    except Death:
        disk.go_on(power_was_cut=power)
        return True
    return False


@each_crash
async def test_a_join_that_is_stopped_anywhere_goes_on(
        network: Network, disk: Disk, happened: bool, power: bool) -> None:
    for step in itertools.count(1):
        machine = Machine(network, disk, f"se-{step}")
        await machine.gets_a_bundle()
        if not await dies(machine.joins(), disk, step, happened=happened, power=power):
            break
        await machine.joins_again()
        machine.has_joined()
    steps = disk.steps
    machine.has_joined()
    await sound(network.world)
    assert {"exchange", "dial", "commit"} <= set(steps)
    assert step == len(steps) + 1 > 40


@each_crash
async def test_a_join_that_is_stopped_again_and_again_comes_a_step_further_each_time(
        network: Network, disk: Disk, happened: bool, power: bool) -> None:
    machine = Machine(network, disk, "se-1")
    await machine.gets_a_bundle()
    for step in itertools.count(1):
        if not await dies(machine.joins(), disk, step, happened=happened, power=power):
            break
        await sound(network.world)
        if machine.state.joinpath("trust.json").exists():
            break
    disk.go_on()
    await machine.joins_again()
    machine.has_joined()
    await sound(network.world)
    assert step > 20


@each_crash
async def test_what_was_left_half_written_goes_too_wherever_the_wiping_stops(
        network: Network, disk: Disk, happened: bool, power: bool) -> None:
    """Two crashes: the one left half of a journal, with the token in it, the other comes while it is wiped."""
    first = Machine(network, disk, "se-0")
    await first.gets_a_bundle()
    disk.go_on()
    await first.joins()
    trusted = max(number for number, step in enumerate(disk.steps, 1) if "trust.json" in step)
    for step in itertools.count(1):
        machine = Machine(network, disk, f"se-{step}")
        await machine.gets_a_bundle()
        assert await dies(machine.joins(), disk, trusted, happened=True, power=False)
        pending = machine.state / "pending"
        (pending / ".join.json.half").write_bytes((pending / "join.json").read_bytes()[:-1])
        disk.keep()
        if not await dies(machine.joins_again(), disk, step, happened=happened, power=power):
            break
        await machine.joins_again()
        machine.has_joined()
    machine.has_joined()
    assert step > 4


async def test_a_join_that_finds_no_room_anywhere_says_so_and_goes_on_when_there_is_some(
        network: Network, disk: Disk) -> None:
    for step in itertools.count(1):
        machine = Machine(network, disk, f"se-{step}")
        await machine.gets_a_bundle()
        disk.fill_at(step)
        try:
            await machine.joins()
            break
        except FairleadError as error:
            said = error
        assert said.code in ("FL-DISK", "FL-STATE-UNWRITABLE")
        assert "No space left" in said.message
        assert not any(path.name.startswith(".") for path in machine.state.rglob("*")), "half written"
        assert machine.file.exists()
        disk.go_on()
        await machine.joins()
        machine.has_joined()
    machine.has_joined()
    await sound(network.world)
    assert step > 40


# -- the other commands -----------------------------------------------------------------------------------------------

@each_crash
@pytest.mark.parametrize("former", [None, b"the former bundle, shorter"], ids=["new", "over another"])
def test_an_exported_bundle_is_whole_or_not_there(disk: Disk, former: bytes | None, happened: bool,
                                                  power: bool) -> None:
    file, bundle = disk.root / "se.bundle", b"all of the bundle" * 100

    def there() -> bytes | None:
        return file.read_bytes() if file.exists() else None

    for step in itertools.count(1):
        disk.go_on()
        file.unlink(missing_ok=True)
        if former is not None:
            file.touch(0o600)
            file.write_bytes(former)
        disk.keep()
        disk.stop_at(step, happened=happened)
        try:
            files.write_private(file, bundle)
            break
        except Death:
            disk.go_on(power_was_cut=power)
            assert there() in (former, bundle)
    disk.go_on(power_was_cut=power)
    assert there() == bundle
    assert step > 5


@pytest.mark.parametrize("happened", [False, True], ids=["before", "after"])
async def test_a_controller_that_is_stopped_while_it_is_made_or_ended_is_made_and_ended_by_the_next_command(
        disk: Disk, monkeypatch: pytest.MonkeyPatch, happened: bool) -> None:
    monkeypatch.setattr(initialising, "account", lambda name, role, _: Account(name, role, "slow on purpose"))
    settings = ControllerSettings(addresses=["192.0.2.10"])
    for step in itertools.count(1):
        state = disk.root / f"ctl-{step}"
        disk.stop_at(step, happened=happened)
        finished = True
        try:
            await initialise(state, "ctl-1", settings, "a password of theirs", ManualClock())
        except Death:
            finished = False
            disk.go_on()
            made = (state / configuration.FILE).exists()
            again = initialise(state, "ctl-1", settings, "a password of theirs", ManualClock())
            if made:
                assert await refusal(again) == "FL-ALREADY-INITIALISED"
            else:
                await again
        disk.go_on()
        await _is_a_controller(state)
        disk.stop_at(step, happened=happened)
        try:
            destroy(state)
        except Death:
            finished = False
            disk.go_on()
            if list(state.iterdir()):
                destroy(state)
        assert not [path for path in state.rglob("*") if not path.name.startswith(".")]
        if finished:
            break
    assert step > 40


async def _is_a_controller(state: Path) -> None:
    """Keys, trust, store and seal belong together."""
    trust = load(state)
    store = SQLiteStore.open(state / "store.db", ManualClock())
    try:
        stored = await store.get(records.NODES + trust.node_id)
        assert stored is not None
        node = records.node_from(stored.value)
        assert (node.host_key, node.user_key) == (load_key(state, HOST_KEY).public.line,
                                                  load_key(state, USER_KEY).public.line)
        cluster_key = await sealing.open_cluster_key(store, state, trust.node_id)
        await sealing.open_certified(store, cluster_key, sealing.ROOT)
    finally:
        await store.close()


@each_crash
def test_an_engine_that_is_stopped_while_it_leaves_leaves_by_the_next_command(
        disk: Disk, monkeypatch: pytest.MonkeyPatch, happened: bool, power: bool) -> None:
    gone: set[str] = set()

    async def call(trust: Any, key: PrivateKey, *_: object) -> None:
        async def leave() -> None:
            if trust.node_id in gone:
                raise Refused("FL-NODE-REMOVED", "this node is no longer in the cluster")
            gone.add(trust.node_id)

        await disk.remote_step("leave", leave)

    monkeypatch.setattr(signed, "call", call)
    for step in itertools.count(1):
        state = disk.root / f"se-{step}"
        disk.go_on()
        _engine(state, f"node-{step}")
        disk.keep()
        disk.stop_at(step, happened=happened)
        try:
            _leave(state)
            break
        except Death:
            disk.go_on(power_was_cut=power)
            if (state / "trust.json").exists():
                _leave(state)
        assert gone >= {f"node-{step}"}
        assert [path.name for path in state.glob("[!.]*")] == ["audit.jsonl"]
    disk.go_on(power_was_cut=power)
    assert [path.name for path in state.iterdir()] == ["audit.jsonl"]
    assert step > 15


def _engine(state: Path, node_id: str) -> None:
    files.make_private_folder(state)
    files.make_private_folder(state / KEYS)
    for key in (HOST_KEY, USER_KEY):
        save_key(state, key, PrivateKey.generate())
    for name in ("plan.json", "hosts", "audit.jsonl"):
        files.write_private(state / name, b"{}\n")
    configuration.save(state, EngineSettings())
    TRUST.but(node_id=node_id).save(state)


def _leave(state: Path) -> None:
    context = SimpleNamespace(find_root=lambda: SimpleNamespace(obj=None))
    daemons.engine_leave(cast("typer.Context", context), state=state)
