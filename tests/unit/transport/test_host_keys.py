"""A server whose host key changes while it runs: who is connected notices nothing, people's programs know before."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable

import asyncssh
import pytest
from asyncssh.packet import SSHPacket, String

from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import KEY_TYPE, PrivateKey, verifies
from fairlead.keys.wire import string
from fairlead.transport import options
from fairlead.transport.connection import Guarded
from fairlead.transport.dialler import ClientConnection
from fairlead.transport.peer import Target
from fairlead.transport.server import HOST_KEYS, PROVE_HOST_KEYS
from tests.unit.transport.hostile import REQUEST_FAILURE, REQUEST_SUCCESS, Hostile, hostile
from tests.unit.transport.test_visit import FakeReception, session
from tests.unit.transport.world import BOB, HOST_KEY, World, echo, world

NEXT, OTHER = PrivateKey.from_seed(b"n" * 32), PrivateKey.from_seed(b"o" * 32)
HOST, PORT = "127.64.0.1", 5432


@pytest.fixture
async def w() -> AsyncIterator[World]:
    reception = FakeReception()
    async with world(reception=reception) as made:
        made.door.targets[HOST, PORT] = Target("127.0.0.1", await made.serve(echo), "db")
        yield made
        for one in reception.visits:
            one.close("the test is over")
            await one.closed.wait()


@pytest.fixture
async def person(w: World) -> AsyncIterator[Hostile]:
    """Somebody whose program was told both keys."""
    w.host_keys[:] = HOST_KEY, NEXT
    async with hostile(w.port) as client:
        await client.login(BOB, "admin")
        await session(client)  # whatever was told with the log-in has come
        yield client


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of the requests that come to whoever dials."""
    names: list[bytes] = []
    plain = Guarded._gate_global_request

    def gate(self: Guarded, kind: int, number: int, packet: SSHPacket) -> None:
        names.append(SSHPacket(packet.get_full_payload()[1:]).get_string())
        plain(self, kind, number, packet)

    monkeypatch.setitem(ClientConnection._packet_handlers, 80, gate)
    return names


async def test_new_connections_see_the_new_key_and_running_ones_lose_nothing(w: World,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_algorithms", _often(options._algorithms))
    before = await w.dial()
    reader, writer = await w.connect((await w.front(before, HOST, PORT)).port)
    sent, came = hashlib.sha256(), hashlib.sha256()

    async def exchange(pieces: int) -> None:
        for number in range(pieces):
            piece = number.to_bytes(4, "big") * 16384
            sent.update(piece)
            writer.write(piece)
            came.update(await reader.readexactly(len(piece)))

    await exchange(8)
    old = before.connection._session_id, before.peer.fingerprint
    w.host_keys[:] = NEXT, HOST_KEY
    after = await w.dial(host_keys=[HOST_KEY, NEXT])
    w.host_keys[:] = [NEXT]
    before.connection._rekey()  # the key that the connection began with is good for its rekeying
    await exchange(64)
    assert sent.digest() == came.digest()
    assert (old, after.peer.fingerprint) == ((before.connection._session_id, HOST_KEY.public.fingerprint),
                                             NEXT.public.fingerprint)
    assert not before.closed.is_set()


def _often(plain: Callable[..., dict[str, object]]) -> Callable[..., dict[str, object]]:
    return lambda *args: plain(*args) | {"rekey_bytes": 1 << 20}


async def test_the_old_key_is_accepted_by_nobody_who_has_dropped_it(w: World) -> None:
    w.host_keys[:] = NEXT, HOST_KEY
    for pinned in (HOST_KEY,), (OTHER,):
        with pytest.raises(FairleadError) as refused:
            await w.dial(host_keys=pinned)
        assert refused.value.code == "FL-SSH-HOSTKEY"
        assert NEXT.public.fingerprint in refused.value.message
    w.host_keys[:] = HOST_KEY, NEXT  # somebody who has the old key still
    with pytest.raises(FairleadError) as refused:
        await w.dial(host_keys=[NEXT])
    assert refused.value.code == "FL-SSH-HOSTKEY"


async def test_nodes_are_not_told_and_get_no_proof(w: World, told: list[bytes], alice: Hostile) -> None:
    w.host_keys[:] = HOST_KEY, NEXT
    tunnel = await w.dial()
    await w.connect((await w.front(tunnel, HOST, PORT)).port)
    assert HOST_KEYS not in told
    alice.request(PROVE_HOST_KEYS.decode(), String(HOST_KEY.public.blob))
    assert await alice.answer() == REQUEST_FAILURE


async def test_whoever_tells_a_node_of_host_keys_is_not_heard(w: World, told: list[bytes]) -> None:
    tunnel = await w.dial()
    await w.door.arrival.wait()
    server = w.door.tunnels[-1].connection
    server._send_global_request(HOST_KEYS, String(OTHER.public.blob))
    reader, writer = await w.connect((await w.front(tunnel, HOST, PORT)).port)
    writer.write(b"and goes on")
    assert await reader.readexactly(11) == b"and goes on"
    assert told == [HOST_KEYS]
    assert tunnel.connection.pinned == {HOST_KEY.public.blob}  # type: ignore[attr-defined]


async def test_another_program_than_openssh_learns_both_keys_by_proof(w: World) -> None:
    w.host_keys[:] = HOST_KEY, NEXT
    learned: asyncio.Future[list[set[bytes]]] = asyncio.get_running_loop().create_future()

    def learn(*lists: list[asyncssh.SSHKey]) -> None:
        learned.set_result([{key.public_data for key in each} for each in lists])

    gone = asyncssh.import_public_key(OTHER.public.line)
    async with asyncssh.connect("127.0.0.1", w.port, username="admin", config=None, agent_path=None,
                                client_keys=[asyncssh.import_private_key(BOB.openssh())],
                                known_hosts=([asyncssh.import_public_key(HOST_KEY.public.line), gone], [], []),
                                server_host_keys_handler=learn):
        async with asyncio.timeout(10):
            added, removed, retained, _ = await learned
    assert (added, removed, retained) == ({NEXT.public.blob}, {gone.public_data}, {HOST_KEY.public.blob})


async def test_a_proof_is_over_the_session_of_who_asks(person: Hostile) -> None:
    person.request(PROVE_HOST_KEYS.decode(), String(NEXT.public.blob), String(HOST_KEY.public.blob))
    kind, payload = await person.answer_in_full()
    assert kind == REQUEST_SUCCESS
    packet = SSHPacket(payload)
    for key in (NEXT, HOST_KEY):
        signature = SSHPacket(packet.get_string())
        assert signature.get_string() == KEY_TYPE.encode()
        signed = string(PROVE_HOST_KEYS) + string(person._session_id) + string(key.public.blob)
        assert verifies(key.public.raw, signed, signature.get_string())
    assert not packet


@pytest.mark.parametrize("asked", [(OTHER,), (NEXT, OTHER), (NEXT, NEXT), (HOST_KEY,) * 1000])
async def test_only_keys_that_were_told_are_proven_and_each_once(
        person: Hostile, asked: tuple[PrivateKey, ...]) -> None:
    person.request(PROVE_HOST_KEYS.decode(), *(String(key.public.blob) for key in asked))
    assert await person.answer_in_full() == (REQUEST_FAILURE, b"")
