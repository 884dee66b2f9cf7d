"""What a Controller does for its member of the store when the roots change, and when it was away meanwhile."""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.errors import Refused
from fairlead.cluster.etcd import folder, peer_url, put_identity, trusted
from fairlead.cluster.members import Member
from fairlead.cluster.turn import TURN
from fairlead.controller import rooted as module
from fairlead.controller.cluster import Cluster
from fairlead.controller.rooted import Rooted
from fairlead.controller.roots import Roots
from fairlead.enrol.trust import Trust
from fairlead.keys.wire import b64
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of, parsed
from fairlead.pki.chain import is_issued_by
from fairlead.pki.request import new_request, read_request
from fairlead.store.protocol import StoreUnavailable
from tests.unit.controller.test_roots import controller
from tests.unit.enrol.test_trust import TRUST
from tests.world import refusal

ME = "127.64.0.1"


class Etcd:
    """A member's process that reads its CAs when it starts."""

    def __init__(self, state: Path) -> None:
        self.state, self.restarts = state, 0
        self.read = set(trusted(state))

    @property
    def stale(self) -> bool:
        return self.read != set(trusted(self.state))

    async def restart(self) -> None:
        self.restarts += 1
        self.read = set(trusted(self.state))


class Seat:
    """One Controller, whose store is SQLite's and whose member is nobody's."""

    def __init__(self, roots: Roots, state: Path) -> None:
        self.roots, self.state = roots, state
        self.trust = TRUST.but(internal_address=ME, node_id="me")
        self.signs: Authority | None = None
        """What another Controller answers by, whatever key it certifies."""
        self.certifies: bytes | None = None
        self.connected = ["ctl-2", "ctl-3"]
        self.leaders = {"ctl-2": 1, "ctl-3": 1}
        self.proved = self.followed = 0
        self.cluster = cast("Any", SimpleNamespace(
            state=state, signing=roots.signing, store=roots.signing.store, trust=self.trust, etcd=None,
            prove_anew=self.prove_anew, members=lambda: self, node_of=self.node_of, endpoint=lambda member: member.name,
            mesh=SimpleNamespace(me=SimpleNamespace(name="ctl-1", internal_address=ME),
                                 peers=SimpleNamespace(connected=self.connected))))
        self.cluster.renew_identity = partial(Cluster.renew_identity, self.cluster)
        self.rooted = Rooted(self.cluster, cast("Any", self), self.ask)

    async def begin(self) -> None:
        root = await self.roots.signing.authority()
        await self.certify(root)

    async def certify(self, root: Authority, now: int | None = None) -> None:
        """Have a certificate by *root*, trust it, and run a member with it."""
        key, request = new_request()
        made = root.certify_member(self.trust.cluster_uuid, "ctl-1", ME, read_request(request),
                                   now or await self.roots.signing.now())
        put_identity(self.state, made, key, root.certificate_pem)
        self.cluster.etcd = Etcd(self.state)

    @property
    def leaf(self) -> bytes:
        return der_of((folder(self.state) / "member.pem").read_bytes())

    # -- what it is asked for -----------------------------------------------------------------------------------------

    async def prove_anew(self) -> None:
        self.proved += 1

    async def list(self) -> Sequence[Member]:
        return [Member(number, f"ctl-{number}", [peer_url(f"127.64.0.{number}")], [], learner=False)
                for number in (1, 2, 3)]

    def node_of(self, member: Member) -> Any:
        return SimpleNamespace(name=member.name)

    def keep(self, trust: Trust) -> None:
        self.trust = trust

    async def follow(self) -> None:
        self.followed += 1

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        assert (op, list(fields)) == ("identity", ["request"])
        assert self.signs is not None
        key = read_request(self.certifies or fields["request"].encode())
        made = self.signs.certify_member(self.trust.cluster_uuid, "ctl-1", ME, key, await self.roots.signing.now())
        return {"certificate": made.decode(), "ca": self.signs.certificate_pem.decode()}


@pytest.fixture
async def seat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Seat]:
    async with controller(tmp_path / "state") as roots:
        made = Seat(roots, tmp_path)
        await made.begin()

        async def status(name: str) -> Any:
            return SimpleNamespace(healthy=bool(made.leaders[name]))

        monkeypatch.setattr(module, "status", status)
        yield made


