"""Somebody has an engine's keys and its disk: what he gets is that engine, and nothing that is anybody else's.

The whole decision over real connections: SSH server, sessions, directory, store and portal are the real ones. What each
gate does with each spelling stands with the gate; here is what they do together, and what the thief says of himself.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from asyncssh.packet import Boolean, NameList, String, UInt32

from fairlead.base.errors import FairleadError
from fairlead.controller.application import application
from fairlead.enrol.exchange import PATH
from fairlead.fleet import commit
from fairlead.fleet.sessions import JOIN_SUBSYSTEM, Sessions
from fairlead.keys import http
from fairlead.keys.ssh import PrivateKey
from fairlead.link import frames
from fairlead.link.messages import SUBSYSTEM, Heartbeat, Hello, NewPlan, Welcome, from_controller
from fairlead.nodes.node import Node
from fairlead.nodes.service import Service
from fairlead.transport.admission import Admission
from fairlead.transport.channel import Channel
from fairlead.transport.dialler import dial
from fairlead.transport.peer import Peer
from fairlead.transport.rules import SshRules
from fairlead.transport.server import listen
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.visit import Call, Visitor
from fairlead.transport.way import Stock, choose
from fairlead.users.keys import UserKeys
from fairlead.users.passwords import Passwords
from fairlead.users.people import People
from fairlead.users.reception import Reception
from fairlead.users.sessions import Sessions as PeoplesSessions
from tests.unit.api.test_application import door
from tests.unit.controller.everything import Everything, parts
from tests.unit.controller.test_application import TABLE
from tests.unit.transport.hostile import (
    OPEN_CONFIRMATION,
    OPEN_FAILURE,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_SUCCESS,
    hostile,
)
from tests.unit.transport.world import CLOCK, PATIENT, bound, until
from tests.world import Machine, World, open_world, refusal

OURS, THEIRS, HIDDEN = 5432, 5433, 6000
PASSWORD, ADMIN_KEY = "the password of admin", PrivateKey.from_seed(b"A" * 32)
REFUSED = UInt32(7) + UInt32(1) + String("refused") + String("en-US")


@dataclass(eq=False)
class House:
    """A Controller that serves SSH, and two engines that have joined; the thief has se-1's machine."""

    world: World
    sessions: Sessions
    port: int
    stolen: Machine
    other: Machine
    thief: Node
    honest: Node
    target: int
    """Where the services of the Controller really are."""
    visits: "Visits"
    reached: list[bytes] = field(default_factory=list)
    """What came there."""
    alarms: list[str] = field(default_factory=list)
    tunnels: list[Tunnel] = field(default_factory=list)

    async def dial(self, machine: Machine, port: int = 0) -> Tunnel:
        """Log in as an engine's own software does."""
        ctl = self.world.controller
        tunnel = await dial("127.0.0.1", port or self.port, key=machine.user, keepalive=PATIENT, clock=CLOCK,
                            way=Stock(), host_keys=[self.world.host_key.public],
                            peer=Peer(ctl.id, ctl.name, "controller", "aviseuser", "active", ctl.user_key))
        self.tunnels.append(tunnel)
        return tunnel

    async def link(self, machine: Machine, instance: str = "i") -> "Link":
        """A link that was welcomed and has its plan."""
        tunnel = await self.dial(machine)
        link = Link(tunnel, await tunnel.subsystem(SUBSYSTEM))
        await link.tell(hello(instance))
        assert isinstance(await link.hear(), Welcome)
        plan = await link.hear()
        assert isinstance(plan, NewPlan)
        link.node = plan.plan.node
        return link


class Visits:
    """The people of that Controller, who log in at the same port."""

    def __init__(self, world: World) -> None:
        self.passwords = Passwords()
        self.people = People(world.store, world.audit, self.passwords, PeoplesSessions(world.store), world.refusals)
        self.keys = UserKeys(world.store, world.audit)
        self.served: list[Visitor] = []
        self.reception = Reception(self.people, self.keys, SshRules, self.serve)

    async def serve(self, visitor: Visitor, call: Call) -> None:
        self.served.append(visitor)
        call.exit(0)


