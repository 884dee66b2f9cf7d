"""People at the SSH server: who gets in, what they may ask for, and what a hostile client makes of either."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.transport import options, visit
from fairlead.transport.options import Algorithms
from fairlead.transport.peer import Target
from fairlead.transport.rules import SshRules
from fairlead.transport.visit import Call, Visit, Visitor
from tests.unit.transport.hostile import (
    OPEN_CONFIRMATION,
    OPEN_FAILURE,
    REQUEST_FAILURE,
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_SUCCESS,
    Hostile,
    hostile,
)
from tests.unit.transport.world import ALICE, BOB, World, until, world

PASSWORD = "the password of admin"
INFO_REQUEST = 60
NAMES = ("admin", "cli", "aviseuser", "avictlruser", "root", "", "nobody", "jane")
OFFERED = String("publickey,keyboard-interactive,password") + Boolean(False)


@dataclass(eq=False)
class FakeReception:
    """Knows admin, by a password and a key, and the same person as cli."""

    admin_key: PrivateKey = BOB
    holds: SshRules = field(default_factory=SshRules)
    compared: list[tuple[str, str]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Comparisons end when it is set."""
    asked: int = 0
    ended: int = 0
    visits: list[Visit] = field(default_factory=list)
    gone: list[Visit] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    answer: Callable[[Call], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.open.set()

    def rules(self) -> SshRules:
        return self.holds

    def questions(self, user: str) -> Sequence[tuple[str, bool]]:
        return (("User: ", True), ("Password: ", False)) if user == "cli" else (("Password: ", False),)

    async def by_answers(self, user: str, answers: Sequence[str], source: str) -> Visitor | None:
        return await self._compare(user, answers[-1] if answers else "", "cli")

    async def by_password(self, user: str, password: str, source: str) -> Visitor | None:
        return await self._compare(user, password, "admin")

    async def _compare(self, user: str, password: str, wanted: str) -> Visitor | None:
        self.compared.append((user, password))
        self.asked += 1
        await self.open.wait()
        self.ended += 1
        return Visitor("admin", "s", "c") if (user, password) == (wanted, PASSWORD) else None

    async def knows(self, user: str, key: PublicKey, source: str) -> bool:
        await asyncio.sleep(0)
        return (user, key.blob) == ("admin", self.admin_key.public.blob)

    async def by_key(self, user: str, key: PublicKey, source: str) -> Visitor | None:
        self.asked += 1
        await self.open.wait()
        self.ended += 1
        return Visitor("admin", "s", "c", key.fingerprint) if await self.knows(user, key, source) else None

    def arrived(self, visit: Visit) -> None:
        self.visits.append(visit)

    def left(self, visit: Visit) -> None:
        self.gone.append(visit)

    async def serve(self, visitor: Visitor, call: Call) -> None:
        self.calls.append(call)
        if self.answer:
            await self.answer(call)
        else:
            await call.channel.wait_closed()


@pytest.fixture
def reception() -> FakeReception:
    return FakeReception()


@pytest.fixture
async def w(reception: FakeReception) -> AsyncIterator[World]:
    async with world(reception=reception) as made:
        yield made
        for one in reception.visits:
            one.close("the test is over")
            await one.closed.wait()


@pytest.fixture
async def mallory(w: World) -> AsyncIterator[Hostile]:
    async with hostile(w.port) as client:
        await client.begin()
        yield client


def password(client: Hostile, user: str, text: str) -> None:
    client.name(user)
    client.method("password", Boolean(False), String(text))


async def admitted(client: Hostile) -> None:
    password(client, "admin", PASSWORD)
    assert await client.answer() == USERAUTH_SUCCESS


class Said:
    """What comes on a channel, in place of asyncssh's own channel at the client."""

    def __init__(self) -> None:
        self.packets: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def process_packet(self, kind: int, _number: int, packet: SSHPacket) -> bool:
        self.packets.put_nowait((kind, packet.get_remaining_payload()))
        return True

    def log_received_packet(self, *_: object) -> None: ...

    def process_connection_close(self, _: object) -> None: ...

    async def next(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            return await self.packets.get()


async def session(client: Hostile) -> tuple[int, Said]:
    client.open("session")
    kind, payload = await client.answer_in_full()
    assert kind == OPEN_CONFIRMATION
    packet = SSHPacket(payload)
    packet.get_uint32()
    said = Said()
    client._channels[7] = said  # type: ignore[assignment]
    return packet.get_uint32(), said


def ask(client: Hostile, channel: int, name: str, *fields: bytes) -> None:
    client.send_packet(98, UInt32(channel), String(name), Boolean(True), *fields)


# -- who gets in ------------------------------------------------------------------------------------------------------

async def test_every_name_is_offered_the_same_and_refused_alike(w: World, reception: FakeReception) -> None:
    seen = set()
    for user in NAMES:
        answers = []
        async with hostile(w.port) as client:
            await client.begin()
            client.name(user)
            client.method("none")
            answers.append(await client.answer_in_full())
            client.probe(ALICE if user != "aviseuser" else BOB)
            answers.append(await client.answer_in_full())
            password(client, user, "wrong")
            answers.append(await client.answer_in_full())
            client.method("keyboard-interactive", String(""), String(""))
            kind, asked = await client.answer_in_full()
            assert kind == INFO_REQUEST
            assert (b"User: " in asked) == (user == "cli")
            client.send_packet(61, UInt32(1), String("wrong"))
            answers.append(await client.answer_in_full())
            client.method("password", Boolean(True), String("old"), String("new"))
            answers.append(await client.answer_in_full())
        seen.add(tuple(answers))
    assert seen == {((USERAUTH_FAILURE, OFFERED),) * 5}
    assert [user for user, _ in reception.compared] == [user for user in NAMES for _ in range(2)]
    assert reception.visits == []


async def test_a_password_and_a_key_let_admin_in_as_a_person_and_not_as_a_node(w: World,
                                                                               reception: FakeReception) -> None:
    async with hostile(w.port) as client:
        await client.begin()
        await admitted(client)
    async with hostile(w.port) as client:
        await client.begin()
        client.name("admin")
        client.probe(BOB)
        assert await client.answer() == USERAUTH_PK_OK
        await client.prove(BOB)
        assert await client.answer() == USERAUTH_SUCCESS
    assert [one.visitor.fingerprint for one in reception.visits] == ["", BOB.public.fingerprint]
    assert w.door.tunnels == []
    await until(lambda: len(reception.gone) == 2)
    assert "'s'" not in repr(reception.visits[0].visitor), "the session is shown nowhere"


async def test_keyboard_interactive_asks_before_any_channel_opens(mallory: Hostile, reception: FakeReception) -> None:
    mallory.name("cli")
    mallory.method("keyboard-interactive", String(""), String(""))
    kind, asked = await mallory.answer_in_full()
    assert kind == INFO_REQUEST
    packet = SSHPacket(asked)
    assert [packet.get_string() for _ in range(3)] == [b"", b"", b""]
    assert packet.get_uint32() == 2
    assert [(packet.get_string(), packet.get_boolean()) for _ in range(2)] == [
        (b"User: ", True), (b"Password: ", False)]
    mallory.send_packet(61, UInt32(2), String("admin"), String(PASSWORD))
    assert await mallory.answer() == USERAUTH_SUCCESS
    assert reception.compared == [("cli", PASSWORD)]


async def test_a_key_that_is_offered_or_signed_by_another_lets_nobody_in(mallory: Hostile,
                                                                         reception: FakeReception) -> None:
    mallory.name("admin")
    mallory.probe(BOB)
    assert await mallory.answer() == USERAUTH_PK_OK
    await mallory.prove(ALICE, shown=BOB)
    assert await mallory.answer() == USERAUTH_FAILURE
    await mallory.prove(ALICE)  # a node's
    assert await mallory.answer() == USERAUTH_FAILURE
    mallory.name("cli")
    await mallory.prove(BOB)
    assert await mallory.answer() == USERAUTH_FAILURE
    assert reception.visits == []


@pytest.mark.parametrize("then", ["another name", "the same name", "a node's key", "a wrong password"])
async def test_what_was_right_for_an_earlier_request_is_void(w: World, mallory: Hostile, reception: FakeReception,
                                                            then: str) -> None:
    """The password of admin, and before it was compared something else: nobody is admin by that."""
    reception.open.clear()
    password(mallory, "admin", PASSWORD)
    await until(lambda: reception.asked == 1)
    if then == "another name":
        mallory.name("root")
        mallory.method("none")
    elif then == "the same name":
        mallory.method("none")
    elif then == "a wrong password":
        password(mallory, "admin", "wrong")
        await until(lambda: reception.asked == 2)
    else:
        mallory.name("aviseuser")
        await mallory.prove(ALICE)
        assert await mallory.answer() == USERAUTH_SUCCESS
    reception.open.set()
    await until(lambda: reception.ended == reception.asked)
    if then == "a node's key":
        assert [tunnel.peer.node for tunnel in w.door.tunnels] == ["alice"]
        mallory.request("tcpip-forward", String("x"), UInt32(1))
        assert await mallory.answer() == REQUEST_FAILURE
    else:
        assert await mallory.answer_in_full() == (USERAUTH_FAILURE, OFFERED)
        mallory.name("admin")
        mallory.method("none")
        assert await mallory.answer_in_full() == (USERAUTH_FAILURE, OFFERED)
    assert reception.visits == []


async def test_a_key_that_was_proven_for_an_earlier_request_is_void(mallory: Hostile, reception: FakeReception) -> None:
    reception.open.clear()
    mallory.name("admin")
    await mallory.prove(BOB)
    await until(lambda: reception.asked == 1)
    mallory.name("root")
    mallory.method("none")
    assert await mallory.answer() == USERAUTH_FAILURE
    reception.open.set()
    await until(lambda: reception.ended == 1)
    mallory.name("admin")
    mallory.method("none")
    assert await mallory.answer() == USERAUTH_FAILURE
    assert reception.visits == []


@pytest.mark.parametrize("now", ["before", "after"])
async def test_what_comes_of_an_earlier_request_counts_for_no_later_one(
        w: World, mallory: Hostile, reception: FakeReception, now: str) -> None:
    """Whatever asyncssh makes of two requests at once: the record itself is of one request, and the next forgets it."""
    (guest,) = w.listener.strangers
    server = guest._connection
    assert server
    reception.open.clear()
    mallory.name("admin")
    mallory.method("none")
    assert await mallory.answer() == USERAUTH_FAILURE
    server.set_extra_info(username="admin")
    judging = asyncio.ensure_future(server.validate_password("admin", PASSWORD))
    await until(lambda: reception.asked == 1)
    if now == "after":
        reception.open.set()
        assert await judging
        assert isinstance(server.who_was_proven(), Visitor)
    mallory.method("none")
    assert await mallory.answer() == USERAUTH_FAILURE
    reception.open.set()
    assert await judging == (now == "after")
    assert server.who_was_proven() is None


async def test_passwords_are_counted_when_they_come_and_compared_to_their_end(mallory: Hostile,
                                                                              reception: FakeReception) -> None:
    """Asking again at once takes no guess back, and gives no more of them."""
    reception.open.clear()
    for _ in range(options.MOST_PASSWORDS + 5):
        password(mallory, "admin", "guess")
    assert await mallory.answer() == -1
    assert 0 < reception.asked <= options.MOST_PASSWORDS
    reception.open.set()
    await until(lambda: reception.ended == reception.asked)


async def test_answers_are_counted_too(mallory: Hostile, reception: FakeReception) -> None:
    reception.open.clear()
    mallory.name("cli")
    mallory.method("keyboard-interactive", String(""), String(""))
    assert await mallory.answer() == INFO_REQUEST
    for count in range(1, options.MOST_PASSWORDS + 1):
        mallory.send_packet(61, UInt32(2), String("admin"), String("guess"))
        await until(lambda: reception.asked == count)  # noqa: B023
    mallory.send_packet(61, UInt32(2), String("admin"), String("guess"))
    assert await mallory.answer() == -1
    assert reception.asked == options.MOST_PASSWORDS
    reception.open.set()
    await until(lambda: reception.ended == reception.asked)


async def test_requests_are_counted_when_they_come(w: World, reception: FakeReception) -> None:
    async with hostile(w.port) as client:
        await client.begin()
        client.name("admin")
        for _ in range(options.MOST_REQUESTS + 1):
            client.probe(BOB)
        kinds = set()
        while (kind := await client.answer()) != -1:
            kinds.add(kind)
    assert kinds <= {USERAUTH_PK_OK, USERAUTH_FAILURE}


async def test_whoever_types_has_time_and_whoever_does_not_begin_has_not(
        w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "LOGIN_TIMEOUT", 0.3)
    async with world(reception=FakeReception()) as quick:
        async with hostile(quick.port) as client:
            await client.begin()
            client.name("cli")
            client.method("none")
            assert await client.answer() == USERAUTH_FAILURE
            await asyncio.sleep(0.5)
            client.method("none")
            assert await client.answer() == USERAUTH_FAILURE
        async with hostile(quick.port) as silent:
            assert await silent.answer() == -1


# -- what they may do -------------------------------------------------------------------------------------------------

async def test_a_command_its_input_its_output_and_its_end(mallory: Hostile, reception: FakeReception) -> None:
    async def answer(call: Call) -> None:
        assert (call.command, call.terminal) == ("node list --json", None)
        given = b""
        while data := await call.channel.receive():
            given += data
        await call.channel.send(b"out:" + given)
        await call.complain(b"error")
        call.exit(7)

    reception.answer = answer
    await admitted(mallory)
    channel, said = await session(mallory)
    ask(mallory, channel, "exec", String("node list --json"))
    assert (await said.next())[0] == 99
    mallory.send_packet(94, UInt32(channel), String("in"))
    mallory.send_packet(96, UInt32(channel))
    seen = [await said.next() for _ in range(4)]
    assert seen[0] == (94, String("out:in"))
    assert seen[1] == (95, UInt32(1) + String("error"))
    assert seen[2] == (98, String("exit-status") + Boolean(False) + UInt32(7))
    assert seen[3][0] in (96, 97)


async def test_a_prompt_with_a_terminal(mallory: Hostile, reception: FakeReception) -> None:
    await admitted(mallory)
    channel, said = await session(mallory)
    ask(mallory, channel, "pty-req", String("xterm-256color"), UInt32(120), UInt32(0), UInt32(0), UInt32(0), String(""))
    ask(mallory, channel, "shell")
    assert [(await said.next())[0] for _ in range(2)] == [99, 99]
    await until(lambda: bool(reception.calls))
    (call,) = reception.calls
    assert call.command is None
    assert call.terminal
    assert (call.terminal.name, call.terminal.columns, call.terminal.rows) == ("xterm-256color", 120, 24)
    sizes = []
    call.resized = lambda: sizes.append((call.terminal.columns, call.terminal.rows))  # type: ignore[union-attr]
    ask(mallory, channel, "window-change", UInt32(1 << 31), UInt32(50), UInt32(0), UInt32(0))
    assert (await said.next())[0] == 99
    assert sizes == [(visit.MOST_SIDE, 50)]


@pytest.mark.parametrize("name", ["../../etc/passwd", "xterm;id", "x" * 33, "", "XTERM", "-x", "a b", "\x1b[2J"])
async def test_a_terminal_is_one_plain_word(mallory: Hostile, reception: FakeReception, name: str) -> None:
    await admitted(mallory)
    channel, said = await session(mallory)
    ask(mallory, channel, "pty-req", String(name), UInt32(80), UInt32(24), UInt32(0), UInt32(0), String(""))
    ask(mallory, channel, "shell")
    assert [(await said.next())[0] for _ in range(2)] == [99, 99]
    await until(lambda: bool(reception.calls))
    assert reception.calls[0].terminal
    assert reception.calls[0].terminal.name == "dumb"


@pytest.mark.parametrize(("name", "fields"), [
    ("env", String("LD_PRELOAD") + String("/tmp/x.so")), ("auth-agent-req@openssh.com", b""),
    ("x11-req", Boolean(False) + String("MIT-MAGIC-COOKIE-1") + String("00") + UInt32(0)),
    ("subsystem", String("sftp")), ("subsystem", String("fairlead-engine")), ("subsystem", String("fairlead-join")),
    ("signal", String("KILL")), ("break", UInt32(1)), ("xon-xoff", Boolean(True)), ("unknown", b""),
    ("exec", String(b"\xff\xfe")), ("exec", String("x" * (visit.MOST_COMMAND + 1))), ("exec", String("ü" * 5000))])
async def test_all_other_requests_are_refused(w: World, mallory: Hostile, reception: FakeReception, name: str,
                                              fields: bytes) -> None:
    async def never(_: object) -> None: ...
    w.door.subsystems |= dict.fromkeys(("sftp", "fairlead-engine", "fairlead-join"), never)
    await admitted(mallory)
    channel, said = await session(mallory)
    ask(mallory, channel, name, fields)
    assert (await said.next())[0] == 100
    assert reception.calls == []


async def test_one_command_for_each_channel(mallory: Hostile, reception: FakeReception) -> None:
    await admitted(mallory)
    channel, said = await session(mallory)
    for name, fields, answer in (("exec", String("status"), 99), ("exec", String("status"), 100), ("shell", b"", 100)):
        ask(mallory, channel, name, fields)
        assert (await said.next())[0] == answer
    await until(lambda: len(reception.calls) == 1)


async def test_no_streams_no_listeners_no_other_channels(w: World, mallory: Hostile) -> None:
    w.door.reverses.add(("127.64.0.1", 5432))
    w.door.targets["127.64.0.1", 5432] = w.door.targets["db", 5432] = Target("127.0.0.1", 9, "db")
    await admitted(mallory)
    place = String("127.64.0.1") + UInt32(5432)
    for kind in ("direct-tcpip", "direct-streamlocal@openssh.com", "forwarded-tcpip", "x11", "auth-agent@openssh.com",
                 "tun@openssh.com"):
        mallory.open(kind, place, String("127.0.0.1"), UInt32(1))
        assert await mallory.answer() == OPEN_FAILURE
    for name in ("tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com"):
        mallory.request(name, place)
        assert await mallory.answer() == REQUEST_FAILURE


async def test_commands_at_once_are_limited_and_their_places_come_back(mallory: Hostile,
                                                                       reception: FakeReception) -> None:
    await admitted(mallory)
    channels = [await session(mallory) for _ in range(visit.MOST_CALLS)]
    mallory.open("session")
    assert await mallory.answer() == OPEN_FAILURE
    mallory.send_packet(97, UInt32(channels[-1][0]))
    assert (await channels[-1][1].next())[0] == 97
    await session(mallory)


async def test_who_does_not_read_makes_nobody_buffer(mallory: Hostile, reception: FakeReception) -> None:
    sent = 0

    async def answer(call: Call) -> None:
        nonlocal sent
        while True:
            await call.channel.send(bytes(10_000))
            sent += 10_000

    reception.answer = answer
    await admitted(mallory)
    channel, said = await session(mallory)
    ask(mallory, channel, "exec", String("audit list"))
    assert (await said.next())[0] == 99
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 3 << 20, "the window that the client gave, and our buffer"


async def test_a_visit_that_is_closed_ends_with_its_commands(mallory: Hostile, reception: FakeReception) -> None:
    await admitted(mallory)
    channel, _ = await session(mallory)
    ask(mallory, channel, "shell")
    await until(lambda: bool(reception.calls))
    reception.visits[0].close("the session has ended")
    async with asyncio.timeout(10):
        await reception.calls[0].channel.wait_closed()
        await reception.visits[0].closed.wait()
    assert reception.gone == reception.visits


# -- what the operator says -------------------------------------------------------------------------------------------

async def test_a_banner_comes_once_to_everybody_before_the_log_in(w: World, reception: FakeReception) -> None:
    shown: list[str] = []

    class Reading(Hostile):
        def _banner(self, _kind: int, _number: int, packet: SSHPacket) -> None:
            shown.append(packet.get_string().decode())

        _packet_handlers = {**Hostile._packet_handlers, 53: _banner}  # noqa: RUF012

    reception.holds = SshRules(banner="Authorised use only\n\n")
    async with hostile(w.port, Reading) as client:
        await client.begin()
        for user in ("aviseuser", "admin"):
            client.name(user)
            client.method("none")
            assert await client.answer() == USERAUTH_FAILURE
    assert shown == ["Authorised use only\n"]
    tunnel = await w.dial()
    assert not tunnel.closed.is_set(), "a node does not mind it"


async def test_new_connections_use_the_algorithms_of_now(w: World, reception: FakeReception) -> None:
    before = await w.dial()
    reception.holds = SshRules(algorithms=Algorithms(("curve25519-sha256",), ("aes128-gcm@openssh.com",)))
    after = await w.dial()
    assert (before.cipher, before.kex) == ("aes256-gcm@openssh.com", "mlkem768x25519-sha256")
    assert (after.cipher, after.kex) == ("aes128-gcm@openssh.com", "curve25519-sha256")
    assert not before.closed.is_set()
