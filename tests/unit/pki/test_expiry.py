"""Which warning stands when, and when a certificate is made anew: tables, with the time handed in."""

from uuid import UUID

import pytest

from fairlead.base.clock import DAY, HOUR, SECOND
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import BACK_DATED, SERVER_LIFETIME, der_of
from fairlead.pki.expiry import EXPIRED, Life, due, life, warning
from tests.unit.pki import organisation

NOW = 1_767_225_600 * SECOND
YEAR = Life(NOW, NOW + 360 * DAY)
WEEK = Life(NOW, NOW + 7 * DAY)
DAY_LONG = Life(NOW, NOW + DAY)
CLUSTER = UUID("11111111-1111-4111-8111-111111111111")


@pytest.mark.parametrize(("of", "left", "stands"), [
    (YEAR, 360 * DAY, None), (YEAR, 30 * DAY + 1, None), (YEAR, 30 * DAY, 30), (YEAR, 7 * DAY + 1, 30),
    (YEAR, 7 * DAY, 7), (YEAR, DAY + 1, 7), (YEAR, DAY, 1), (YEAR, 0, 1), (YEAR, -1, EXPIRED), (YEAR, -DAY, EXPIRED),
    (WEEK, 7 * DAY, None), (WEEK, 3 * DAY, None), (WEEK, 7 * DAY // 3, 7), (WEEK, DAY, 1), (WEEK, -1, EXPIRED),
    (DAY_LONG, DAY, None), (DAY_LONG, 8 * HOUR + 1, None), (DAY_LONG, 8 * HOUR, 1)])
def test_which_warning_stands(of: Life, left: int, stands: int | None) -> None:
    assert warning(of, of.last - left) == stands


@pytest.mark.parametrize(("days", "left", "stands"), [
    ([60, 14], 60, 60), ([14, 60], 14, 14), ([60, 14], 61, None), ([], 1, None), ([0, -5], 1, None), ([], -1, EXPIRED),
    ([10**9], 120, 10**9), ([10**9], 121, None)])
def test_the_days_may_be_others(days: list[int], left: int, stands: int | None) -> None:
    assert warning(YEAR, YEAR.last - left * DAY, days) == stands


@pytest.mark.parametrize(("of", "left", "is_due"), [
    (YEAR, 30 * DAY + 1, False), (YEAR, 30 * DAY, True), (YEAR, -DAY, True), (WEEK, 3 * DAY, False),
    (WEEK, 7 * DAY // 3, True), (DAY_LONG, 8 * HOUR + 1, False), (DAY_LONG, 8 * HOUR, True)])
def test_when_it_is_made_anew(of: Life, left: int, is_due: bool) -> None:
    now = of.last - left
    assert due(of, now, now + SERVER_LIFETIME) is is_due


@pytest.mark.parametrize(("longer", "is_due"), [(DAY, True), (DAY - 1, False), (0, False)])
def test_one_that_would_live_no_longer_is_not_made(longer: int, is_due: bool) -> None:
    assert due(YEAR, YEAR.last - DAY, YEAR.last + longer) is is_due


def test_a_life_is_that_of_the_certificate() -> None:
    issued = Authority.create(CLUSTER, NOW).issue_portal(CLUSTER, ["192.0.2.1"], NOW)
    assert life(der_of(issued.certificate_pem)) == Life(NOW - BACK_DATED, NOW + SERVER_LIFETIME)


def test_a_chain_ends_with_the_first_of_it_that_ends() -> None:
    root = organisation.root("root", NOW, last=90 * DAY)
    between = root.ca("between", NOW, last=20 * DAY)
    leaf = between.leaf(["a.example.com"], NOW, last=60 * DAY)
    assert life(leaf.der, [between.der, root.der]) == Life(NOW - HOUR, NOW + 20 * DAY)
    assert life(leaf.der, [root.der]) == Life(NOW - HOUR, NOW + 60 * DAY)