@dataclass(eq=False)
class Link:
    """An engine's end of its link, to say anything on."""

    tunnel: Tunnel
    channel: Channel
    node: str = ""
    decoder: frames.Decoder = field(default_factory=frames.Decoder)
    waiting: list[dict[str, Any]] = field(default_factory=list)

    async def tell(self, fields: dict[str, Any]) -> None:
        await self.channel.send(frames.encode(fields))

    async def hear(self) -> Any:
        """The next message; None when the link has ended."""
        async with asyncio.timeout(30):
            while not self.waiting:
                try:
                    chunk = await self.channel.receive()
                except FairleadError:
                    return None
                if not chunk:
                    return None
                self.waiting.extend(self.decoder.feed(chunk))
        return from_controller(self.waiting.pop(0))


def hello(instance: str = "i", **more: object) -> dict[str, Any]:
    return Hello(v=1, software="x", instance=instance, generation="", plan_revision=0).model_dump() | more


def heartbeat(**more: object) -> dict[str, Any]:
    return Heartbeat(sequence=1, time=1).model_dump() | more


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_world(tmp_path) as world:
        stolen, other = Machine(), Machine()
        thief, honest = await world.join("se-1", stolen), await world.join("se-2", other)
        alarms: list[str] = []

        async def cloned(node: Node) -> None:
            alarms.append(node.name)

        sessions = Sessions(world.directory, world.clock, me=world.controller.id, generation="g", first_epoch=100,
                            commit=lambda peer, channel: commit.answer(world.enrolment, peer, channel), cloned=cloned)
        reached: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.append(await reader.read(1))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        target = int(server.sockets[0].getsockname()[1])
        for name, owner, port, allow in (("ours", "ctl-1", OURS, "se-1"), ("theirs", "ctl-1", THEIRS, "se-2"),
                                         ("hidden", "ctl-1", HIDDEN, "controllers"),
                                         ("mine", "se-1", 80, "controllers"), ("its", "se-2", 81, "controllers")):
            await world.registry.add_service(Service(name, owner, port, "127.0.0.1", target, (allow,)), "admin")
        await world.directory.reached(await world.revision())
        admission, sock, way = Admission(100, 100), bound(), choose({})
        visits = Visits(world)
        await visits.people.add("admin", "admin", PASSWORD, "root")
        await visits.keys.add("admin", ADMIN_KEY.public.line, None, "root")
        listener = await listen([sock], host_keys=lambda: (world.host_key,), door=sessions, admission=admission,
                                keepalive=PATIENT, clock=CLOCK, way=way, reception=visits.reception)
        made = House(world, sessions, int(sock.getsockname()[1]), stolen, other, thief, honest, target, visits, reached,
                     alarms)
        pushing = asyncio.ensure_future(sessions.push())
        yield made
        pushing.cancel()
        for tunnel in made.tunnels:
            tunnel.close("the test is over")
        await sessions.close()
        await listener.close()
        await visits.reception.close()
        visits.passwords.close()
        await until(lambda: not sessions.tunnels and not admission.inside)
        way.close()
        server.close()
        await asyncio.gather(pushing, return_exceptions=True)


# -- who he can be ----------------------------------------------------------------------------------------------------

async def test_the_stolen_keys_log_in_as_that_engine_and_as_nobody_else(house: House) -> None:
    """Every account of ours and some of the system's; both keys of the engine, offered and proven."""
    users = ("aviseuser", "avictlruser", "avictrluser", "admin", "root", "se-1", "se-2", "ctl-1", house.honest.id,
             "AVISEUSER", "aviseuser ", "aviseuser/x", "")
    for key in (house.stolen.user, house.stolen.host):
        for user in users:
            welcome = key is house.stolen.user and user == "aviseuser"
            async with hostile(house.port) as thief:
                await thief.begin()
                thief.name(user)
                thief.probe(key)
                assert await thief.answer() == (USERAUTH_PK_OK if welcome else USERAUTH_FAILURE), user
                await thief.prove(key)
                assert await thief.answer() == (USERAUTH_SUCCESS if welcome else USERAUTH_FAILURE), user
                assert [t.peer.node_id for t in house.sessions.tunnels] == ([house.thief.id] if welcome else [])
            await until(lambda: not house.sessions.tunnels)


