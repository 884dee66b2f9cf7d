"""The leader puts one member in the place of another, lets the one vote that it has named, and sweeps the rest."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.clock import SECOND
from fairlead.cluster.etcd import peer_url
from fairlead.cluster.members import Member
from fairlead.controller.admission import GONE_S, LEARN_S, Admittance, purpose
from fairlead.controller.cluster import Cluster
from fairlead.keys.seal import hpke_open, new_recipient, recipient_public
from fairlead.keys.wire import b64, from_b64
from fairlead.nodes.node import Node
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import Born, Compare
from fairlead.transport.peer import Peer
from tests.unit.enrol.test_trust import TRUST
from tests.unit.nodes.test_policy import CTL_1, CTL_2
from tests.world import ManualClock, refusal

LEARNING = replace(CTL_2, state="joining", joined_at=1)
PEER = Peer(CTL_2.id, "ctl-2", "controller", "avictlruser", "active", "")
KEY = b"the cluster key"


@dataclass
class Etcd:
    """Its members; *meanwhile* happens once, in the middle of the next change."""

    there: list[Member] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    changing: int = 0
    _last: int = 0

    async def list(self) -> Sequence[Member]:
        return list(self.there)

    def born(self, url: str, *, learner: bool = True) -> Member:
        self._last += 1
        self.there.append(made := Member(self._last, "", [url], [], learner))
        return made

    async def add_learner(self, url: str) -> Member:
        async with self._alone():
            return self.born(url)

    async def remove(self, member: int) -> None:
        async with self._alone():
            self.there = [one for one in self.there if one.id != member]

    async def promote(self, member: int) -> None:
        self.there = [replace(one, learner=False) if one.id == member else one for one in self.there]

    def _alone(self) -> "Alone":
        return Alone(self)


@dataclass
class Alone:
    """Two changes at once are a fault of whoever asks for them."""

    etcd: Etcd

    async def __aenter__(self) -> None:
        assert self.etcd.changing == 0, "two questions change the members at once"
        self.etcd.changing += 1
        await asyncio.sleep(0)
        happens, self.etcd.meanwhile = self.etcd.meanwhile, lambda: None
        happens()

    async def __aexit__(self, *_: object) -> None:
        self.etcd.changing -= 1


class House:
    """A leader, and the node that comes in."""

    def __init__(self, node: Node = LEARNING) -> None:
        self.etcd = Etcd()
        self.clock = ManualClock()
        self.term: Sequence[Compare] | None = (Born("leader", 1),)
        self.fenced, self.founding = asyncio.Event(), asyncio.Event()
        self.admitted: list[str] = []
        self.nodes = {CTL_1.id: CTL_1, node.id: node}
        self.url = peer_url(node.internal_address)
        mesh = SimpleNamespace(directory=SimpleNamespace(nodes=self.nodes), supervisor=SimpleNamespace(routes=[]),
                               peers=SimpleNamespace(connected=["ctl-2"], offsets={}))

        async def done(*_: Any) -> bytes:
            return b"pem"

        cluster = SimpleNamespace(
            clock=self.clock, trust=TRUST, mesh=mesh, note=SimpleNamespace(base=7), members=lambda: self.etcd,
            fence=self.fence, found=self.found, signing=SimpleNamespace(cluster_key=KEY, certify=done, bundle=done))
        cluster.node_of = lambda member: Cluster.node_of(cast("Any", cluster), member)
        self.door = Admittance(cast("Any", cluster), self, cast("Any", None), "1.0")

    def fence(self) -> Sequence[Compare]:
        self.fenced.set()
        if self.term is None:
            raise NotLeading(None)
        return self.term

    async def found(self) -> None:
        """There is a cluster already."""

    async def admit(self, node_id: str, by: str) -> Node:
        self.admitted.append(node_id)
        self.nodes[node_id] = replace(self.nodes[node_id], state="up")
        return self.nodes[node_id]

    def asks(self) -> Any:
        return self.door.admit(PEER, {"version": "1.0", "request": ""})

    def enters(self, member: str) -> Any:
        self.recipient = new_recipient()
        return self.door.enter(PEER, {"member": member, "recipient": b64(recipient_public(self.recipient))})

    async def sweep(self, after_s: float = 0.0) -> None:
        self.clock.instant += round(after_s * SECOND)
        await self.door._sweep_members()


async def test_the_member_that_was_named_votes_and_its_node_has_the_key() -> None:
    house = House()
    answer = await house.asks()
    assert (answer["member"], answer["base"], answer["members"]) == ("1", 7, {"ctl-2": CTL_2.internal_address})
    sealed = (await house.enters(answer["member"]))["cluster_key"]
    assert hpke_open(house.recipient, purpose(CTL_2.id), from_b64(sealed)) == KEY
    assert house.admitted == [CTL_2.id]
    assert [one.learner for one in house.etcd.there] == [False]


async def test_a_member_in_the_place_of_the_one_that_was_named_never_votes() -> None:
    """Whose answer was lost asked again, and an old question came last: the member that is there has no process."""
    house = House()
    answer = await house.asks()
    house.etcd.there.clear()
    house.etcd.born(house.url)
    assert await refusal(house.enters(answer["member"])) == "FL-MEMBER-UNKNOWN"
    assert await refusal(house.enters("")) == "FL-MEMBER-UNKNOWN"
    assert house.admitted == []
    assert house.etcd.there[0].learner


async def test_who_asks_twice_has_one_member_that_of_the_last_answer() -> None:
    house = House()
    first, second = await asyncio.gather(house.asks(), house.asks())
    assert (first["member"], second["member"]) == ("1", "2")
    assert [one.id for one in house.etcd.there] == [2]


@pytest.mark.parametrize("terms", [None, (Born("leader", 9),)], ids=["another leads", "it leads again, later"])
async def test_a_question_of_an_earlier_term_takes_no_member_out_and_puts_none_in(terms: Any) -> None:
    """Another leader has admitted the node meanwhile; the member that votes is that one's."""
    house = House()
    house.etcd.born("https://127.64.0.99:2380")


    async def founded() -> None:
        house.etcd.born(house.url, learner=False)
        house.fenced.clear()
        house.founding.set()

    house.door.cluster.found = founded  # type: ignore[method-assign]
    async with house.door._turn:  # somebody else comes in just now
        asking = asyncio.ensure_future(refusal(house.asks()))
        await house.founding.wait()
        await house.fenced.wait()
        house.term = terms
    assert await asking == "FL-NOT-LEADER"
    assert [one.id for one in house.etcd.there] == [1, 2]

    lost = House()
    lost.etcd.born(lost.url)
    lost.etcd.meanwhile = lambda: setattr(lost, "term", terms)  # between the removal and the new member
    assert await refusal(lost.asks()) == "FL-NOT-LEADER"
    assert lost.etcd.there == []


