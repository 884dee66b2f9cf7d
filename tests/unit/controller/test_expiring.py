"""Certificates that come near their end are said: as lines, in numbers, and on record once each."""

import asyncio
from pathlib import Path

import pytest

from fairlead.base.clock import DAY, SECOND
from fairlead.nodes.records import EXPIRY, secrets_of
from fairlead.pki.certificate import SERVER_LIFETIME
from tests.unit.controller.ground import Ground, grounded
from tests.unit.pki import organisation
from tests.world import START


async def looked(ground: Ground) -> tuple[list[str], list[str]]:
    """The hints and the problems now."""
    await ground.look()
    return list(ground.expiring.hints), list(ground.expiring.problems)


def codes(lines: list[str]) -> list[str]:
    return [line.rpartition("[")[2].rstrip("]") for line in lines]


async def test_each_warning_is_said_and_is_on_record_once(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        assert await looked(ground) == ([], [])
        assert ground.expiring.ends == {
            "secure-channel": (START + SERVER_LIFETIME) / SECOND, "api": (START + SERVER_LIFETIME) / SECOND,
            "root-ca": (START + 3650 * DAY) / SECOND}
        for days, left in ((397 - 30, 30), (397 - 7, 7), (397 - 1, 1)):
            ground.clock.instant = START + days * DAY
            for _ in range(2):
                hints, problems = await looked(ground)
                assert (codes(hints), problems) == (["FL-CERT-EXPIRES"] * 2, [])
            newest = (await ground.events())[-2:]
            assert [(r.event, r.subject, r.details["days"]) for r in newest] == [
                ("certificate.expiring", "secure-channel", left), ("certificate.expiring", "api", left)]
        ground.pass_days(1.1)
        hints, problems = await looked(ground)
        assert (hints, codes(problems)) == ([], ["FL-CERT-EXPIRED"] * 2)
        assert [r.event for r in await ground.events()] == ["certificate.expiring"] * 6 + ["certificate.expired"] * 2


async def test_a_restart_repeats_nothing(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        ground.pass_days(397 - 6)
        await looked(ground)
    async with grounded(tmp_path, ground.clock) as again:
        await again.presentation.load()
        assert codes((await looked(again))[0]) == ["FL-CERT-EXPIRES"] * 2
        assert [(r.subject, r.details["days"]) for r in await again.events()] == [("secure-channel", 7), ("api", 7)]


async def test_a_follower_says_of_its_own_only(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        await ground.renew_identity()
        ground.leading, ground.clustered = False, True
        ground.pass_days(397 - 6)
        hints, _ = await looked(ground)
        assert len(hints) == 3
        assert [r.subject for r in await ground.events()] == ["api", "store"]
        kept = {record.key for record in (await ground.store.list(EXPIRY)).records}
        assert kept <= set(secrets_of(ground.trust.node_id)), "they go with the node"


async def test_an_operators_certificate_ends_with_the_first_above_it(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        root = organisation.root("root", START, last=300 * DAY)
        between = root.ca("between", START, last=40 * DAY)
        item = await ground.bring("org", between.leaf(["192.0.2.10"], START, last=90 * DAY), [between, root])
        await ground.use(item.uuid)
        ground.pass_days(35)
        (hint,), _ = await looked(ground)
        assert "rotate start secure-channel --to NAME" in hint
        assert [(r.subject, r.details["days"]) for r in await ground.events()] == [("secure-channel", 7)]


async def test_the_days_are_those_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        monkeypatch.setattr(type(ground.settings), "properties", property(
            lambda _: type("P", (), {"ssl_certificate_expiry_warning_days": [60]})))
        ground.pass_days(397 - 59)
        assert codes((await looked(ground))[0]) == ["FL-CERT-EXPIRES"] * 2
        assert {r.details["days"] for r in await ground.events()} == {60}


async def test_the_root_is_said_with_its_remedy(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        ground.pass_days(3650 - 3)
        (hint,), _ = await looked(ground)
        assert "rotate start root-ca" in hint


async def test_what_another_has_recorded_meanwhile_is_not_recorded_again(tmp_path: Path) -> None:
    async with grounded(tmp_path) as ground:
        await ground.presentation.load()
        ground.pass_days(397 - 6)
        await asyncio.gather(*(ground.look() for _ in range(3)))
        assert len(await ground.events()) == 2