async def test_another_engines_key_offered_first_makes_him_nobody_else(house: House) -> None:
    """What others' public keys are he knows. Offered before, after, or instead of the key that he proves."""
    async with hostile(house.port) as thief:
        await thief.begin()
        thief.name("aviseuser")
        thief.probe(house.other.user)
        assert await thief.answer() == USERAUTH_PK_OK
        await thief.prove(house.stolen.user, shown=house.other.user)
        assert await thief.answer() == USERAUTH_FAILURE
        thief.name("avictlruser")
        thief.probe(house.stolen.user)
        assert await thief.answer() == USERAUTH_FAILURE
        thief.name("aviseuser")
        await thief.prove(house.stolen.user)
        assert await thief.answer() == USERAUTH_SUCCESS
        assert [t.peer.node for t in house.sessions.tunnels] == ["se-1"]


async def test_his_key_makes_him_no_person(house: House) -> None:
    """Not beside the password of admin or admin's key, in any order; and nobody registers it for a person."""
    for name in ("aviseuser", "avictlruser", "se-1"):
        async with hostile(house.port) as thief:
            await thief.begin()
            thief.name(name)
            for password in (PASSWORD, ""):
                thief.method("password", Boolean(False), String(password))
                assert await thief.answer() == USERAUTH_FAILURE
            thief.name("admin")
            thief.probe(ADMIN_KEY)
            assert await thief.answer() == USERAUTH_PK_OK
            await thief.prove(house.stolen.user, shown=ADMIN_KEY)
            assert await thief.answer() == USERAUTH_FAILURE
            await thief.prove(house.stolen.user)
            assert await thief.answer() == USERAUTH_FAILURE
            thief.name("aviseuser")
            await thief.prove(house.stolen.user)
            assert await thief.answer() == USERAUTH_SUCCESS
            thief.name("admin")
            await thief.prove(house.stolen.user)  # too late for asyncssh, and for anybody
            thief.open("session")
            kind, payload = await thief.answer_in_full()
            assert kind == OPEN_CONFIRMATION
            answers = await requests(thief, payload[4:8], ("exec", String("node list")), ("shell", b""),
                                     ("pty-req", String("vt100") + UInt32(1) * 4 + String("")))
            assert answers == [100, 100, 100]
        await until(lambda: not house.sessions.tunnels)
    assert house.visits.served == []
    assert await refusal(house.visits.keys.add("admin", house.stolen.user.public.line, None, "root")) == "FL-USER-KEY"


async def test_admin_is_a_person_and_no_node_whatever_he_proves_first(house: House) -> None:
    """He has both a password and an engine's machine: what he proved last is what he is."""
    async with hostile(house.port) as thief:
        await thief.begin()
        thief.name("aviseuser")
        thief.probe(house.stolen.user)
        assert await thief.answer() == USERAUTH_PK_OK
        thief.name("admin")
        thief.method("password", Boolean(False), String(PASSWORD))
        assert await thief.answer() == USERAUTH_SUCCESS
        assert house.sessions.tunnels == []
        thief.request("tcpip-forward", String(house.thief.internal_address), UInt32(80))
        assert await thief.answer() == REQUEST_FAILURE
        thief.open("direct-tcpip", String(house.world.controller.internal_address), UInt32(OURS), String(""), UInt32(0))
        assert await thief.answer_in_full() == (OPEN_FAILURE, REFUSED)
        thief.open("session")
        kind, payload = await thief.answer_in_full()
        assert kind == OPEN_CONFIRMATION
        answers = await requests(thief, payload[4:8], ("subsystem", String(SUBSYSTEM)),
                                 ("subsystem", String(JOIN_SUBSYSTEM)), ("exec", String("node list")))
        assert answers == [100, 100, 99]
        await until(lambda: bool(house.visits.served))
    assert [visitor.name for visitor in house.visits.served] == ["admin"]


async def requests(thief: Any, channel: bytes, *asked: tuple[str, bytes]) -> list[int]:
    """The answers to requests on a channel that was just opened."""
    answers: asyncio.Queue[int] = asyncio.Queue()

    class Recorder:
        def process_packet(self, kind: int, _number: int, _packet: object) -> bool:
            answers.put_nowait(kind)
            return True

        def log_received_packet(self, *_: object) -> None: ...

        def process_connection_close(self, _: object) -> None: ...

    thief._channels[7] = Recorder()
    found = []
    for name, fields in asked:
        thief.send_packet(98, channel, String(name), Boolean(True), fields)
        async with asyncio.timeout(10):
            found.append(await answers.get())
    return found