async def test_what_is_no_key_gets_nothing_and_promotes_nobody() -> None:
    house = House()
    answer = await house.asks()
    asked = house.door.enter(PEER, {"member": answer["member"], "recipient": b64(b"short")})
    assert await refusal(asked) == "FL-LINK-MESSAGE"
    assert house.etcd.there[0].learner


async def test_a_learner_that_falls_silent_gives_its_place_away() -> None:
    house = House()
    answer = await house.asks()
    await house.sweep()
    await house.sweep(GONE_S - 1)
    await house.enters(answer["member"])
    house.nodes[CTL_2.id], house.etcd.there = LEARNING, [replace(house.etcd.there[0], learner=True)]
    await house.sweep(GONE_S - 1)
    assert len(house.etcd.there) == 1, "it has asked meanwhile"
    await house.sweep(2)
    assert house.etcd.there == []


@pytest.mark.parametrize("learner", [True, False], ids=["never caught up", "votes, and was never admitted"])
async def test_so_does_one_that_asks_for_ever(learner: bool) -> None:
    house = House()
    house.etcd.born(house.url, learner=learner)
    await house.sweep()
    for _ in range(int(LEARN_S / 10)):
        house.door._asked[CTL_2.id] = house.clock.monotonic()
        await house.sweep(10)
    assert len(house.etcd.there) == 1
    house.door._asked[CTL_2.id] = house.clock.monotonic()
    await house.sweep(10)
    assert house.etcd.there == []


async def test_members_of_nodes_that_are_up_stay_and_those_of_no_node_go() -> None:
    house = House(CTL_2)
    house.etcd.born(house.url, learner=False)
    house.etcd.born(peer_url(CTL_1.internal_address), learner=False)
    house.etcd.born("https://127.64.0.99:2380", learner=False)
    await house.sweep()
    await house.sweep(2 * LEARN_S)
    assert [one.id for one in house.etcd.there] == [1, 2]
