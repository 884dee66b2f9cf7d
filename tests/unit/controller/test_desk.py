"""Leader-only work at any Controller: handed over, done once, answered by the one that was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.errors import Refused
from fairlead.controller import desk as desks
from fairlead.controller.desk import Desk
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import Core, Submission, believe
from fairlead.enrol.redeem import Enrolment
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.link.keys import NEXT
from fairlead.nodes import records
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import KeyEntry, NameEntry
from fairlead.nodes.registry import Registry
from fairlead.store.protocol import Compare, Put, StoreUnavailable
from fairlead.transport.peer import Peer
from tests.world import SOURCE, Machine, World, open_world, refusal


@dataclass
class Seat:
    """A Controller of two, as a desk sees it: who leads, and a line to the other."""

    world: World
    name: str
    leader: str | None = "ctl-1"
    desk: Desk = field(init=False)
    other: "Seat" = field(init=False)
    asked: list[str] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    """For the next questions: whether they were done before their answer was lost."""
    clustered = True

    @property
    def leading(self) -> bool:
        return self.leader == self.name

    def fence(self) -> tuple[Compare, ...]:
        return ()

    async def ask(self, name: str, op: str, /, *, timeout_s: float = 5.0, **fields: Any) -> dict[str, Any]:
        """As the wire does: only what JSON holds comes over."""
        assert name == self.other.name
        self.asked.append(op)
        happens = self.lost.pop(0) if self.lost else None
        if happens is False:
            raise StoreUnavailable("lost on the way there")
        answer = await self.other.desk.answer(self.peer(), op, json.loads(json.dumps(fields)))
        if happens is True:
            raise StoreUnavailable("lost on the way back")
        return dict(json.loads(json.dumps(answer)))

    def peer(self) -> Peer:
        node = self.world.directory.named(self.name)
        assert node is not None
        return Peer(node.id, node.name, "controller", "avictlruser", "active", "")


class Engines:
    """Whoever answers about engines says who asked."""

    async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        return {"asking": asking.name, **fields} if op.startswith("engine-") else None


@pytest.fixture
async def seats(tmp_path: Path) -> AsyncIterator[tuple[Seat, Seat]]:
    """ctl-1 leads, ctl-2 follows; both have been admitted."""
    async with open_world(tmp_path) as world:
        host, user = PrivateKey.generate(), PrivateKey.generate()
        follower = Node("id-2", "ctl-2", "controller", "up", "127.64.0.2", host.public.line, user.public.line, 1,
                        Endpoint(("192.0.2.20",), 443, 8443, 22))
        await world.store.transact([], [
            Put(records.NODES + follower.id, records.encode(follower)),
            Put(records.NAMES + "ctl-2", records.encode(NameEntry(follower.id, "held"))),
            Put(records.KEYS + user.public.fingerprint,
                records.encode(KeyEntry(follower.id, "user", "active", "", user.public.line)))])
        await world.directory.reached((await world.store.list("nothing")).revision)
        one, two = Seat(world, "ctl-1"), Seat(world, "ctl-2")
        one.other, two.other = two, one
        for seat, key in ((one, world.host_key), (two, host)):
            enrolment = Enrolment(world.store, world.audit, world.directory, world.refusals,
                                  replace(world.enrolment.office, name=seat.name, host_key=lambda key=key: key))  # type: ignore[misc]
            mesh: Any = SimpleNamespace(directory=world.directory, peers=seat, loaded=True)
            seat.desk = Desk(enrolment, Registry(world.store, world.audit, world.directory), world.store, mesh,
                             cast("Any", seat), cast("Any", seat), world.clock, cast("Any", seat),
                             Engines(), nothing)
        yield one, two


async def nothing(op: str, fields: Mapping[str, Any]) -> None:
    """Nobody rotates anything."""


async def exchange(seat: Seat, bundle: Bundle, machine: Machine, node: str = "se-1") -> Core:
    """What the machine believes of the reply of that Controller's portal."""
    world = seat.world
    claim = machine.claim(bundle, world.certificate, node)
    reply = await seat.desk.exchange(Submission.parse(machine.body(claim, bundle)), SOURCE, world.presents)
    return believe(reply, claim, bundle.anchor)[0]


def message(bundle: Bundle, core: Core) -> dict[str, Any]:
    return {"token_id": bundle.token.id.hex(), "node_id": core.node_id, "keys_hash": core.keys_hash}


async def issue(seat: Seat, node: str | None = None) -> Bundle:
    return await seat.desk.issue(role="engine", node=node, source=None, lifetime_s=600, by="root")


async def test_a_token_that_one_controller_issued_is_redeemed_at_the_other(seats: tuple[Seat, Seat]) -> None:
    """Either way round; the signature is that of the Controller that was asked."""
    one, two = seats
    for number, (issuing, redeeming) in enumerate(((one, two), (two, one), (two, two))):
        bundle, machine = await issue(issuing), Machine()
        core = await exchange(redeeming, bundle, machine, f"se-{number}")
        assert await redeeming.desk.commit(machine.user.public.fingerprint, message(bundle, core)) == 1
        assert one.world.directory.nodes[core.node_id].state == "up"
        assert await refusal(exchange(two, bundle, Machine(), f"se-{number}")) == "FL-JOIN-CONFLICT"
    assert one.asked == []
    assert {"issue", "exchange", "commit"} == set(two.asked)


