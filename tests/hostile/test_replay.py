"""What was recorded and is said again: to the same Controller, to another one, after a restart, at any time later."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead.base.clock import SECOND
from fairlead.keys import http
from fairlead.keys.wire import from_b64
from fairlead.portal.application import Portal
from tests.hostile.test_every_byte import standing
from tests.hostile.wire import another_id, open_wire, restarted
from tests.unit.portal.test_application import follower
from tests.world import Answer, Machine, World, denied, open_world, refusal

HEAR_S = 10.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


# -- a join -----------------------------------------------------------------------------------------------------------

async def test_the_bytes_of_a_join_said_again_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of TLS and SSH were those of one connection: the Controller understands its first words at most."""
    async with open_wire(tmp_path, monkeypatch) as wire:
        await wire.join("se-1", await wire.world.export())
        before, tunnels = await wire.world.revision(), set(wire.sessions.tunnels)
        for between in (wire.portal, wire.ssh):
            (said,) = between.conversations
            reader, writer = await asyncio.open_connection(*between.target)
            writer.write(bytes(said.there))
            async with asyncio.timeout(HEAR_S):
                heard = b""
                with contextlib.suppress(ConnectionError):
                    while piece := await reader.read(65536):
                        heard += piece
            writer.transport.abort()
            assert len(heard) < len(said.back)
            assert b"HTTP/1.1" not in heard
        assert await wire.world.revision() == before
        assert set(wire.sessions.tunnels) <= tunnels, "its own may end meanwhile; no other one begins"


async def test_a_join_request_said_again_gives_nobody_anything(world: World) -> None:
    """Somebody has read it (the portal's own key was stolen, say) and keeps on sending it, from wherever he is."""
    bundle, machine = await world.export(), Machine()
    body = machine.body(machine.claim(bundle, world.certificate), bundle)
    core = await world.exchange(bundle, machine)

    async def again() -> tuple[int, str]:
        before = await standing(world)
        answer = await world.post(body, "198.51.100.66")
        assert await standing(world) == before
        if answer.status == 200:
            told = json.loads(from_b64(json.loads(answer.body)["core"]))
            assert told | {"result": "", "server_time": "", "commit_within_s": 0} == core.model_dump() | {
                "result": "", "server_time": "", "commit_within_s": 0}
            return 200, str(told["result"])
        return answer.status, answer.code

    assert await again() == (200, "reserved")
    await world.commit(bundle, machine, core)
    for second in (0, 300, 599, 600, 659):
        world.clock.set(second)
        assert await again() == (200, "committed")
    for second in (660, 661, 100_000):
        world.clock.set(second)
        assert await again() == (403, "FL-JOIN-USED")
    await world.registry.remove("se-1", "admin")
    world.clock.set(100_001)
    assert (await again())[0] == 403
    assert world.directory.named("se-1") is None
    assert [r.event for r in await world.audited()].count("join.reserved") == 1


async def test_a_join_request_is_good_at_the_portal_that_it_was_made_for_only(world: World) -> None:
    """What an engine said to one certificate, said to a Controller that presents another of the same root."""
    bundle, machine = await world.export(), Machine()
    before = await standing(world)
    answer = await world.post(machine.body(machine.claim(bundle, bytes(32)), bundle))
    assert (answer.status, answer.code) == (403, "FL-JOIN-RELAY")
    assert await standing(world) == before
    await world.join("se-1", machine, bundle)


# -- signed calls -----------------------------------------------------------------------------------------------------

@dataclass
class Recorded:
    """A Controller's announcement of its new address: said again later, it would bring back what is no more."""

    world: World
    request: http.Request

    async def to(self, portal: Portal) -> tuple[int, str]:
        """What *portal* says to it."""
        self.world.portal = portal
        answer = await self.world.ask(self.request)
        assert answer.status == 200 or answer.code
        return answer.status, "" if answer.status == 200 else answer.code

    @property
    def address(self) -> str:
        """Where everybody finds that Controller."""
        found = self.world.directory.named("ctl-2")
        assert found is not None
        assert found.endpoint is not None
        return found.endpoint.addresses[0]