async def test_his_keys_make_no_controller(house: House) -> None:
    """He listens where an engine dials, with either key of the engine as host key."""
    for key in (house.stolen.user, house.stolen.host):
        sock = bound()
        listener = await listen([sock], host_keys=lambda key=key: (key,), door=house.sessions,  # type: ignore[misc]
                                admission=Admission(9, 9), keepalive=PATIENT, clock=CLOCK, way=Stock())
        assert await refusal(house.dial(house.other, port=int(sock.getsockname()[1]))) == "FL-SSH-HOSTKEY"
        await listener.close()
    assert house.sessions.tunnels == []


KEXINIT = b"\x14" + bytes(16) + NameList([b"curve25519-sha256", b"kex-strict-c-v00@openssh.com"]) + b"".join(
    NameList([name]) for name in (b"ssh-ed25519", *[b"aes256-gcm@openssh.com"] * 2,
                                  *[b"hmac-sha2-256-etm@openssh.com"] * 2, b"none", b"none", b"", b"")) + bytes(5)


def in_clear(payload: bytes) -> bytes:
    """A packet as it is sent before keys are in use (RFC 4253 section 6)."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return UInt32(1 + len(payload) + padding) + bytes([padding]) + payload + bytes(padding)


@pytest.mark.parametrize("begun", [b"", in_clear(KEXINIT)], ids=["at once", "during the key exchange"])
async def test_nothing_is_answered_before_keys_are_in_use(house: House, begun: bytes) -> None:
    """Log-in, channels, requests, data, and the end of a key exchange that did not take place, all in the clear."""
    user = String("aviseuser") + String("ssh-connection")
    key = String("ssh-ed25519") + String(house.stolen.user.public.blob)
    for payload in (b"\5" + String("ssh-userauth"), b"\6" + String("ssh-userauth"), b"\x15",
                    b"\x32" + user + String("none"), b"\x32" + user + String("publickey") + Boolean(False) + key,
                    b"\x34", b"\x50" + String("tcpip-forward") + Boolean(True) + String("127.64.1.0") + UInt32(80),
                    b"\x5a" + String("session") + UInt32(0) + UInt32(1 << 20) + UInt32(1 << 15),
                    b"\x5e" + UInt32(0) + String("x")):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(b"SSH-2.0-x\r\n" + begun + in_clear(payload))
        async with asyncio.timeout(10):
            try:
                await reader.readline()
                said = await reader.read(-1)  # to the end: it hangs up on us
            except ConnectionError:
                said = b""
        writer.close()
        kinds = []
        while len(said) >= 6:  # its own part of the key exchange, and its farewell; no word on what was asked
            length = int.from_bytes(said[:4], "big")
            kinds.append(said[5])
            said = said[4 + length:]
        assert kinds == [20, 1][:len(kinds)], (payload, kinds)  # a reset may swallow them
    assert house.sessions.tunnels == []


# -- what he can open -------------------------------------------------------------------------------------------------

async def test_he_opens_what_his_engine_may_and_binds_nothing(house: House) -> None:
    """-L and -R in every spelling, against the real policy; each refusal is the same to the byte."""
    ctl, me, it = (n.internal_address for n in (house.world.controller, house.thief, house.honest))
    hosts = ["", "*", "0.0.0.0", "::", "localhost", "127.0.0.1", "::1", f"::ffff:{ctl}", f"::ffff:{me}", ctl, me, it,
             "ctl-1", "se-1", "se-2", "theirs", "hidden", "mine", "its", "ours ", "OURS", "/run/fairlead/control.sock"]
    ports = [0, 22, 80, 81, 443, 8443, OURS, THEIRS, HIDDEN, house.port, house.target, 65536, 65536 + OURS, 2**32 - 1]
    async with hostile(house.port) as thief:
        await thief.login(house.stolen.user)
        for host in hosts:
            for port in ports:
                if (host, port) != (ctl, OURS):
                    thief.open("direct-tcpip", String(host), UInt32(port), String("127.0.0.1"), UInt32(1))
                    assert await thief.answer_in_full() == (OPEN_FAILURE, REFUSED), (host, port)
                if (host, port) != (me, 80):
                    thief.request("tcpip-forward", String(host), UInt32(port))
                    assert await thief.answer_in_full() == (REQUEST_FAILURE, b""), (host, port)
        for kind in ("direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "forwarded-tcpip",
                     "tun@openssh.com"):
            thief.open(kind, String("/run/fairlead/control.sock"), String(""), UInt32(0))
            assert await thief.answer_in_full() == (OPEN_FAILURE, REFUSED), kind
        thief.request("streamlocal-forward@openssh.com", String("/tmp/x.sock"))
        assert await thief.answer() == REQUEST_FAILURE
        assert house.reached == []
        thief.request("tcpip-forward", String(me), UInt32(80))
        assert await thief.answer() == REQUEST_SUCCESS
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(me, 80)
        for place in (ctl, "ours"):
            thief.open("direct-tcpip", String(place), UInt32(OURS), String("127.0.0.1"), UInt32(1))
            assert await thief.answer() == OPEN_CONFIRMATION


async def test_no_subsystem_but_his_own_link(house: House) -> None:
    tunnel = await house.dial(house.stolen)
    for name in ("", "sftp", "netconf", "shell", "fairlead", "fairlead-controller", "FAIRLEAD-ENGINE",
                 SUBSYSTEM + "\0", SUBSYSTEM + " ", "/bin/sh"):
        assert await refusal(tunnel.subsystem(name)) == "FL-STREAM-REFUSED", name


async def test_he_commits_nobodys_join(house: House) -> None:
    """A join that waits for its commit, of which he knows token, node and keys. His key is not the reserved one."""
    world, newcomer = house.world, Machine()
    bundle = await world.export()
    core = await world.exchange(bundle, newcomer, "se-3")
    before = await world.token(bundle)
    tunnel = await house.dial(house.stolen)
    link = Link(tunnel, await tunnel.subsystem(JOIN_SUBSYSTEM))
    await link.tell({"v": 1, "op": "commit", "token_id": bundle.token.id.hex(), "node_id": core.node_id,
                     "keys_hash": core.keys_hash, "fingerprint": newcomer.user.public.fingerprint})
    (answer,) = link.decoder.feed(await link.channel.receive())
    assert answer["error"].startswith("FL-JOIN-")
    assert await world.token(bundle) == before
    assert world.directory.nodes[core.node_id].state == "joining"


# -- what he can say --------------------------------------------------------------------------------------------------

async def test_no_message_of_his_link_says_who_he_is(house: House) -> None:
    """First and later messages with a field that names the other engine, or another epoch: his link ends, alone."""
    honest = await house.link(house.other)
    before = house.sessions.standing(house.honest)
    lies: list[dict[str, object]] = [
        {"node": "se-2"}, {"node_id": house.honest.id}, {"epoch": honest.tunnel.epoch + 100}, {"role": "controller"},
        {"internal_address": house.honest.internal_address}, {"kind": "plan"}, {"kind": "removed"}]
    for lie in lies:
        tunnel = await house.dial(house.stolen)
        first = Link(tunnel, await tunnel.subsystem(SUBSYSTEM))
        await first.tell(hello() | lie)
        assert await first.hear() is None, lie
        later = await house.link(house.stolen)
        assert later.node == "se-1"
        await later.tell(heartbeat() | lie)
        assert await later.hear() is None, lie
    assert house.sessions.standing(house.honest) == before
    await honest.tell(heartbeat())
    assert isinstance(await honest.hear(), Heartbeat)


async def test_what_his_link_says_counts_for_his_engine_only(house: House) -> None:
    """A process name, a revision and problems that are the other's: its connections stay, its health is its own."""
    honest, his = await house.link(house.other, "honest"), await house.link(house.stolen, "honest")
    await his.tell(hello("another"))
    await his.tell({"kind": "acknowledge", "revision": 2**62, "problems": ["se-2 is ill"]})
    await his.tell(heartbeat(problems=["se-2 is ill"]))
    assert isinstance(await his.hear(), Heartbeat)
    standing = house.sessions.standing
    assert standing(house.thief).problems == ("se-2 is ill",)
    assert (standing(house.honest).problems, standing(house.honest).acknowledged) == ((), 0)
    assert not honest.tunnel.closed.is_set()


