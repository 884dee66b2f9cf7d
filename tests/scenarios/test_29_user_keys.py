"""User keys change while everybody stays connected; whoever has an old one has nothing once it is retired."""

import asyncio
import contextlib
import json
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.clock import SystemClock
from fairlead.enrol.trust import USER_KEY, load, load_key
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import Plan
from fairlead.mesh.dialling import dialling
from fairlead.mesh.rekeying import prove
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Stock
from tests.processes import Daemon, Result, Site, until
from tests.streams import numbered
from tests.world import refusal

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def rotate(controller: Daemon, *options: object) -> Result:
    return controller.cli("rotate", "start", "user-keys", "--wait", "--json", *options)


def status(controller: Daemon) -> Any:
    return controller.get("/api/rotation")


def key(node: Daemon) -> str:
    return load_key(node.state, USER_KEY).public.fingerprint


def registered(controller: Daemon, name: str) -> str:
    return str(controller.node(name)["user_fingerprint"])


def keys(node: Daemon) -> list[str]:
    return sorted(file.name for file in (node.state / "keys").iterdir() if file.name.startswith("user"))


def epochs(controller: Daemon) -> set[int]:
    """Of all connections."""
    return {int(row["epoch"]) for row in controller.listed("tunnel")}


def records(controller: Daemon, name: str) -> list[str]:
    """What is on record of a node's keys."""
    return [one["event"] for one in controller.get("/api/audit?limit=200")["results"]
            if one["event"].startswith("key.") and one["subject"] == name]


def stolen(engine: Daemon, to: Path) -> Path:
    """All that a thief gets who has been at the engine's disk, but for its host key."""
    shutil.copytree(engine.state, to, ignore=shutil.ignore_patterns("control.sock", ".*", "host"))
    return to


@contextlib.asynccontextmanager
async def connected(state: Path) -> AsyncIterator[Tunnel]:
    """A connection with the user key in *state*. Raises FairleadError."""
    plan = Plan.model_validate_json((state / "plan.json").read_bytes())
    with closing(Stock()) as way:
        held = load_key(state, USER_KEY)
        tunnel = await dialling(load(state).user, lambda: [held], 15.0, SystemClock(), way)(
            plan.controllers[0], plan.controllers[0].addresses[0])
        try:
            yield tunnel
        finally:
            tunnel.close("enough")


async def came_in(state: Path) -> None:
    async with connected(state):
        pass


def test_keys_change_under_streams_and_a_sleeper_follows(site: Site) -> None:
    controller = site.controller()
    engine, other, sleeper = site.engine(controller, "se-1"), site.engine(controller, "se-2"), site.join(
        controller, "se-3")
    nodes = (controller, engine, other)
    before = {node.name: key(node) for node in (*nodes, sleeper)}
    thief = stolen(engine, site.folder / "thief")
    asyncio.run(came_in(thief))
    planned = controller.cli("rotate", "plan", "user-keys", "--json").done().json
    assert (planned["stranded"], planned["sleeping"]) == ({}, ["se-3"])
    controller.cli("rotate", "start", "user-keys", "--to", "System-Default-Portal-Cert").refused("FL-ROTATE-TO")
    with numbered(controller, engine) as stream:
        connections = epochs(controller)
        assert rotate(controller).done().json["outcome"] == "done"
        assert connections <= epochs(controller), "they went on, each of them"
        for node in nodes:
            assert key(node) == registered(controller, node.name) != before[node.name]
            until(lambda node=node: keys(node) == ["user", "user.pub"], "the last key is gone")  # type: ignore[misc]
            assert records(controller, node.name) == ["key.next", "key.cut-over", "key.retired"]
        assert asyncio.run(refusal(came_in(thief))) == "FL-SSH-REFUSED"
        assert status(controller)["late"] == ["se-3"]
        assert "se-3" in controller.cli("rotate", "status").done().out
        sleeper.start()
        until(lambda: not status(controller)["late"], "the sleeper changes its key first thing")
        assert key(sleeper) == registered(controller, "se-3") != before["se-3"]
        assert rotate(controller).done().json["outcome"] == "done"
        assert {key(node) for node in nodes}.isdisjoint(before.values())
        stream.check()
    for node in (engine, sleeper, controller):
        node.signal(signal.SIGTERM)
        assert node.ended() == 0
        node.start()
    until(lambda: controller.node("se-1")["state"] == controller.node("se-3")["state"] == "up", "they come back")