def announcing(world: World, machine: Machine, address: str, ahead_s: int) -> http.Request:
    return world.signed({"op": "announce", "addresses": [address], "api_port": 443, "portal_port": 8443,
                         "ssh_port": 22}, machine.user, created=world.clock.now() // SECOND + ahead_s)


async def recorded(world: World, ahead_s: int) -> Recorded:
    """Announced, answered, and overtaken by a newer announcement. The caller's clock was so far ahead."""
    machine = await follower(world)
    world.clock.set(100)
    call = Recorded(world, announcing(world, machine, "192.0.2.66", ahead_s))
    assert (await world.ask(call.request)).status == 200
    assert call.address == "192.0.2.66"
    assert (await world.ask(announcing(world, machine, "192.0.2.12", 0))).status == 200
    return call


@pytest.mark.parametrize("ahead_s", [-60, -1, 0, 10])
async def test_a_signed_call_has_no_second_effect_at_any_later_time(world: World, ahead_s: int) -> None:
    """The cache remembers it for as long as its date is accepted: there is no moment between the two."""
    call, portal = await recorded(world, ahead_s), world.portal
    for half_seconds in range(300):
        world.clock.set(100 + half_seconds / 2)
        assert await call.to(portal) in ((403, "FL-SIG-REPLAY"), (403, "FL-SIG-STALE")), half_seconds / 2
    assert call.address == "192.0.2.12"


@pytest.mark.parametrize("ahead_s", [-60, -1, 0])
async def test_a_signed_call_has_no_effect_after_a_restart(world: World, ahead_s: int) -> None:
    """The new process remembers no call, but when it started: what was dated before is refused. (A call that was dated
    up to ten seconds ahead may be repeated in that time: the threat model says so.)"""
    call = await recorded(world, ahead_s)
    for second in range(100):
        world.clock.set(100 + second)
        portal = restarted(world, started=world.clock.now())
        for later in (0, 0.5, 1, 30):
            world.clock.set(100 + second + later)
            assert await call.to(portal) == (403, "FL-SIG-STALE"), (second, later)
    assert call.address == "192.0.2.12"


async def test_a_signed_call_has_no_effect_at_another_controller(world: World) -> None:
    call = await recorded(world, 0)
    assert await call.to(restarted(world, node_id=another_id())) == (403, "FL-SIG-RECIPIENT")
    assert call.address == "192.0.2.12"


async def test_an_answer_belongs_to_the_call_that_it_was_given_to(world: World) -> None:
    """Recorded answers, each shown for each call: of another node, of another operation, of the same one before."""
    one, other = Machine(), Machine()
    await world.join("se-1", one)
    await world.join("se-2", other)
    calls: list[http.Request] = [world.signed(operation, key) for key in (one.user, other.user)
                                 for operation in ({"op": "read"}, {"op": "read"}, {"op": "none"})]
    answers: list[Answer] = [await world.ask(call) for call in calls]
    assert [answer.status for answer in answers] == [200, 200, 400] * 2
    for mine, call in enumerate(calls):
        for theirs, answer in enumerate(answers):
            if mine == theirs:
                world.believed(answer, call)
            else:
                assert denied(lambda answer=answer, call=call: world.believed(answer, call)) == "FL-SIG-BAD"  # type: ignore[misc]


async def test_a_commit_said_again_commits_nobody_else(world: World) -> None:
    """A commit frame that somebody has read, sent by another node under its own proven key."""
    bundle, machine, thief = await world.export(), Machine(), Machine()
    core = await world.exchange(bundle, machine)
    stolen = await world.export()
    await world.exchange(stolen, thief, "se-2")
    message = {"token_id": bundle.token.id.hex(), "node_id": core.node_id, "keys_hash": core.keys_hash}
    before = await standing(world)
    for key in (thief.user, thief.host, machine.host, world.host_key):
        assert await refusal(world.enrolment.commit(key.public.fingerprint, message)) == "FL-JOIN-REFUSED"
    assert await standing(world) == before