async def test_the_same_key_from_two_places_is_seen(house: House) -> None:
    """The thief and the owner cut each other off, over real connections; the other engine is left alone."""
    honest = await house.link(house.other)
    links = [await house.link(house.stolen, f"machine {number % 2}") for number in range(5)]
    assert house.alarms == ["se-1"]
    for older in links[:-1]:
        await asyncio.wait_for(older.tunnel.wait_closed(), 30)
    assert not links[-1].tunnel.closed.is_set()
    assert not honest.tunnel.closed.is_set()


async def test_an_older_connection_speaks_no_more(house: House) -> None:
    """It logged in before, and asks for the link after a newer one has it: the newer one stays."""
    older = await house.dial(house.stolen)
    newer = await house.link(house.stolen)
    late = Link(older, await older.subsystem(SUBSYSTEM))
    await late.tell(hello())
    assert await late.hear() is None
    await asyncio.wait_for(older.wait_closed(), 30)
    await newer.tell(heartbeat())
    assert isinstance(await newer.hear(), Heartbeat)


# -- what he can sign -------------------------------------------------------------------------------------------------

async def test_a_signed_call_is_about_him_whatever_it_names(house: House) -> None:
    """He reads and leaves as his own engine; whom the body names does not matter."""
    world = house.world
    names = {"node": "se-2", "node_id": house.honest.id, "keyid": house.other.user.public.fingerprint}
    request = world.signed({"op": "read"} | names, house.stolen.user)
    assert world.believed(await world.ask(request), request)["node_id"] == house.thief.id
    for operation in ("announce", "remove", "release", "label", "freeze", "export", "commit", "admit", ""):
        request = world.signed({"op": operation, "addresses": ["192.0.2.9"], "api_port": 1, "portal_port": 2,
                                "ssh_port": 3} | names, house.stolen.user)
        assert (await world.ask(request)).status == 400, operation
    request = world.signed({"op": "leave"} | names, house.stolen.user)
    assert (await world.ask(request)).status == 200
    assert world.directory.named("se-1") is None
    assert world.directory.named("se-2") == house.honest


