"""The door and the sessions: who comes in, what he may ask for, who is evicted, and who is cut off."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.fleet import sessions as fleet
from fairlead.fleet.pace import MOST
from fairlead.fleet.sessions import JOIN_SUBSYSTEM, Sessions
from fairlead.keys.ssh import PrivateKey
from fairlead.link import frames
from fairlead.link.controllers import SUBSYSTEM as CONTROLLERS
from fairlead.link.messages import SUBSYSTEM, Acknowledge, Heads, Heartbeat, Hello, from_controller
from fairlead.link.rekey import SUBSYSTEM as REKEY
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Endpoint, Node, State
from fairlead.nodes.records import KeyEntry
from fairlead.nodes.service import STORE_SERVICES, Service
from fairlead.store.protocol import Event, Listing
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer, Target
from fairlead.transport.tunnel import Tunnel
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1, SE_2, service
from tests.world import START, ManualClock, refusal

HOST, USER, OTHER = PrivateKey.from_seed(b"h" * 32), PrivateKey.from_seed(b"u" * 32), PrivateKey.from_seed(b"o" * 32)
COMMIT_BY = START + 660 * SECOND


@dataclass(eq=False)
class FakeTunnel:
    """What sessions need of a tunnel."""

    peer: Peer
    epoch: int = 0
    address: str = "192.0.2.7:40000"
    since: int = START
    bytes_in: int = 0
    bytes_out: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""

    def close(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.closed.set()

    async def idle(self) -> None: ...

    async def wait_closed(self) -> None:
        await self.closed.wait()


class FakeChannel:
    """A subsystem's bytes: what the test says to it, and what came back."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[bytes] = asyncio.Queue()
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.decoder = frames.Decoder()
        self.ended = False

    async def receive(self) -> bytes:
        return await self.told.get()

    async def send(self, data: bytes) -> None:
        assert self.send_now(data)

    def send_now(self, data: bytes) -> bool:
        if self.ended:
            raise Refused("FL-STREAM-LOST", "the tunnel is gone")
        for message in self.decoder.feed(data):
            self.said.put_nowait(message)
        return True

    def close(self) -> None:
        self.ended = True

    def tell(self, message: Any) -> None:
        self.told.put_nowait(frames.encode(message.model_dump()))

    async def hear(self) -> Any:
        return from_controller(await asyncio.wait_for(self.said.get(), 10))


class NoStore:
    async def list(self, prefix: str, *more: str) -> Listing:
        return Listing([], 0)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        await asyncio.Event().wait()
        yield []


