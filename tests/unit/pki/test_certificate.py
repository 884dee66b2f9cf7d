"""What our certificates say, read back by our own code; `test_authority` asks OpenSSL."""

import time
from functools import partial
from uuid import UUID

import pytest

from fairlead.base.clock import DAY, HOUR, SECOND
from fairlead.base.errors import OperatorError, Refused
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import api_name, der_of, is_ca, names, parsed, portal_name, validity

CLUSTER = UUID("6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab")
NOW = time.time_ns() // 1000 // SECOND * SECOND


def test_the_api_certificate_does_not_carry_the_portals_name() -> None:
    root = Authority.create(CLUSTER, NOW)
    addresses = ["ctl.example.org.", "192.0.2.10", "2001:db8::1", "192.0.2.10"]
    shown = ("ctl.example.org", "192.0.2.10", "2001:db8::1")
    assert names(der_of(root.issue_portal(CLUSTER, addresses, NOW).certificate_pem)) == (portal_name(CLUSTER), *shown)
    assert names(der_of(root.issue_api(CLUSTER, addresses, NOW).certificate_pem)) == (api_name(CLUSTER), *shown)


@pytest.mark.parametrize("address", [portal_name(CLUSTER), portal_name(CLUSTER).upper() + ".", "fairlead.internal",
                                     "*.example.org", "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "", "a b",
                                     "a..b", "a" * 64, "example.org\n"])
def test_an_address_that_would_smuggle_a_name_in_is_refused(address: str) -> None:
    root = Authority.create(CLUSTER, NOW)
    with pytest.raises(OperatorError) as refused:
        root.issue_api(CLUSTER, [address], NOW)
    assert refused.value.code == "FL-ADDRESS-NAME"


def test_lifetimes_are_back_dated_and_never_longer_than_the_roots() -> None:
    root = Authority.create(CLUSTER, NOW)
    assert validity(der_of(root.certificate_pem)) == (NOW - HOUR, NOW + 3650 * DAY)
    assert validity(der_of(root.issue_api(CLUSTER, [], NOW).certificate_pem)) == (NOW - HOUR, NOW + 397 * DAY)
    late = NOW + 3600 * DAY
    assert validity(der_of(root.issue_api(CLUSTER, [], late).certificate_pem)) == (late - HOUR, NOW + 3650 * DAY)


@pytest.mark.parametrize("late", [0, 1, 3600, 7200])
def test_a_root_that_is_over_issues_nothing_and_says_why(late: int) -> None:
    root, now = Authority.create(CLUSTER, NOW), NOW + 3650 * DAY + late * SECOND
    for issue in (partial(root.issue_portal, CLUSTER, [], now), partial(root.issue_api, CLUSTER, [], now),
                  partial(root.issue_client, CLUSTER, now)):
        with pytest.raises(OperatorError, match="the root CA has ended") as refused:
            issue()
        assert (refused.value.code, refused.value.remedy) == ("FL-CERT-EXPIRED", "`fairlead rotate start root-ca`")


def test_serials_are_random_and_keys_new() -> None:
    root = Authority.create(CLUSTER, NOW)
    one, two = (parsed(der_of(root.issue_portal(CLUSTER, [], NOW).certificate_pem)) for _ in range(2))
    assert one.serial_number != two.serial_number
    assert one.public_key() != two.public_key()


def test_a_leaf_is_no_ca() -> None:
    root = Authority.create(CLUSTER, NOW)
    assert is_ca(der_of(root.certificate_pem))
    assert not is_ca(der_of(root.issue_portal(CLUSTER, [], NOW).certificate_pem))


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused_with_a_code(pem: bytes) -> None:
    with pytest.raises(Refused) as refused:
        der_of(pem)
    assert refused.value.code == "FL-CERTIFICATE-FORMAT"