async def test_a_call_signed_by_him_under_anothers_key_name_is_refused(house: House) -> None:
    """The field that says whose key it is, changed to the other engine's, the Controller's, and his own host key."""
    world = house.world
    signed = world.signed({"op": "leave"}, house.stolen.user)
    before = await world.revision()
    for name in (house.other.user.public.fingerprint, house.stolen.host.public.fingerprint,
                 world.host_key.public.fingerprint):
        lie = replace(signed, headers=[(n, v.replace(house.stolen.user.public.fingerprint, name))
                                       for n, v in signed.headers])
        assert lie != signed
        answer = await world.ask(lie)
        assert answer.code in ("FL-SIG-BAD", "FL-SIG-KEY"), name
        assert answer.header("signature") is None
    assert await world.revision() == before


async def test_his_signature_opens_no_other_door(house: House) -> None:
    """Every route of the API with his signature for that very route: behind 443 it is nothing, as is his user id."""
    app = application(parts(Everything()))
    for asked in TABLE:
        method, _, route = asked.partition(" ")
        path = re.sub(r"{\w+(:path)?}", "x", route)
        body = b'{"v":1,"op":"leave"}'
        headers = dict(http.sign_request(method, f"https://node{path}", body, "application/json",
                                         key=house.stolen.user, nonce=os.urandom(16), created=1_767_225_600,
                                         to=http.recipient(house.world.cluster_uuid, house.world.controller.id)))
        for uid, code in ((None, "FL-LOGIN"), (os.geteuid() + 4711, "FL-PERMISSION")):
            async with door(app, uid) as client:
                answer = await client.request(method, path, content=body, headers=headers)
            assert answer.json()["code"] == code, (method, path)
    for path in ("/", "/api/node", PATH + "/", PATH + "/anchor", PATH + "/commit"):
        answer_ = await house.world.call("POST", path, [b"{}"])
        assert answer_.status == 404, path
