"""What the cluster issues itself is made anew before it ends, by whoever it belongs to, and joins go on meanwhile."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.audit.record import AuditRecord
from fairlead.base.clock import SECOND
from fairlead.base.errors import OperatorError
from fairlead.cluster.etcd import certificate
from fairlead.controller import secrets
from fairlead.enrol.exchange import Submission, believe
from fairlead.pki.certificate import SERVER_LIFETIME, covers, der_of, portal_name
from fairlead.pki.expiry import life
from fairlead.portal.listener import RECOGNISED_FOR, Identity, Presented
from fairlead.rotation import phases
from fairlead.store.protocol import Delete, Exists, Outcome, Put
from tests.unit.controller.ground import CHANNEL, Ground, grounded
from tests.world import Machine, open_world, refusal

LAST_DAYS = 397 - 30


def said(records: Sequence[AuditRecord]) -> list[tuple[str, str]]:
    return [(r.event, r.subject) for r in records]


async def channel(ground: Ground) -> bytes:
    return der_of((await secrets.open_certified(ground.store, ground.signing.cluster_key, CHANNEL)).certificate_pem)


async def test_before_it_is_time_nothing_happens(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        before = await channel(ground)
        ground.pass_days(LAST_DAYS - 0.01)
        await ground.renew()
        assert (await channel(ground), await ground.events()) == (before, [])


async def test_a_month_ahead_they_are_made_anew_under_the_same_root_and_presented(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        shown, api = await ground.presentation.load()
        before, known = shown.current, ground.presentation.known
        ground.pass_days(LAST_DAYS)
        await ground.renew()
        await ground.presentation.follow()
        now = shown.current
        assert now.certificate_der == await channel(ground) != before.certificate_der
        assert ground.presentation.known == known, "nobody has to be told"
        for identity in (now, api.current):
            assert life(identity.certificate_der).last == ground.clock.now() + SERVER_LIFETIME
        for name in (portal_name(ground.trust.cluster_uuid), "192.0.2.10"):
            assert covers(now.certificate_der, name)
        records = await ground.events()
        assert said(records) == [("certificate.renewed", "secure-channel"), ("certificate.renewed", "api")]
        assert records[0].details["before"] == before.certificate_hash.hex()
        assert records[0].details["sha256"] == now.certificate_hash.hex()
        await ground.renew()
        assert len(await ground.events()) == 2


async def test_nothing_is_said_of_one_that_is_made_anew_in_the_same_step(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()

        async def renew() -> bool:
            ground.pass_days(0.001)  # it becomes due meanwhile
            return await ground.renew()

        ground.expiring.renew = renew
        ground.pass_days(LAST_DAYS - 0.0005)
        await ground.expiring.step()
        assert {r.event for r in await ground.events()} == {"certificate.renewed"}
        assert ground.expiring.hints == []
        assert set(ground.expiring.ends.values()) == {(ground.clock.now() + SERVER_LIFETIME) // SECOND} | {
            ground.expiring.ends["root-ca"]}


async def test_one_that_is_over_is_made_anew_at_the_start(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        pass
    async with grounded(tmp_path, ground.clock) as again:
        again.pass_days(1000)
        await again.renew()
        shown, _ = await again.presentation.load()
        assert life(shown.current.certificate_der).last == again.clock.now() + SERVER_LIFETIME
        await again.look()
        assert (again.expiring.problems, again.expiring.hints, again.presentation.problem) == ([], [], "")


async def test_a_follower_makes_its_own_anew_only(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.renew_identity()
        before, member = await channel(ground), certificate(tmp_path)
        ground.leading, ground.clustered = False, True
        ground.pass_days(LAST_DAYS + 1)
        await ground.renew()
        assert await channel(ground) == before
        assert certificate(tmp_path) != member
        assert said(await ground.events()) == [("certificate.renewed", "store"), ("certificate.renewed", "api")]


async def test_it_can_be_switched_off_but_for_the_member_of_the_store(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        ground.renewal.enabled = False
        ground.pass_days(LAST_DAYS + 1)
        await ground.renew()
        assert not await ground.events()
        await ground.renew_identity()
        ground.clustered = True
        ground.pass_days(LAST_DAYS + 1)
        await ground.renew()
        assert said(await ground.events()) == [("certificate.renewed", "store")]


async def test_of_two_leaders_one_makes_it(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        ground.pass_days(LAST_DAYS + 1)
        await asyncio.gather(*(ground.renew() for _ in range(3)))
        assert said(await ground.events()).count(("certificate.renewed", "secure-channel")) == 1


async def test_a_leader_of_before_makes_none(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        before = await channel(ground)
        ground.pass_days(LAST_DAYS + 1)
        ground.fence = lambda: [Exists("the term that is over")]
        await ground.renew()
        assert await channel(ground) == before
        assert said(await ground.events()) == [("certificate.renewed", "api")]


async def test_a_rotation_that_is_under_way_is_not_disturbed(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        before = await channel(ground)
        ground.pass_days(LAST_DAYS + 1)
        await ground.store.transact([], [Put("rotation/now", b"of whatever kind")])
        await ground.renew()
        assert (await channel(ground), await ground.events()) == (before, [])
        await ground.store.transact([], [Delete("rotation/now")])
        await ground.renew()
        assert len(await ground.events()) == 2


def rotation(phase: phases.Phase) -> Put:
    return Put("rotation/now", phases.encode(phases.Rotation("r1", "api", "admin", 0, 0, phase, 0)))


async def test_a_rotation_that_is_to_start_later_holds_nothing_up(tmp_path: Path) -> None:
    """It may be scheduled a year ahead: certificates would end meanwhile."""
    async with grounded(tmp_path) as ground:
        ground.pass_days(LAST_DAYS + 1)
        await ground.store.transact([], [rotation("scheduled")])
        await ground.renew()
        assert len(await ground.events()) == 2


async def test_a_rotation_that_begins_at_the_same_moment_is_not_disturbed(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        before, log = await channel(ground), ground.audit

        async def begun(*change: Any) -> Outcome:
            await ground.store.transact([], [rotation("stage")])
            return await log.append_with(*change)

        ground.renewal.audit = cast("Any", SimpleNamespace(append_with=begun))
        ground.pass_days(LAST_DAYS + 1)
        await ground.store.transact([], [rotation("scheduled")])
        await ground.renew()
        assert (await channel(ground), await ground.events()) == (before, [])


async def test_below_a_root_that_ends_there_is_no_end_of_renewing(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        ground.pass_days(3650 - 40)
        await ground.renew()
        count = len(await ground.events())
        for days in (15, 10, 10):
            ground.pass_days(days)
            await ground.renew()
        assert len(await ground.events()) == count == 2


async def test_what_cannot_be_made_anew_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with grounded(tmp_path) as ground:
        async def refuses(*_: object) -> secrets.Certified:
            raise OperatorError("FL-ADDRESS-NAME", "no")

        monkeypatch.setattr(type(ground.signing), "issue_portal", refuses)
        ground.pass_days(LAST_DAYS + 1)
        await ground.renew()
        assert said(await ground.events()) == [("certificate.renewed", "api")]


# -- a join that is under way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "outcome"), [(RECOGNISED_FOR, "reserved"), (RECOGNISED_FOR + 1, "FL-JOIN-RELAY")])
async def test_whoever_was_shown_the_one_before_a_minute_ago_still_joins(tmp_path: Path, seconds: float,
                                                                         outcome: str) -> None:
    async with open_world(tmp_path) as world:
        bundle, machine = await world.export(), Machine()
        claim = machine.claim(bundle, world.certificate)
        presented = Presented(Identity(None, world.leaf))  # type: ignore[arg-type]
        presented.swap(Identity(None, b"another"), world.clock.monotonic())  # type: ignore[arg-type]
        world.clock.set(seconds)

        async def ask() -> str:
            reply = await world.enrolment.exchange(
                Submission.parse(machine.body(claim, bundle)), "192.0.2.7",
                lambda digest: presented.recognises(digest, world.clock.monotonic()))
            return believe(reply, claim, bundle.anchor)[0].result

        if outcome == "reserved":
            assert await ask() == outcome
        else:
            assert await refusal(ask()) == outcome
            assert "join.refused" in [r.event for r in await world.audited()]
