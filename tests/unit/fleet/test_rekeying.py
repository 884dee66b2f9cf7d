"""A living connection proves another key of its node; what was proven elsewhere, or by somebody else, is nothing."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from fairlead.enrol import next_key
from fairlead.fleet import rekeying
from fairlead.fleet.rekeying import MOST_WRONG, Rekeying
from fairlead.keys.ssh import PrivateKey
from fairlead.link import frames
from fairlead.link.rekey import SUBSYSTEM, Challenge, Proof, Verdict
from fairlead.mesh.rekeying import prove, prove_all
from fairlead.nodes.records import KeyEntry
from fairlead.transport.peer import Peer, Target
from fairlead.transport.tunnel import Tunnel
from tests.unit.transport.world import ALICE, World, until, world
from tests.world import refusal

CLUSTER, CTL, ME = UUID(int=7), "id-ctl-1", "id-alice"
NEW, OTHERS = PrivateKey.from_seed(b"n" * 32), PrivateKey.from_seed(b"x" * 32)


@dataclass
class Directory:
    keys: dict[str, KeyEntry] = field(default_factory=dict)

    def put(self, key: PrivateKey, node_id: str = ME, use: str = "user", state: str = "active") -> None:
        self.keys[key.public.fingerprint] = KeyEntry(
            node_id, use, state, "r1", key.public.line)  # type: ignore[arg-type]


@dataclass
class Place:
    world: World
    directory: Directory
    rekeying: Rekeying

    async def connected(self) -> tuple[Tunnel, Tunnel]:
        """This end, which dials, and the Controller's."""
        tunnel = await self.world.dial(peer=Peer(CTL, "ctl-1", "controller", "aviseuser", "active", "host"))
        await until(lambda: len(self.world.door.tunnels) > 0)
        theirs = self.world.door.tunnels.pop()
        self.world.stack.callback(theirs.close, "the test is over")
        self.world.door.subsystems[SUBSYSTEM] = lambda channel: self.rekeying.serve(theirs, channel)
        return tunnel, theirs

    async def say(self, tunnel: Tunnel, key: PrivateKey, **other: object) -> str:
        """The code of the answer to a proof that is made of *other* values."""
        channel, decoder = await tunnel.subsystem(SUBSYSTEM), frames.Decoder()
        (said,) = decoder.feed(await channel.receive())
        values = {"cluster": CLUSTER, "controller_id": CTL, "node_id": ME, "session": tunnel.session_id,
                  "nonce": Challenge.model_validate(said).nonce} | other
        signed = next_key.prove(key, **values)  # type: ignore[arg-type]
        await channel.send(frames.encode(Proof(key=key.public.line, proof=signed).model_dump()))
        (said,) = decoder.feed(await channel.receive())
        return Verdict.model_validate(said).code


@pytest.fixture(params=["stock", "accelerated"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    directory = Directory()
    directory.put(ALICE)
    directory.put(NEW)
    async with world(ways=(request.param, request.param)) as opened:
        yield Place(opened, directory, Rekeying(directory, CLUSTER, CTL))


async def test_both_ends_of_a_connection_have_the_same_id_and_no_other_one_has(place: Place) -> None:
    (one, theirs), (two, _) = await place.connected(), await place.connected()
    assert one.session_id == theirs.session_id != two.session_id
    assert len(one.session_id) >= next_key.LEAST_SESSION_BYTES


async def test_a_connection_changes_its_key_while_a_stream_runs_through_it(place: Place) -> None:
    tunnel, theirs = await place.connected()
    assert (tunnel.proven, theirs.peer.fingerprint) == (ALICE.public.fingerprint,) * 2

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    place.world.door.targets["127.64.0.1", 80] = Target("127.0.0.1", await place.world.serve(echo), "echo")
    front = await place.world.front(tunnel, "127.64.0.1", 80)
    reader, writer = await place.world.connect(front.port)
    sent, came = hashlib.sha256(), hashlib.sha256()

    async def numbers() -> None:
        for number in range(2000):
            block = number.to_bytes(8, "big") * 128
            sent.update(block)
            writer.write(block)
            await writer.drain()
        writer.write_eof()

    async def read() -> None:
        while data := await reader.read(65536):
            came.update(data)

    async def change() -> None:
        for key in (NEW, ALICE, NEW):
            await prove_all([tunnel], key, CLUSTER, ME)
            assert (tunnel.proven, theirs.peer.fingerprint) == (key.public.fingerprint,) * 2

    await asyncio.wait_for(asyncio.gather(numbers(), read(), change()), 60)
    assert sent.digest() == came.digest()
    assert theirs.peer.node == "alice"


@pytest.mark.parametrize("other", [
    {"cluster": UUID(int=8)}, {"controller_id": "id-ctl-2"}, {"node_id": "id-bob"}, {"session": b"s" * 32},
    {"nonce": "A" * 43 + "="}])
async def test_attack_a_proof_made_for_something_else(place: Place, other: dict[str, object]) -> None:
    tunnel, theirs = await place.connected()
    assert await place.say(tunnel, NEW, **other) == "FL-KEY-PROOF"
    assert theirs.peer.fingerprint == ALICE.public.fingerprint


async def test_attack_a_thief_passes_his_question_on_to_the_node(place: Place) -> None:
    """He holds the old key and a connection with it; the node answers on a connection of its own, to nobody else."""
    honest, _ = await place.connected()
    thief, theirs = await place.connected()
    assert await place.say(thief, NEW, session=honest.session_id) == "FL-KEY-PROOF"
    assert theirs.peer.fingerprint == ALICE.public.fingerprint


@pytest.mark.parametrize(("node_id", "use", "state"), [
    ("id-bob", "user", "active"), (ME, "host", "active"), (ME, "user", "revoked"), (ME, "user", "pending")])
async def test_only_an_active_user_key_of_the_same_node_counts(place: Place, node_id: str, use: str,
                                                               state: str) -> None:
    place.directory.put(OTHERS, node_id, use, state)
    tunnel, theirs = await place.connected()
    assert await refusal(prove(tunnel, OTHERS, CLUSTER, ME)) == "FL-KEY-ROTATION"
    assert await refusal(prove(tunnel, PrivateKey.generate(), CLUSTER, ME)) == "FL-KEY-ROTATION"
    assert (tunnel.proven, theirs.peer.fingerprint) == (ALICE.public.fingerprint,) * 2


async def test_who_answers_wrongly_is_hung_up_on(place: Place) -> None:
    tunnel, theirs = await place.connected()
    for _ in range(MOST_WRONG):
        assert not theirs.closed.is_set()
        with contextlib.suppress(Exception):
            await place.say(tunnel, NEW, node_id="id-bob")
    await asyncio.wait_for(theirs.wait_closed(), 10)


async def test_who_does_not_answer_holds_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekeying, "ANSWER_S", 0.05)
    tunnel, theirs = await place.connected()
    channel = await tunnel.subsystem(SUBSYSTEM)
    await asyncio.wait_for(channel.wait_closed(), 10)
    assert theirs.peer.fingerprint == ALICE.public.fingerprint