def test_attack_a_living_connection_of_a_thief_is_cut_at_retirement(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    thief = stolen(engine, site.folder / "thief")

    async def story() -> None:
        async with connected(thief) as tunnel:
            done = await asyncio.to_thread(rotate, controller)
            assert done.done().json["outcome"] == "done"
            await asyncio.wait_for(tunnel.wait_closed(), 10)
            assert controller.events("ssh.retired")
        assert await refusal(came_in(thief)) == "FL-SSH-REFUSED"

    with numbered(controller, engine) as stream:
        asyncio.run(story())
        stream.check()
    assert controller.node("se-1")["state"] == "up"
    assert engine.runs, "it was not told that it was removed"


@pytest.mark.whole
def test_attack_a_thief_proves_neither_his_own_key_nor_the_new_one(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    thief = stolen(engine, site.folder / "thief")
    trust = load(thief)

    async def story() -> None:
        async with connected(thief) as tunnel:
            for made in (PrivateKey.generate(), load_key(controller.state, USER_KEY)):
                assert await refusal(prove(tunnel, made, trust.cluster_uuid, trust.node_id)) == "FL-KEY-ROTATION"
            await prove(tunnel, load_key(thief, USER_KEY), trust.cluster_uuid, trust.node_id)
            assert await refusal(prove(tunnel, load_key(thief, USER_KEY), trust.cluster_uuid, "another")
                                 ) == "FL-KEY-PROOF"

    asyncio.run(story())


@pytest.mark.whole
def test_a_full_disk_turns_it_back_and_says_so(site: Site) -> None:
    controller = site.controller()
    engine, other = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    before = key(engine), key(other), key(controller)
    (engine.state / "keys" / "user.next").mkdir()  # nothing can be written there
    with numbered(controller, engine) as stream:
        controller.cli("rotate", "start", "user-keys", "--patience", "6s").done()
        until(lambda: any("FL-DISK" in problem for problem in engine.get("/api/status")["problems"]), "it says so")
        past = until(lambda: status(controller)["past"], "it goes back")[0]
        assert past["outcome"] == "rolled-back"
        assert "se-1 (it has not made its next user key: FL-DISK" in past["why"]
        until(lambda: all("user.next" not in keys(node) for node in (other, controller)), "they drop their next keys")
        assert (key(engine), key(other), key(controller)) == before
        (engine.state / "keys" / "user.next").rmdir()
        assert rotate(controller).done().json["outcome"] == "done"
        assert {key(engine), key(other), key(controller)}.isdisjoint(before)
        until(lambda: not engine.get("/api/status")["problems"], "all is well")
        stream.check()


@pytest.mark.whole
@pytest.mark.parametrize("made", ["user.next", "user.last1"])
def test_an_engine_killed_in_the_middle_finds_its_way(site: Site, made: str) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    before = key(engine)
    controller.cli("rotate", "start", "user-keys").done()
    until(lambda: (engine.state / "keys" / made).exists() or status(controller)["past"], made)
    engine.signal(signal.SIGKILL)
    engine.ended()
    engine.start()
    past = until(lambda: status(controller)["past"], "it ends")
    assert past[0]["outcome"] == "done"
    until(lambda: not status(controller)["late"], "all have changed")
    until(lambda: controller.node("se-1")["state"] == "up", "it is back")
    assert key(engine) == registered(controller, "se-1") != before
    until(lambda: keys(engine) == ["user", "user.pub"], "one key is left")


@pytest.mark.whole
@pytest.mark.parametrize("phase", ["distribute", "cut-over"])
def test_it_is_called_off(site: Site, phase: str) -> None:
    controller = site.controller()
    engine, deaf = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    before = {node.name: key(node) for node in (controller, engine, deaf)}
    with numbered(controller, engine) as stream:
        if phase == "distribute":
            deaf.signal(signal.SIGSTOP)
        controller.cli("rotate", "start", "user-keys").done()
        until(lambda: status(controller)["past"] or phase in [
            step["phase"] for step in status(controller)["current"]["steps"]], phase)
        controller.cli("rotate", "abort")
        past = until(lambda: status(controller)["past"], "it is over")[0]
        deaf.signal(signal.SIGCONT)
        if past["outcome"] != "done":  # else it was too late for that
            assert past["outcome"] == "aborted"
            for node in (controller, engine, *([] if phase == "distribute" else [deaf])):
                until(lambda node=node: keys(node) == ["user", "user.pub"], "nothing is left of it")  # type: ignore[misc]
                assert key(node) == before[node.name] == registered(controller, node.name)
        assert rotate(controller).done().json["outcome"] == "done"
        stream.check()


@pytest.mark.whole
def test_nothing_of_a_key_is_in_a_log(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    rotate(controller).done()
    for node in (controller, engine):
        secret = (node.state / "keys" / "user").read_text().splitlines()[1:-1]
        assert not any(line in node.log for line in secret)
        assert json.dumps(node.get("/api/status")).find("PRIVATE") == -1
