"""From where people may come."""

from ipaddress import ip_network

import pytest

from fairlead.base.networks import NOWHERE, Networks

PREFIXES = tuple(ip_network(text) for text in ("192.0.2.7/32", "198.51.100.0/24", "2001:db8::/126"))


@pytest.mark.parametrize(("source", "inside"), [
    ("192.0.2.7", True), ("192.0.2.8", False), ("198.51.100.255", True), ("198.51.101.0", False),
    ("2001:db8::3", True), ("2001:db8::4", False), ("2001:db8::3%eth0", True), ("::ffff:192.0.2.7", True),
    ("::ffff:192.0.2.8", False)])
def test_an_address_is_inside_or_it_is_not(source: str, inside: bool) -> None:
    assert Networks("IS_IN", PREFIXES).hold(source) is inside
    assert Networks("IS_NOT_IN", PREFIXES).hold(source) is not inside


@pytest.mark.parametrize("source", ["", "example.com", "192.0.2", "1" * 100])
def test_what_is_no_address_never_may(source: str) -> None:
    assert not Networks("IS_IN", PREFIXES).hold(source)
    assert not Networks("IS_NOT_IN", PREFIXES).hold(source)


def test_nowhere_is_nowhere() -> None:
    assert not NOWHERE.hold("192.0.2.7")