class House:
    """Sessions over a directory that the test fills."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.directory = Directory(NoStore())
        self.cloned: list[str] = []
        self.committed: list[Peer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.directory.nodes = {n.id: n for n in (CTL_1, SE_1, SE_2)}
        self.key(SE_1, USER, "user")
        self.sessions = Sessions(self.directory, self.clock, me=CTL_1.id, generation="g", first_epoch=100,
                                 commit=self._commit, cloned=self._cloned, converse=self._commit)

    async def _commit(self, peer: Peer, channel: Channel) -> None:
        self.committed.append(peer)

    async def _cloned(self, node: Node) -> None:
        self.cloned.append(node.name)

    def key(self, node: Node, key: PrivateKey, use: str, state: str = "active") -> None:
        self.directory.keys[key.public.fingerprint] = KeyEntry(
            node.id, use, state, "token", key.public.line, COMMIT_BY)  # type: ignore[arg-type]

    def node(self, node: Node, **changes: Any) -> None:
        self.directory.nodes[node.id] = replace(node, **changes)

    def offer(self, *services: Service) -> None:
        self.directory.services = {s.name: s for s in services}
        self.directory.common += 1

    async def changed(self) -> None:
        await self.directory._advance(self.directory.revision + 1, relevant=True)

    def tunnel(self, key: PrivateKey = USER, user: str = "aviseuser") -> FakeTunnel:
        """Somebody logs in."""
        peer = self.sessions.admit(user, key.public, "192.0.2.7")
        assert peer is not None
        made = FakeTunnel(peer)
        self.sessions.arrived(cast("Tunnel", made))
        return made

    def target(self, tunnel: FakeTunnel, host: str, port: int) -> Target | None:
        return self.sessions.target(cast("Tunnel", tunnel), host, port)

    def reverse(self, tunnel: FakeTunnel, host: str, port: int) -> bool:
        return self.sessions.reverse(cast("Tunnel", tunnel), host, port)

    def handler(self, tunnel: FakeTunnel, name: str) -> Callable[[Channel], Awaitable[None]] | None:
        return self.sessions.subsystem(cast("Tunnel", tunnel), name)

    async def link(self, tunnel: FakeTunnel, instance: str = "i", software: str = "x") -> FakeChannel:
        """A link that has been welcomed and has its first plan."""
        channel, serve = FakeChannel(), self.handler(tunnel, SUBSYSTEM)
        assert serve is not None
        self.tasks.append(asyncio.ensure_future(cast("Any", serve(cast("Channel", channel)))))
        channel.tell(Hello(v=1, software=software, instance=instance, generation="", plan_revision=0))
        assert (await channel.hear()).epoch == tunnel.epoch
        assert (await channel.hear()).plan.node == tunnel.peer.node
        return channel


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    pushing = asyncio.ensure_future(made.sessions.push())
    yield made
    for task in (pushing, *made.tasks):
        task.cancel()
    ended = await asyncio.gather(pushing, *made.tasks, return_exceptions=True)
    assert not [e for e in ended if isinstance(e, Exception)], ended
    await made.sessions.close()


# -- who comes in -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("user", "key", "use", "state", "node_state", "standing"), [
    ("aviseuser", USER, "user", "active", "up", "active"),
    ("aviseuser", USER, "user", "pending", "joining", "pending"),
    ("aviseuser", USER, "user", "active", "joining", "pending"),
    ("aviseuser", USER, "user", "active", "frozen", None),
    ("aviseuser", USER, "user", "active", "removed", None),
    ("aviseuser", USER, "user", "revoked", "up", None),
    ("aviseuser", USER, "user", "revoked", "joining", None),
    ("avictlruser", USER, "user", "active", "up", None),  # another role's user
    ("avictrluser", USER, "user", "active", "up", None),
    ("admin", USER, "user", "active", "up", None),
    ("root", USER, "user", "active", "up", None),
    ("", USER, "user", "active", "up", None),
    ("aviseuser", USER, "host", "active", "up", None),  # a host key logs in nowhere
    ("aviseuser", OTHER, "user", "active", "up", None),  # a key that nobody has
])
def test_who_is_admitted(user: str, key: PrivateKey, use: str, state: str, node_state: State,
                         standing: str | None) -> None:
    house = House()
    house.node(SE_1, state=node_state)
    house.key(SE_1, USER, use, state)
    peer = house.sessions.admit(user, key.public, "192.0.2.7")
    assert (peer.standing if peer else None) == standing
    if peer:
        assert (peer.node_id, peer.node, peer.role, peer.user, peer.fingerprint) == (
            SE_1.id, "se-1", "engine", "aviseuser", USER.public.fingerprint)


def test_a_removed_node_is_nobody() -> None:
    house = House()
    del house.directory.nodes[SE_1.id]
    assert house.sessions.admit("aviseuser", USER.public, "192.0.2.7") is None


def test_a_pending_key_logs_in_until_commit_by() -> None:
    house = House()
    house.node(SE_1, state="joining")
    house.key(SE_1, USER, "user", "pending")
    house.clock.instant = COMMIT_BY - 1
    assert house.sessions.admit("aviseuser", USER.public, "x") is not None
    house.clock.instant = COMMIT_BY
    assert house.sessions.admit("aviseuser", USER.public, "x") is None


CTL_KEY = PrivateKey.from_seed(b"\x77" * 32)
LEARNING = replace(CTL_2, state="joining", joined_at=START)


@pytest.mark.parametrize(("node", "standing", "talks"), [
    (CTL_2, "active", True), (LEARNING, "active", True), (replace(LEARNING, joined_at=0), "pending", False),
    (replace(CTL_2, state="frozen"), None, False),
])
def test_a_controller_is_admitted_to_what_it_may(node: Node, standing: str | None, talks: bool) -> None:
    """One that has committed its join takes part in the store and asks its questions; policy grants it nothing else."""
    house = House()
    house.directory.nodes[node.id] = node
    house.key(node, CTL_KEY, "user")
    house.offer(*STORE_SERVICES, service("db", "ctl-1", 5432, "controllers"))
    peer = house.sessions.admit("avictlruser", CTL_KEY.public, "192.0.2.8")
    assert (peer.standing if peer else None) == standing
    if peer is None:
        return
    tunnel = house.tunnel(CTL_KEY, "avictlruser")
    assert (house.handler(tunnel, "fairlead-controller") is not None) is talks
    assert house.handler(tunnel, SUBSYSTEM) is None
    store = house.target(tunnel, CTL_1.internal_address, 2380)
    assert (store is not None) is talks
    if store is not None:
        assert (store.host, store.port) == (CTL_1.internal_address, 2380)
    for port in (2379, 5432):  # the store's door for clients: there it could write
        assert (house.target(tunnel, CTL_1.internal_address, port) is not None) is (node.state == "up")


def test_no_engine_asks_what_controllers_ask() -> None:
    house = House()
    house.offer(*STORE_SERVICES)
    tunnel = house.tunnel()
    assert house.handler(tunnel, "fairlead-controller") is None
    assert house.target(tunnel, CTL_1.internal_address, 2379) is None
    assert house.target(tunnel, CTL_1.internal_address, 2380) is None


def test_before_the_store_is_there_only_controllers_come_in() -> None:
    house = House()
    house.sessions = Sessions(house.directory, house.clock, me=CTL_1.id, generation="", first_epoch=0,
                              commit=house._commit, cloned=house._cloned, converse=house._commit)
    house.directory.nodes |= {CTL_2.id: CTL_2, LEARNING.id: LEARNING}
    house.key(LEARNING, CTL_KEY, "user")
    assert house.sessions.admit("aviseuser", USER.public, "x") is None
    assert house.sessions.admit("avictlruser", CTL_KEY.public, "x") is not None
    house.key(LEARNING, CTL_KEY, "user", "pending")
    assert house.sessions.admit("avictlruser", CTL_KEY.public, "x") is None
    house.sessions.open("g", 7)
    assert house.sessions.admit("aviseuser", USER.public, "x") is not None
    assert house.sessions.admit("avictlruser", CTL_KEY.public, "x") is not None
    assert house.tunnel().epoch == 8


def test_who_may_have_missed_a_removal_lets_no_engine_in() -> None:
    house, stale = House(), False
    house.sessions = Sessions(house.directory, house.clock, me=CTL_1.id, generation="g", first_epoch=0,
                              commit=house._commit, cloned=house._cloned, stale=lambda: stale)
    house.directory.nodes[CTL_2.id] = CTL_2
    house.key(CTL_2, CTL_KEY, "user")
    assert house.sessions.admit("aviseuser", USER.public, "x") is not None
    stale = True
    assert house.sessions.admit("aviseuser", USER.public, "x") is None
    assert house.sessions.admit("avictlruser", CTL_KEY.public, "x") is not None, "the store is made of them"
    house.offer(*STORE_SERVICES)
    tunnel = house.tunnel(CTL_KEY, "avictlruser")
    assert house.target(tunnel, CTL_1.internal_address, 2380) is not None
    assert house.target(tunnel, CTL_1.internal_address, 2379) is None, "he may be the one who was removed"
    stale = False
    assert house.target(tunnel, CTL_1.internal_address, 2379) is not None


# -- what he may ask for ----------------------------------------------------------------------------------------------

DB = replace(service("db", "ctl-1", 5432, "se-1"), target_host="127.0.0.1", target_port=15432)
WEB = service("web", "se-1", 80, "controllers")
SPELLINGS = ["", "*", "0.0.0.0", "::", "localhost", "127.0.0.1", "::1", "::ffff:127.64.0.1", "127.64.1", "127.64.0.01",
             "0x7f400001", "2134900737", "ctl-1", "ctl-1.fairlead.internal", "DB", "db ", "db\0", "127.64.0.1 ",
             "127.64.1.2", "169.254.169.254"]


async def test_a_stream_goes_where_the_owner_declared(house: House) -> None:
    house.offer(DB, service("secret", "ctl-1", 6000, "se-2"), WEB)
    tunnel = house.tunnel()
    for host in ("127.64.0.1", "db"):
        assert house.target(tunnel, host, 5432) == Target("127.0.0.1", 15432, "db")
    for host in SPELLINGS:
        assert house.target(tunnel, host, 5432) is None, host
    for host, port in (("127.64.0.1", 15432), ("127.64.0.1", 0), ("127.64.0.1", 6000), ("secret", 6000), ("db", 80),
                       ("127.0.0.1", 15432), ("127.64.1.1", 80), ("127.64.1.1", 5432), ("web", 80),
                       ("127.64.0.1", 65536)):
        assert house.target(tunnel, host, port) is None, (host, port)


@pytest.mark.parametrize("state", ["frozen", "joining", "removed"])
async def test_every_look_up_is_made_now(house: House, state: State) -> None:
    """Also in the moment before the tunnel is cut."""
    house.offer(DB, WEB)
    tunnel = house.tunnel()
    house.node(SE_1, state=state)
    assert house.target(tunnel, "db", 5432) is None
    assert not house.reverse(tunnel, SE_1.internal_address, 80)
    del house.directory.nodes[SE_1.id]
    assert house.target(tunnel, "db", 5432) is None
    assert not house.reverse(tunnel, SE_1.internal_address, 80)


async def test_a_policy_that_changes_counts_at_once(house: House) -> None:
    house.offer(DB)
    tunnel = house.tunnel()
    house.offer(replace(DB, allow=("se-2",)))
    assert house.target(tunnel, "db", 5432) is None


async def test_a_link_carries_no_streams(house: House) -> None:
    house.offer(DB, WEB)
    tunnel = house.tunnel()
    await house.link(tunnel)
    assert house.sessions.is_link(cast("Tunnel", tunnel))
    assert house.target(tunnel, "db", 5432) is None
    assert not house.reverse(tunnel, SE_1.internal_address, 80)


async def test_a_node_serves_its_own_declared_ports_only(house: House) -> None:
    house.offer(DB, WEB, service("metrics", "role:engine", 9100, "controllers"),
                service("theirs", "se-2", 81, "controllers"), service("ours", "role:controller", 82, "engines"))
    tunnel = house.tunnel()
    assert house.reverse(tunnel, "127.64.1.1", 80)
    assert house.reverse(tunnel, "127.64.1.1", 9100)
    for port in (81, 82, 5432, 0, 65536, -1):
        assert not house.reverse(tunnel, "127.64.1.1", port), port
    for host in [*SPELLINGS, "127.64.0.1", "se-1", "::ffff:127.64.1.1"]:
        assert not house.reverse(tunnel, host, 80), host


async def test_subsystems(house: House) -> None:
    tunnel = house.tunnel()
    assert house.handler(tunnel, SUBSYSTEM) is not None
    for name in ("", "sftp", "shell", "fairlead", SUBSYSTEM + " ", SUBSYSTEM.upper()):
        assert house.handler(tunnel, name) is None
    house.node(SE_1, state="joining")
    house.key(SE_1, USER, "user", "pending")
    pending = house.tunnel()
    assert house.handler(pending, SUBSYSTEM) is None
    commit = house.handler(pending, JOIN_SUBSYSTEM)
    assert commit is not None
    await commit(cast("Channel", FakeChannel()))
    assert [p.fingerprint for p in house.committed] == [USER.public.fingerprint]  # the proven key says who it is


async def test_a_controller_has_no_engines_link(house: House) -> None:
    house.key(CTL_1, OTHER, "user")
    tunnel = house.tunnel(OTHER, "avictlruser")
    assert house.handler(tunnel, SUBSYSTEM) is None


async def test_bulk_is_for_those_it_is_offered_to_and_never_on_a_control_connection(house: House) -> None:
    house.key(CTL_1, OTHER, "user")
    house.sessions.offer("logs", house._commit)
    house.sessions.offer("image", house._commit, controllers=True)
    engine, controller, control = house.tunnel(), house.tunnel(OTHER, "avictlruser"), house.tunnel(OTHER, "avictlruser")
    assert house.handler(control, CONTROLLERS) is not None
    for tunnel, name, served in ((engine, "logs", True), (engine, "image", True), (controller, "logs", False),
                                 (controller, "image", True), (control, "image", False)):
        assert (house.handler(tunnel, name) is not None) == served, (tunnel.peer.node, name)
    await house.link(engine)
    assert house.handler(engine, "image") is None
    house.sessions.left(cast("Tunnel", control))
    assert not house.sessions._asking


# -- epochs -----------------------------------------------------------------------------------------------------------

async def test_a_newer_login_takes_the_port_and_an_older_one_does_not_get_it_back(house: House) -> None:
    house.offer(WEB)
    older, newer = house.tunnel(), house.tunnel()
    assert 100 < older.epoch < newer.epoch
    assert house.reverse(older, "127.64.1.1", 80)
    assert await house.sessions.carrier("se-1", "127.64.1.1", 80) is cast("Tunnel", older)
    assert house.reverse(newer, "127.64.1.1", 80)
    assert older.closed.is_set()
    assert await house.sessions.carrier("se-1", "127.64.1.1", 80) is cast("Tunnel", newer)
    assert not house.reverse(older, "127.64.1.1", 80)
    house.sessions.left(cast("Tunnel", older))
    house.sessions.reverse_ended(cast("Tunnel", older), "127.64.1.1", 80)
    assert await house.sessions.carrier("se-1", "127.64.1.1", 80) is cast("Tunnel", newer)
    assert not newer.closed.is_set()
    house.sessions.left(cast("Tunnel", newer))
    assert await refusal(house.sessions.carrier("se-1", "127.64.1.1", 80)) == "FL-STREAM-DOWN"


@pytest.mark.parametrize(("instance", "kept"), [("i", True), ("another", False)])
async def test_a_new_process_has_no_use_for_the_streams_of_the_old(house: House, instance: str, kept: bool) -> None:
    house.offer(WEB)
    await house.link(house.tunnel())
    streams = house.tunnel()
    assert house.reverse(streams, "127.64.1.1", 80)
    await house.link(house.tunnel(), instance)
    assert streams.closed.is_set() is not kept


async def test_heads_are_for_engines_that_keep_them_and_others_are_sent_nothing_that_is_new(house: House) -> None:
    tunnel = house.tunnel()
    older = await house.link(tunnel)
    await house.sessions.show("head 1")
    assert await house.sessions.witnessed(16, 1.0) == {}
    assert older.said.empty()
    channel = await house.link(house.tunnel(), software="fairlead/1.0 heads/1")
    assert (await channel.hear()).head == "head 1", "it is told when it comes"
    await house.sessions.show("head 2")
    assert (await channel.hear()).head == "head 2"
    asked = asyncio.ensure_future(house.sessions.witnessed(16, 5.0))
    number = (await channel.hear()).number
    channel.tell(Heads(number=number + 1, heads=["of another question"]))
    channel.tell(Heads(number=number, heads=["head 1", "head 2"]))
    assert await asked == {"se-1": ["head 1", "head 2"]}


async def test_an_engine_that_does_not_answer_for_its_heads_delays_no_check(house: House) -> None:
    await house.link(house.tunnel(), software="fairlead/1.0 heads/1")
    assert await house.sessions.witnessed(16, 0.01) == {}


async def test_a_newer_link_evicts_the_ghost(house: House) -> None:
    older, newer = house.tunnel(), house.tunnel()
    await house.link(older)
    await house.link(newer)
    assert older.closed.is_set()
    assert house.sessions.is_link(cast("Tunnel", newer))
    house.sessions.left(cast("Tunnel", older))  # its end is heard of late
    assert house.sessions.is_link(cast("Tunnel", newer))
    late = FakeChannel()
    serve = house.handler(older, SUBSYSTEM)
    assert serve is not None
    late.tell(Hello(v=1, software="x", instance="i", generation="", plan_revision=0))
    await serve(cast("Channel", late))
    assert not newer.closed.is_set()
    assert late.said.empty()


async def test_two_machines_with_one_key_raise_an_alarm(house: House) -> None:
    for seconds in (0, 5, 10, 15):
        house.clock.set(seconds)
        await house.link(house.tunnel())
    assert house.cloned == []  # three evictions: a machine with a bad line
    house.clock.set(20)
    await house.link(house.tunnel())
    assert house.cloned == ["se-1"]


async def test_a_machine_that_loses_its_line_now_and_then_raises_none(house: House) -> None:
    for number in range(8):
        house.clock.set(number * 30)
        await house.link(house.tunnel())
    assert house.cloned == []


# -- the link ---------------------------------------------------------------------------------------------------------

async def test_a_link_is_told_of_changes_that_concern_it_once(house: House) -> None:
    channel = await house.link(house.tunnel())
    house.offer(DB)
    await house.changed()
    assert [r.service for r in (await channel.hear()).plan.reach] == ["db"]
    house.offer(DB, service("other", "ctl-1", 7000, "se-2"))
    await house.changed()
    channel.tell(Heartbeat(sequence=5, time=START))
    answer = await channel.hear()
    assert (type(answer), answer.sequence) == (Heartbeat, 5)
    await asyncio.sleep(2 * fleet.GATHER_S)
    assert channel.said.empty()


async def test_a_next_host_key_is_for_engines_that_pin_both_and_others_keep_the_one_that_is_shown(house: House) -> None:
    here = Endpoint(("192.0.2.10",), 443, 8443, 22)
    house.key(SE_2, OTHER, "user")
    house.node(CTL_1, endpoint=here, next_host_key="next")
    older = await house.link(house.tunnel())
    newer = await house.link(house.tunnel(OTHER), software="fairlead/1 host-keys/1")
    house.node(CTL_1, endpoint=here, next_host_key="after")
    house.directory.common += 1
    await house.changed()
    assert (await newer.hear()).plan.controllers[0].next_host_key == "after"
    house.node(CTL_1, endpoint=here, host_key="after")
    house.directory.common += 1
    await house.changed()
    for channel in (older, newer):
        controller = (await channel.hear()).plan.controllers[0]
        assert (controller.host_key, controller.next_host_key) == ("after", "")


async def test_health(house: House) -> None:
    assert house.sessions.standing(SE_1).state == "down"
    tunnel = house.tunnel()
    channel = await house.link(tunnel)
    channel.tell(Acknowledge(revision=7, problems=["x"]))
    channel.tell(Heartbeat(sequence=1, time=house.clock.now() + 3 * SECOND, problems=["y"]))
    await channel.hear()
    health = house.sessions.standing(SE_1)
    assert (health.state, health.acknowledged, health.problems, health.skew_s) == ("up", 7, ("y",), 3.0)
    house.clock.set(fleet.LATE * fleet.HEARTBEAT_S + 0.1)
    assert house.sessions.standing(SE_1).state == "late"
    channel.told.put_nowait(b"")
    await asyncio.wait_for(tunnel.wait_closed(), 10)
    assert house.sessions.standing(SE_1).state == "down"


async def test_what_streams_carried_counts_once_also_when_their_connection_has_ended(house: House) -> None:
    one, other = house.tunnel(), house.tunnel()
    one.bytes_in, one.bytes_out, other.bytes_in = 10, 20, 5
    assert house.sessions.carried == (15, 20)
    house.sessions.left(cast("Tunnel", one))
    house.sessions.left(cast("Tunnel", one))
    assert house.sessions.carried == (15, 20)
    other.bytes_out = 1
    assert house.sessions.carried == (15, 21)


@pytest.mark.parametrize("said", [
    b"SSH-2.0-x\r\n\r\n", frames.encode({"kind": "nonsense"}), b"\0\0\0\1{", frames.encode({"kind": "removed"}),
    frames.encode(Heartbeat(sequence=1, time=1).model_dump()),
    frames.encode(Hello(v=2, software="x", instance="i", generation="", plan_revision=0).model_dump())])
async def test_a_link_that_begins_otherwise_is_closed_without_a_word(house: House, said: bytes) -> None:
    tunnel, channel = house.tunnel(), FakeChannel()
    serve = house.handler(tunnel, SUBSYSTEM)
    assert serve is not None
    channel.told.put_nowait(said)
    await asyncio.wait_for(cast("Any", serve(cast("Channel", channel))), 10)
    assert tunnel.closed.is_set()
    assert channel.said.empty()
    assert house.sessions.standing(SE_1).state == "down"


async def test_attack_first_words_are_short_and_later_ones_may_be_long(house: House) -> None:
    tunnel, channel = house.tunnel(), FakeChannel()
    serve = house.handler(tunnel, SUBSYSTEM)
    assert serve is not None
    channel.told.put_nowait(struct.pack(">I", frames.MOST_BYTES))
    await asyncio.wait_for(cast("Any", serve(cast("Channel", channel))), 10)
    assert tunnel.closed.is_set()
    again = await house.link(house.tunnel())
    beat = frames.encode(Heartbeat(sequence=5, time=START).model_dump())[4:]
    again.told.put_nowait(struct.pack(">I", frames.MOST_BYTES) + beat.rjust(frames.MOST_BYTES))
    assert (await again.hear()).sequence == 5


async def test_attack_a_connection_has_one_link(house: House) -> None:
    tunnel, other = house.tunnel(), FakeChannel()
    await house.link(tunnel)
    serve = house.handler(tunnel, SUBSYSTEM)
    assert serve is not None
    await asyncio.wait_for(cast("Any", serve(cast("Channel", other))), 10)
    assert tunnel.closed.is_set()
    assert other.said.empty()
    assert house.sessions.standing(SE_1).state == "down"


async def test_attack_who_says_more_than_any_engine_would_is_listened_to_later(house: House) -> None:
    house.key(SE_2, OTHER, "user")
    loud, honest = await house.link(house.tunnel()), await house.link(house.tunnel(OTHER))
    beats = 20 * int(MOST)
    loud.told.put_nowait(frames.encode(Heartbeat(sequence=1, time=START).model_dump()) * beats)
    for number in range(10):
        honest.tell(Heartbeat(sequence=number, time=START))
        assert (await honest.hear()).sequence == number
    async with asyncio.timeout(10):
        for _ in range(int(MOST * 0.9)):
            await loud.said.get()
    assert loud.said.qsize() < MOST
    again = await house.link(house.tunnel())
    again.tell(Heartbeat(sequence=7, time=START))
    with pytest.raises(TimeoutError):  # it is the same engine that comes back
        await asyncio.wait_for(again.said.get(), 0.01)


async def test_who_does_not_read_is_hung_up_on_and_holds_nobody_up(house: House,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    house.key(SE_2, OTHER, "user")
    tunnel = house.tunnel()
    deaf, honest = await house.link(tunnel), await house.link(house.tunnel(OTHER))
    monkeypatch.setattr(deaf, "send_now", lambda _: False)
    monkeypatch.setattr(deaf, "send", lambda _: asyncio.Event().wait())
    for number in (1, 2, 3):
        house.offer(*(service(f"db-{n}", "ctl-1", 7000 + n, "engines") for n in range(number)))
        await house.changed()
        async with asyncio.timeout(fleet.SAY_S / 2):
            assert len((await honest.hear()).plan.reach) == number
    assert not tunnel.closed.is_set()
    await asyncio.wait_for(tunnel.wait_closed(), 5 * fleet.SAY_S)
    assert tunnel.reason == "the engine does not read"


async def test_a_stream_waits_for_the_engine_to_open_its_connection(house: House) -> None:
    house.offer(WEB)
    channel = await house.link(house.tunnel())
    waiting = asyncio.ensure_future(house.sessions.carrier("se-1", "127.64.1.1", 80))
    assert type(await channel.hear()).__name__ == "StreamsWanted"
    stream = house.tunnel()
    assert house.reverse(stream, "127.64.1.1", 80)
    assert await asyncio.wait_for(waiting, 10) is cast("Tunnel", stream)
    for nobody in ("se-2", "se-9", ""):
        assert await refusal(house.sessions.carrier(nobody, "127.64.1.2", 80)) == "FL-STREAM-DOWN"


# -- who is cut off ---------------------------------------------------------------------------------------------------

async def test_removal_cuts_streams_at_once_and_tells_the_link(house: House) -> None:
    house.key(SE_2, OTHER, "user")
    link, stream, bystander = house.tunnel(), house.tunnel(), house.tunnel(OTHER)
    channel = await house.link(link)
    house.key(SE_1, USER, "user", "revoked")
    del house.directory.nodes[SE_1.id]
    await house.changed()
    assert (stream.closed.is_set(), stream.reason) == (True, "the node was removed")  # in this very step
    assert type(await channel.hear()).__name__ == "Removed"
    await asyncio.wait_for(link.wait_closed(), 10)  # whether it hangs up or not
    assert not bystander.closed.is_set()


async def test_freezing_cuts_likewise(house: House) -> None:
    link, stream = house.tunnel(), house.tunnel()
    channel = await house.link(link)
    house.node(SE_1, state="frozen")
    await house.changed()
    assert (stream.closed.is_set(), stream.reason) == (True, "the node is frozen")
    assert type(await channel.hear()).__name__ == "Frozen"
    await asyncio.wait_for(link.wait_closed(), 10)
    assert house.sessions.standing(house.directory.nodes[SE_1.id]).state == "frozen"


async def test_an_engine_that_hangs_up_by_itself_is_not_waited_for(house: House) -> None:
    link = house.tunnel()
    channel = await house.link(link)
    del house.directory.nodes[SE_1.id]
    await house.changed()
    assert type(await channel.hear()).__name__ == "Removed"
    link.close("read it")
    await asyncio.sleep(0)
    assert link.reason == "read it"


@pytest.mark.parametrize("change", ["key gone", "key revoked", "node gone", "node frozen"])
async def test_each_reason_alone_cuts(house: House, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CHANCE_S", 0.01)
    tunnel = house.tunnel()
    match change:
        case "key gone":
            house.directory.keys.clear()
        case "key revoked":
            house.key(SE_1, USER, "user", "revoked")
        case "node gone":
            del house.directory.nodes[SE_1.id]
        case _:
            house.node(SE_1, state="frozen")
    await house.changed()
    await asyncio.wait_for(tunnel.wait_closed(), 10)


async def test_a_retired_key_ends_its_connections_and_not_those_that_proved_the_new_one(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CHANCE_S", 0.2)
    house.offer(DB, WEB)
    house.key(SE_1, OTHER, "user")
    link, proven, late, thief = (house.tunnel() for _ in range(4))
    channel = await house.link(link)
    for tunnel in (link, proven):
        tunnel.peer = replace(tunnel.peer, fingerprint=OTHER.public.fingerprint)
    house.key(SE_1, USER, "user", "revoked")
    await house.changed()
    for tunnel in (late, thief):  # from this very step on nothing begins there
        assert house.sessions.target(cast("Tunnel", tunnel), "127.64.0.1", 5432) is None
        assert not house.sessions.reverse(cast("Tunnel", tunnel), SE_1.internal_address, 80)
        assert house.handler(tunnel, SUBSYSTEM) is None
    assert house.sessions.target(cast("Tunnel", proven), "127.64.0.1", 5432) is not None
    late.peer = replace(late.peer, fingerprint=OTHER.public.fingerprint)
    await asyncio.wait_for(thief.wait_closed(), 10)
    assert thief.reason == "this user key was retired"
    assert not any(tunnel.closed.is_set() for tunnel in (link, proven, late))
    assert channel.said.empty(), "it is a member: nobody tells it that it was removed"


async def test_a_connection_is_asked_for_its_key_when_it_may_have_nothing_else(house: House) -> None:
    asked: list[Any] = []

    async def serve(tunnel: Tunnel, _: Channel) -> None:
        asked.append(tunnel)

    tunnel = house.tunnel()
    assert house.handler(tunnel, REKEY) is None
    house.sessions.rekey(serve)
    house.key(SE_1, USER, "user", "revoked")
    handler = house.handler(tunnel, REKEY)
    assert handler is not None
    await handler(cast("Channel", FakeChannel()))
    assert asked == [tunnel]


async def test_a_joining_node_is_not_cut_by_its_own_commit_and_gains_nothing_by_it(house: House) -> None:
    house.offer(DB, WEB)
    house.node(SE_1, state="joining")
    house.key(SE_1, USER, "user", "pending")
    tunnel = house.tunnel()
    await house.changed()
    house.node(SE_1, state="up")
    house.key(SE_1, USER, "user")
    await house.changed()
    assert not tunnel.closed.is_set()  # its answer is still to be sent
    assert tunnel.peer.standing == "pending"
    assert house.handler(tunnel, SUBSYSTEM) is None
    house.directory.keys.clear()  # or its token froze
    await house.changed()
    assert tunnel.closed.is_set()


async def test_a_change_that_does_not_concern_a_node_leaves_it_alone(house: House) -> None:
    tunnel = house.tunnel()
    del house.directory.nodes[SE_2.id]
    house.node(SE_1, labels={"site": "elsewhere"})
    await house.changed()
    assert not tunnel.closed.is_set()


async def test_farewell_when_the_controller_goes(house: House) -> None:
    link = house.tunnel()
    channel = await house.link(link)
    await house.sessions.drain(0.5)
    assert type(await channel.hear()).__name__ == "Draining"
    await house.sessions.close()
    assert link.closed.is_set()