async def test_the_roots_are_followed_step_by_step_and_told_when_all_is_done(seat: Seat) -> None:
    old, new = "", ""

    async def settled(restarts: int, says: str, by: str) -> None:
        for _ in range(2):  # again: nothing more is done
            await seat.rooted.settle()
            assert seat.rooted.facts() == {"roots": says}
            assert seat.cluster.etcd.restarts == restarts
            root = (await seat.roots.signing.roots())[0]
            assert is_issued_by(parsed(seat.leaf), parsed(der_of(root))), by
            assert set(trusted(seat.state)) == set(map(der_of, await seat.roots.signing.roots()))
            assert await seat.cluster.store.get(TURN) is None

    old, new = await seat.roots.stage()
    await settled(1, f"{old},{new}", "old")
    await seat.roots.cut_over(new)
    await settled(1, f"{new},{old}", "new")
    await seat.roots.retire(new)
    await settled(2, new, "new")
    assert seat.proved == 3
    assert seat.followed == 6


async def test_while_another_member_is_needed_nobody_is_restarted(seat: Seat) -> None:
    await seat.roots.stage()
    seat.leaders["ctl-2"] = 0
    with pytest.raises(StoreUnavailable, match="ctl-2"):
        await seat.rooted.settle()
    assert (seat.cluster.etcd.restarts, seat.rooted.facts()) == (0, {"roots": ""})
    assert await seat.cluster.store.get(TURN) is None
    seat.connected.remove("ctl-2")  # it is away: nobody waits for it
    await seat.rooted.settle()
    assert seat.cluster.etcd.restarts == 1


async def test_a_certificate_that_cannot_be_read_is_made_anew(seat: Seat) -> None:
    pair = folder(seat.state) / "member.pem"
    for content in (b"x", None):
        pair.unlink() if content is None else pair.write_bytes(content)
        await seat.rooted.renew_identity()
        assert is_issued_by(parsed(seat.leaf), parsed(der_of(await seat.roots.signing.root())))


async def test_who_was_away_takes_a_root_that_the_statements_name_and_no_other(
        seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    now = await seat.roots.signing.now()
    new, rogue = (Authority.create(seat.trust.cluster_uuid, now) for _ in range(2))
    stated = seat.trust.but(roots=[b64(der_of(new.certificate_pem))], statement=9)

    async def caught_up(trust: Callable[[], Trust]) -> Trust:
        assert trust().roots
        return stated

    monkeypatch.setattr(module, "caught_up", caught_up)
    before, leaf = trusted(seat.state), seat.leaf
    seat.signs = new
    assert await refusal(seat.rooted.come_back()) == "FL-TRUST-ROOT"  # it has never followed any: it cannot judge
    seat.trust = seat.trust.but(roots=[b64(one) for one in before], statement=3)
    seat.signs = rogue
    assert await refusal(seat.rooted.come_back()) == "FL-TRUST-ROOT"
    seat.signs, seat.certifies = new, new_request()[1]
    assert await refusal(seat.rooted.come_back()) == "FL-CERT-PAIR"
    assert (trusted(seat.state), seat.leaf, seat.trust.statement) == (before, leaf, 3)
    seat.certifies = None
    await seat.rooted.come_back()
    assert (list(trusted(seat.state)), seat.trust.statement) == ([der_of(new.certificate_pem)], 9)
    assert is_issued_by(parsed(seat.leaf), parsed(der_of(new.certificate_pem)))
    assert seat.cluster.etcd.restarts == 1


async def test_where_the_roots_are_the_same_it_is_away_for_another_reason(seat: Seat) -> None:
    leaf = seat.leaf
    seat.signs = await seat.roots.signing.authority()
    await seat.rooted.come_back()
    assert (seat.leaf, seat.cluster.etcd.restarts, seat.proved) == (leaf, 0, 0)


async def test_it_is_asked_only_now_and_then(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def come_back(_: Rooted) -> None:
        nonlocal asked
        asked += 1
        raise Refused("FL-TEST", "not now")

    monkeypatch.setattr(Rooted, "come_back", come_back)
    for _ in range(2 * module.AWAY_TRIES):
        await seat.rooted.tried()
    assert asked == 2
