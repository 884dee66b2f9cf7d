"""A Controller's place in the mesh before its store is there, and when it has not heard of it for long."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.controller import mesh as rooms
from fairlead.controller.mesh import Mesh
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.exchange import CoreController
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import KEYS, USER_KEY, save_key
from fairlead.keys.ssh import PrivateKey
from fairlead.nodes.records import KeyEntry
from fairlead.store.protocol import Event, Listing
from fairlead.transport.way import Stock
from tests.unit.enrol.test_trust import TRUST
from tests.unit.nodes.test_policy import SE_1
from tests.world import ManualClock

HOST, USER, THEIR_HOST, THEIR_USER, ENGINE = (PrivateKey.from_seed(bytes([n]) * 32) for n in range(1, 6))
LEADER = CoreController(name="ctl-1", address="192.0.2.10", portal_port=8443, ssh_port=5098,
                        internal_address="127.64.0.1", host_key=THEIR_HOST.public.line, user_key=THEIR_USER.public.line,
                        node_id="id-1")
ME = TRUST.but(node="ctl-2", node_id="id-2", role="controller", user="avictlruser", internal_address="127.64.0.2",
               controllers=[LEADER.model_dump(), LEADER.model_dump() | {"address": "inside.example"}])


class Silent:
    """A store that says nothing."""

    async def list(self, prefix: str, *more: str) -> Listing:
        return Listing([], 1)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        await asyncio.Event().wait()
        yield []


def mesh(state: Path, *, clustered: bool = True) -> Mesh:
    async def nothing(*_: Any) -> Any:
        return {}

    (state / KEYS).mkdir(exist_ok=True)
    save_key(state, USER_KEY, USER)
    return Mesh(state=state, clock=ManualClock(), settings=ControllerSettings(addresses=["192.0.2.20"], ssh_port=22),
                trust=ME, keyring=Keyring(state), way=Stock(), store=Silent(), clustered=clustered, commit=nothing,
                cloned=nothing, answer=nothing, refused=nothing, removed=lambda: None)


async def test_it_begins_with_what_its_join_has_told(tmp_path: Path) -> None:
    made = mesh(tmp_path)
    made.remember(HOST.public, USER.public)
    plan = made.plan()
    (leader,) = plan.controllers
    assert (leader.name, leader.addresses, leader.ssh_port, leader.host_key) == (
        "ctl-1", ["192.0.2.10", "inside.example"], 5098, THEIR_HOST.public.line)
    assert {(r.owner, r.port) for r in plan.reach} == {("ctl-1", 2380)}
    peer = made.sessions.admit("avictlruser", THEIR_USER.public, "x")
    assert peer is not None
    assert (peer.node, peer.standing) == ("ctl-1", "active")
    assert made.sessions.admit("avictlruser", THEIR_HOST.public, "x") is None, "a host key logs in nowhere"
    assert made.sessions.admit("aviseuser", ENGINE.public, "x") is None


async def test_it_keeps_a_copy_of_the_controllers_and_begins_with_that(tmp_path: Path) -> None:
    made = mesh(tmp_path)
    made.remember(HOST.public, USER.public)
    made._loaded = True
    moved = made.directory.nodes["id-1"]
    assert moved.endpoint is not None
    made.directory.nodes["id-1"] = replace(moved, endpoint=replace(moved.endpoint, addresses=("192.0.2.77",)))
    made._keep_copy()
    again = mesh(tmp_path)
    again.remember(HOST.public, USER.public)
    assert again.directory.nodes == made.directory.nodes
    assert (tmp_path / "directory.json").stat().st_mode & 0o777 == 0o600


async def test_who_has_not_heard_of_the_store_for_a_minute_lets_no_engine_in(tmp_path: Path) -> None:
    for clustered in (True, False):
        made = mesh(tmp_path, clustered=clustered)
        await made.load("g", 1)
        made.directory.nodes[SE_1.id] = SE_1
        made.directory.keys[ENGINE.public.fingerprint] = KeyEntry(SE_1.id, "user", "active", "t", ENGINE.public.line)
        assert made.sessions.admit("aviseuser", ENGINE.public, "x") is not None
        made.directory.heard -= rooms.STALE_S
        await asyncio.sleep(0)
        assert (made.sessions.admit("aviseuser", ENGINE.public, "x") is None) is clustered
        await made.directory._advance(2, relevant=False)
        assert made.sessions.admit("aviseuser", ENGINE.public, "x") is not None
