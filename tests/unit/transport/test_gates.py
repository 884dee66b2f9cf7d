"""What a peer may ask for after login: named services, granted reverses, granted subsystems, and nothing else."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from fairlead.base.errors import Refused
from fairlead.transport import connection, stock
from fairlead.transport.accelerated import stream
from fairlead.transport.channel import Channel
from fairlead.transport.options import MOST_SESSIONS
from fairlead.transport.peer import Target
from tests.unit.transport.hostile import (
    OPEN_CONFIRMATION,
    OPEN_FAILURE,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    Hostile,
    hostile,
)
from tests.unit.transport.world import ALICE, BOB, World, echo, peer_of, world

SERVICE = ("127.64.0.1", 5432)
ORIGIN = String("127.0.0.1") + UInt32(1)
REFUSED = UInt32(7) + UInt32(1) + String("refused") + String("en-US")
"""The one refusal: recipient, administratively prohibited, no word more."""


async def unused(_: Channel) -> None: ...


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        made.door.targets[SERVICE] = Target("127.0.0.1", await made.serve(echo), "db")
        made.door.targets["db", 5432] = made.door.targets[SERVICE]
        made.door.reverses.add(SERVICE)
        made.door.subsystems["fairlead-engine"] = unused
        yield made


@pytest.mark.parametrize("place", [SERVICE, ("db", 5432)])
async def test_a_declared_service_opens(alice: Hostile, place: tuple[str, int]) -> None:
    alice.open("direct-tcpip", String(place[0]), UInt32(place[1]), ORIGIN)
    assert await alice.answer() == OPEN_CONFIRMATION


OTHER_PLACES = [
    ("127.64.0.1", 5433), ("127.64.0.1", 0), ("127.64.0.1", 5432 + 65536), ("127.0.0.1", 5432), ("localhost", 5432),
    ("", 5432), ("0.0.0.0", 5432), ("0", 5432), ("*", 5432), ("::", 5432), ("::1", 5432), ("::ffff:127.64.0.1", 5432),
    ("127.64.0.1.", 5432), ("127.64.1", 5432), ("0x7f400001", 5432), ("2134900737", 5432), ("127.064.000.001", 5432),
    (" 127.64.0.1", 5432), ("127.64.0.1\0", 5432), ("DB", 5432), ("db.", 5432), ("169.254.169.254", 80),
    ("127.64.0.1\n", 5432), ("１２７.64.0.1", 5432), ("db" * 200, 5432), ("/run/x.sock", 5432)]


@pytest.mark.parametrize("place", OTHER_PLACES)
async def test_whatever_is_not_declared_does_not_exist(alice: Hostile, place: tuple[str, int]) -> None:
    alice.open("direct-tcpip", String(place[0]), UInt32(place[1]), ORIGIN)
    assert await alice.answer_in_full() == (OPEN_FAILURE, REFUSED)


async def test_a_host_that_is_no_text_does_not_exist(alice: Hostile) -> None:
    alice.open("direct-tcpip", String(b"\xff\xfe"), UInt32(5432), ORIGIN)
    assert await alice.answer_in_full() == (OPEN_FAILURE, REFUSED)


async def test_a_service_that_does_not_listen_fails_to_connect(w: World, alice: Hostile) -> None:
    w.door.targets["dead", 1] = Target("127.0.0.1", 1, "dead")
    alice.open("direct-tcpip", String("dead"), UInt32(1), ORIGIN)
    kind, payload = await alice.answer_in_full()
    assert (kind, payload) == (OPEN_FAILURE, UInt32(7) + UInt32(2) + String("connect failed") + String("en-US"))


@pytest.mark.parametrize("kind", [
    "direct-streamlocal@openssh.com", "tun@openssh.com", "x11", "auth-agent@openssh.com", "forwarded-tcpip",
    "forwarded-streamlocal@openssh.com", "unknown", "", "process", "global-request"])
async def test_other_channels_do_not_exist(alice: Hostile, kind: str) -> None:
    alice.open(kind, String("/run/docker.sock"), String(""), UInt32(0))
    assert await alice.answer_in_full() == (OPEN_FAILURE, REFUSED)


async def test_a_granted_reverse_is_remembered_and_nothing_is_bound(w: World, alice: Hostile) -> None:
    alice.request("tcpip-forward", String(SERVICE[0]), UInt32(SERVICE[1]))
    assert await alice.answer_in_full() == (REQUEST_SUCCESS, b"")
    (tunnel,) = w.door.tunnels
    assert set(tunnel.reverses) == {SERVICE}
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*SERVICE)
    alice.request("tcpip-forward", String(SERVICE[0]), UInt32(SERVICE[1]))
    assert await alice.answer() == REQUEST_FAILURE  # it has it
    alice.request("cancel-tcpip-forward", String(SERVICE[0]), UInt32(SERVICE[1]))
    assert await alice.answer() == REQUEST_SUCCESS
    assert w.door.ended == [SERVICE]
    alice.request("cancel-tcpip-forward", String(SERVICE[0]), UInt32(SERVICE[1]))
    assert await alice.answer() == REQUEST_FAILURE


async def test_reverses_end_with_the_tunnel(w: World, alice: Hostile) -> None:
    alice.request("tcpip-forward", String(SERVICE[0]), UInt32(SERVICE[1]))
    await alice.answer()
    alice.abort()
    await w.door.departure.wait()
    assert w.door.ended == [SERVICE]


@pytest.mark.parametrize("place", OTHER_PLACES)
async def test_other_reverses_are_not_granted(w: World, alice: Hostile, place: tuple[str, int]) -> None:
    alice.request("tcpip-forward", String(place[0]), UInt32(place[1]))
    assert await alice.answer_in_full() == (REQUEST_FAILURE, b"")
    assert not w.door.tunnels[0].reverses


@pytest.mark.parametrize("name", [
    "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com", "hostkeys-prove-00@openssh.com",
    "hostkeys-00@openssh.com", "no-more-sessions@openssh.com", "elevation", ""])
async def test_other_requests_fail(alice: Hostile, name: str) -> None:
    alice.request(name, String("/tmp/x.sock"))
    assert await alice.answer_in_full() == (REQUEST_FAILURE, b"")
    alice.request("keepalive@openssh.com")
    assert await alice.answer_in_full() == (REQUEST_SUCCESS, b"")


async def start_session(alice: Hostile) -> int:
    alice.open("session")
    kind, payload = await alice.answer_in_full()
    assert kind == OPEN_CONFIRMATION
    packet = SSHPacket(payload)
    packet.get_uint32()
    return packet.get_uint32()


@pytest.mark.parametrize(("name", "fields"), [
    ("pty-req", String("xterm") + UInt32(80) * 4 + String("")), ("shell", b""), ("exec", String("id")),
    ("env", String("LD_PRELOAD") + String("/tmp/x.so")), ("auth-agent-req@openssh.com", b""),
    ("x11-req", Boolean(False) + String("MIT-MAGIC-COOKIE-1") + String("00") + UInt32(0)),
    ("subsystem", String("sftp")), ("subsystem", String(b"\xff")), ("signal", String("KILL")),
    ("window-change", UInt32(80) * 4), ("unknown", b"")])
async def test_sessions_carry_granted_subsystems_only(w: World, name: str, fields: bytes) -> None:
    answers: asyncio.Queue[int] = asyncio.Queue()

    class Recorder:
        def process_packet(self, kind: int, _number: int, _packet: SSHPacket) -> bool:
            answers.put_nowait(kind)
            return True

        def log_received_packet(self, *_: object) -> None: ...

        def process_connection_close(self, _: object) -> None: ...

    async with hostile(w.port) as client:
        await client.login(ALICE)
        channel = await start_session(client)
        client._channels[7] = Recorder()  # type: ignore[assignment]
        client.send_packet(98, UInt32(channel), String(name), Boolean(True), fields)
        async with asyncio.timeout(5):
            assert await answers.get() == 100
        client.send_packet(98, UInt32(channel), String("subsystem"), Boolean(True), String("fairlead-engine"))
        async with asyncio.timeout(5):
            assert await answers.get() == (100 if fields == String("sftp") else 99)  # one try in each session


async def test_a_pending_node_has_one_session_and_nothing_else(w: World) -> None:
    w.door.known(BOB, peer_of("bob", BOB, standing="pending"))
    async with hostile(w.port) as bob:
        await bob.login(BOB)
        bob.open("direct-tcpip", String(SERVICE[0]), UInt32(SERVICE[1]), ORIGIN)
        assert await bob.answer_in_full() == (OPEN_FAILURE, REFUSED)
        bob.request("tcpip-forward", String(SERVICE[0]), UInt32(SERVICE[1]))
        assert await bob.answer() == REQUEST_FAILURE
        await start_session(bob)
        bob.open("session")
        assert await bob.answer_in_full() == (OPEN_FAILURE, REFUSED)


async def test_channels_are_limited(monkeypatch: pytest.MonkeyPatch, alice: Hostile) -> None:
    monkeypatch.setattr(connection, "MOST_CHANNELS", 3)
    for _ in range(3):
        await start_session(alice)
    alice.open("session")
    kind, payload = await alice.answer_in_full()
    assert (kind, payload[4:8]) == (OPEN_FAILURE, UInt32(4))


async def test_attack_sessions_are_few(alice: Hostile) -> None:
    for _ in range(MOST_SESSIONS):
        await start_session(alice)
    alice.open("session")
    kind, payload = await alice.answer_in_full()
    assert (kind, payload[4:8]) == (OPEN_FAILURE, UInt32(4))
    alice.open("direct-tcpip", String(SERVICE[0]), UInt32(SERVICE[1]), ORIGIN)
    assert await alice.answer() == OPEN_CONFIRMATION, "streams are others"


@pytest.mark.parametrize(("kind", "payload"), [
    (90, String("session")), (90, String("session") + UInt32(1) + UInt32(1) + UInt32(0)), (80, b"\xff" * 8),
    (80, String("tcpip-forward") + Boolean(True) + String("x")), (94, UInt32(999) + String("x")), (93, b""),
    (90, String("direct-tcpip") + UInt32(1) + UInt32(1) + UInt32(1) + b"\xff\xff\xff\xff"), (81, b""), (99, UInt32(5))])
async def test_malformed_packets_end_the_connection_quietly(w: World, alice: Hostile, kind: int, payload: bytes,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    alice.send_packet(kind, payload)
    assert await alice.answer() == -1
    await w.door.departure.wait()
    assert not caplog.records


DATA, ADJUST, EOF, CLOSE = 94, 93, 96, 97
FORBIDDEN = {
    "data beyond the window": [(DATA, b"%s" + String(bytes(1001)))],
    "a length beyond the packet": [(DATA, b"%s" + UInt32(9) + b"x")],
    "a length short of the packet": [(DATA, b"%s" + UInt32(1) + b"xyz")],
    "no length": [(DATA, b"%s")],
    "data after the end": [(EOF, b"%s"), (DATA, b"%s" + String("x"))],
    "a second end": [(EOF, b"%s"), (EOF, b"%s")],
    "an end that is longer": [(EOF, b"%sx")],
    "another channel": [(DATA, UInt32(77) + String("x"))],
    "extended data": [(95, b"%s" + UInt32(1) + String("x"))],
    "a window adjust cut short": [(ADJUST, b"%s\0\0")],
    "a confirmation": [(OPEN_CONFIRMATION, b"%s" + UInt32(1) + UInt32(1) + UInt32(1))],
    "a refusal": [(OPEN_FAILURE, b"%s" + UInt32(1) + String("") + String(""))],
    "an answer to no request": [(99, b"%s")],
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_a_message_that_a_stream_forbids_ends_the_connection_and_is_never_an_end_of_file(
        what: str, w: World, alice: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "WINDOW", 1000)
    monkeypatch.setattr(stream, "WINDOW", 1000)
    outcome: asyncio.Queue[str] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1 << 16):
                pass
            outcome.put_nowait("end")
            await asyncio.Event().wait()
        except ConnectionError:
            outcome.put_nowait("reset")

    w.door.targets["rec", 1] = Target("127.0.0.1", await w.serve(service), "rec")
    bystander = await w.dial()
    alice.open("direct-tcpip", String("rec"), UInt32(1), ORIGIN)
    kind, payload = await alice.answer_in_full()
    assert kind == OPEN_CONFIRMATION
    number = payload[4:8]
    for message, fields in FORBIDDEN[what]:
        alice.send_packet(message, fields.replace(b"%s", number))
    while await alice.answer() != -1:
        pass
    await w.door.departure.wait()
    if FORBIDDEN[what][0][0] != EOF or len(FORBIDDEN[what]) == 1:
        async with asyncio.timeout(10):
            assert await outcome.get() == "reset"
    assert w.door.gone[0].streams == 0
    assert "number 7 " not in w.door.gone[0].reason, "it was she who ended it, for she has no channel of that number"
    assert not bystander.closed.is_set()


async def test_a_peer_that_asks_and_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch, w: World,
                                                         alice: Hostile) -> None:
    monkeypatch.setattr(connection, "MOST_UNSENT", 100_000)
    far = w.door.tunnels[0].connection
    assert alice._transport
    assert far._transport
    alice._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    far._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    alice._transport.pause_reading()
    async with asyncio.timeout(30):
        while not w.door.departure.is_set():
            for _ in range(500):
                alice.request("x" * 100)
            await asyncio.sleep(0)
    assert "does not read" in w.door.gone[0].reason


@pytest.mark.parametrize("kind", ["session", "direct-tcpip", "x11", "auth-agent@openssh.com", "forwarded-tcpip",
                                  "forwarded-streamlocal@openssh.com", "tun@openssh.com"])
async def test_a_hostile_controller_opens_nothing_on_the_dialler(w: World, kind: str) -> None:
    """CVE-2023-46445, CVE-2023-46446, and SSRF from the other side."""
    tunnel = await w.dial()
    port = await w.serve(echo)
    await tunnel.request_reverse(*SERVICE, lambda: Target("127.0.0.1", port, "db"))
    (seen,) = w.door.tunnels
    server = seen.connection
    answers: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def answered(_: object, kind: int, __: int, packet: SSHPacket) -> None:
        answers.put_nowait((kind, packet.get_remaining_payload()))

    server._packet_handlers = {**server._packet_handlers, OPEN_CONFIRMATION: answered, OPEN_FAILURE: answered}
    opening = String(kind) + UInt32(7) + UInt32(1 << 20) + UInt32(32768)
    for host, number in (("127.0.0.1", port), ("", 5432), ("127.64.0.1", 0), ("127.64.0.2", 5432)):
        server.send_packet(90, opening, String(host), UInt32(number), ORIGIN)
        async with asyncio.timeout(5):
            assert await answers.get() == (OPEN_FAILURE, REFUSED)
    server.send_packet(90, opening, String(SERVICE[0]), UInt32(SERVICE[1]), ORIGIN)
    async with asyncio.timeout(5):
        assert (await answers.get())[0] == (OPEN_CONFIRMATION if kind == "forwarded-tcpip" else OPEN_FAILURE)


async def test_the_dialler_hears_that_a_reverse_was_not_granted(w: World) -> None:
    tunnel = await w.dial()
    with pytest.raises(Refused) as refusal:
        await tunnel.request_reverse("127.64.0.9", 1, lambda: None)
    assert refusal.value.code == "FL-STREAM-REFUSED"
    assert not tunnel.reverses