async def test_what_the_leader_refuses_is_refused_as_he_says(seats: tuple[Seat, Seat]) -> None:
    _one, two = seats
    bundle = await issue(two, "se-7")
    assert await refusal(exchange(two, bundle, Machine(), "se-8")) == "FL-JOIN-NAME"
    world = two.world
    claim = Machine().claim(bundle, bytes(32), "se-7")
    machine = Machine()
    claim = machine.claim(bundle, bytes(32), "se-7")
    asking = two.desk.exchange(Submission.parse(machine.body(claim, bundle)), SOURCE, world.presents)
    assert await refusal(asking) == "FL-JOIN-RELAY"  # whether the certificate is ours only we can say
    assert await refusal(two.desk.revoke("00" * 16, "root")) == "FL-TOKEN-UNKNOWN"
    assert (await two.desk.revoke(bundle.token.id.hex(), "root")).state == "revoked"
    assert await refusal(exchange(two, bundle, Machine(), "se-7")) == "FL-JOIN-REVOKED"


async def test_a_controller_that_the_bundle_does_not_name_answers_nothing(
        seats: tuple[Seat, Seat], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signature would not be believed: the leader looks for the one that was asked, not for himself."""
    one, two = seats
    monkeypatch.setattr(desks, "PATIENCE_S", 0.0)
    anchor = one.world.enrolment.office.anchor
    alone = replace(anchor(), controllers=tuple(c for c in anchor().controllers if c.name == "ctl-1"))
    one.desk.enrolment.office = replace(one.desk.enrolment.office, anchor=lambda: alone)
    bundle = await issue(one)
    assert await refusal(exchange(two, bundle, Machine())) == "FL-STORE"
    assert (await two.world.token(bundle)).state == "open"
    assert (await exchange(one, bundle, Machine())).node == "se-1"


@pytest.mark.parametrize("happened", [False, True])
async def test_a_question_that_was_lost_is_asked_again(seats: tuple[Seat, Seat], happened: bool) -> None:
    _one, two = seats
    bundle, machine = await issue(two), Machine()
    two.lost = [happened]
    core = await exchange(two, bundle, machine)
    two.lost = [happened]
    await two.desk.commit(machine.user.public.fingerprint, message(bundle, core))
    two.lost = [happened]
    assert (await two.desk.remove("se-1", "root")).name == "se-1"  # also for the one that finds it done
    assert await refusal(two.desk.remove("se-1", "root")) == "FL-NODE-UNKNOWN"
    assert core.node_id not in two.world.directory.nodes


async def test_who_leads_is_waited_for(seats: tuple[Seat, Seat]) -> None:
    """No leader, then the other one; a leader that is none any more says so, and is asked who is."""
    one, two = seats
    one.leader = two.leader = None
    asking = asyncio.ensure_future(issue(two))
    await asyncio.sleep(0)
    two.leader = one.leader = "ctl-2"
    await asking
    assert two.asked == []
    one.leader, two.leader = "ctl-1", "ctl-1"

    async def deposed(*_: Any, **__: Any) -> Any:
        two.leader = "ctl-2"
        raise Refused("FL-NOT-LEADER", "this Controller does not lead the cluster")

    one.desk.enrolment.issue = deposed  # type: ignore[method-assign]
    assert (await issue(two)).role == "engine"
    assert two.asked == ["issue"]


@pytest.mark.parametrize(("op", "fields"), [
    ("issue", {"role": "engine", "node": None, "source": None, "lifetime_s": 600, "by": "x", "bound_keys_hash": None}),
    ("revoke", {"token_id": "00" * 16, "by": "x"}),
    ("commit", {"fingerprint": "x", "message": {}}),
    ("remove", {"name": "se-1", "by": "x", "event": "node.removed"}),
    ("release", {"name": "se-1", "fingerprint": "x", "by": "x"}),
    ("exchange", {"body": "", "source": SOURCE, "presented": True}),
    ("engine-linked", {"engine": "x"}), ("engine-streams", {"engine": "x"}),
    ("engine-command", {"engine": "x", "word": "status", "deadline_s": 1.0, "by": "x"}),
    ("engine-logs", {"engine": "x", "spool": "", "offset": 0}),
    ("engine-logs-read", {"engine": "x", "spool": "a" * 32, "offset": 0}),
    ("anything", {}),
])
async def test_attack_who_is_not_admitted_has_nothing_done_for_him(
        seats: tuple[Seat, Seat], op: str, fields: dict[str, Any]) -> None:
    one, two = seats
    world = one.world
    node = world.directory.named("ctl-2")
    assert node is not None
    engine = await world.join("se-1")
    before = await world.revision()
    for state in ("joining", "frozen", "removed"):
        world.directory.nodes[node.id] = replace(node, state=state)
        assert await refusal(one.desk.answer(two.peer(), op, fields)) == "FL-PEER-QUESTION"
    his = Peer(engine.id, "ctl-1", "controller", "avictlruser", "active", "")  # whatever he calls himself
    assert await refusal(one.desk.answer(his, op, fields)) == "FL-PEER-QUESTION"
    assert await world.revision() == before


async def test_a_question_about_engines_is_passed_on_with_the_name_that_the_key_proved(
        seats: tuple[Seat, Seat]) -> None:
    one, two = seats
    assert await one.desk.answer(two.peer(), "engine-linked", {"engine": "x"}) == {"asking": "ctl-2", "engine": "x"}
    lying = Peer(two.peer().node_id, "ctl-1", "controller", "avictlruser", "active", "")
    assert (await one.desk.answer(lying, "engine-linked", {}))["asking"] == "ctl-2", "the directory's name counts"
    assert await refusal(one.desk.answer(two.peer(), "engines", {})) == "FL-PEER-QUESTION"


async def test_whoever_has_nothing_to_say_but_that_it_is_done_has_answered(seats: tuple[Seat, Seat]) -> None:
    """As a next key is taken: what a follower hands over is not refused afterwards."""
    class Done:
        async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:
            return {} if op == NEXT else None

    one, two = seats
    one.desk = replace(one.desk, engines=Done())
    assert await two.ask("ctl-1", NEXT) == {}
    assert await refusal(two.ask("ctl-1", "else")) == "FL-PEER-QUESTION"


@pytest.mark.parametrize("fields", [{}, {"token_id": 7, "by": None}, {"token_id": ["x"]}])
async def test_a_question_that_cannot_be_understood_is_refused(seats: tuple[Seat, Seat],
                                                               fields: dict[str, Any]) -> None:
    one, two = seats
    for op in ("issue", "revoke", "exchange", "commit", "remove", "release"):
        assert await refusal(one.desk.answer(two.peer(), op, fields)) in ("FL-PEER-QUESTION", "FL-NODE-UNKNOWN")


async def test_the_only_controller_is_not_removed(seats: tuple[Seat, Seat]) -> None:
    one, two = seats
    node = one.world.directory.named("ctl-2")
    assert node is not None
    del one.world.directory.nodes[node.id]
    assert await refusal(one.desk.remove("ctl-1", "root")) == "FL-NODE-CONTROLLER"
    assert PublicKey.from_line(node.user_key).fingerprint in one.world.directory.keys
    assert two.asked == []


async def test_attack_a_controller_that_knows_the_others_from_its_disk_only_does_nothing_for_them(
        seats: tuple[Seat, Seat]) -> None:
    """The one that asks may have been removed while this one was down."""
    one, two = seats
    one.desk.mesh.loaded = False  # type: ignore[misc]
    for op in ("admit", "enter", "issue", "remove", "controllers"):
        assert await refusal(one.desk.answer(two.peer(), op, {})) == "FL-STORE"


async def test_one_that_comes_in_learns_which_controllers_there_are(seats: tuple[Seat, Seat]) -> None:
    one, two = seats
    node = one.world.directory.named("ctl-2")
    assert node is not None
    joining = replace(node, state="joining")  # committed, at joined_at 1
    await one.world.store.transact([], [Put(records.NODES + node.id, records.encode(joining))])
    await one.world.directory.reached((await one.world.store.list("nothing")).revision)
    here = {"addresses": ["192.0.2.21"], "api_port": 443, "portal_port": 8443, "ssh_port": 22}
    answer = await one.desk.answer(two.peer(), "controllers", here)
    assert b"ctl-1" in answer["copy"].encode()
    assert b"ctl-2" in answer["copy"].encode()
    assert one.world.directory.nodes[node.id] == replace(joining, endpoint=Endpoint(("192.0.2.21",), 443, 8443, 22))
    assert await refusal(one.desk.answer(two.peer(), "controllers", here | {"ssh_port": 0})) == "FL-JOIN-FORMAT"
    one.world.directory.nodes[node.id] = replace(node, state="frozen")
    assert await refusal(one.desk.answer(two.peer(), "controllers", here)) == "FL-PEER-QUESTION"


async def test_attack_one_that_is_still_coming_in_is_asked_by_nobody(seats: tuple[Seat, Seat]) -> None:
    """It could hand out a CA and keys of its own as those of the cluster."""
    one, _two = seats
    node = one.world.directory.named("ctl-2")
    assert node is not None
    one.desk.mesh.peers.connected = ["ctl-2"]  # type: ignore[misc]
    assert await refusal(one.desk.ask_leader("revoke", token_id="00" * 16, by="root")) == "FL-TOKEN-UNKNOWN"
    one.world.directory.nodes[node.id] = replace(node, state="joining")
    one.asked.clear()
    assert await refusal(one.desk.ask_leader("admit")) == "FL-STORE"
    await one.desk.look_around(Endpoint(("192.0.2.10",), 443, 8443, 22))
    assert one.asked == []
