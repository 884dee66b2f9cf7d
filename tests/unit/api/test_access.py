"""From where people may come."""

import pytest

from fairlead.api.access import allows
from fairlead.api.configuration import IpAddr, IpAddrMatch, IpAddrPrefix, IpAddrRange
from fairlead.base.errors import FairleadError

MATCH = {"addrs": [IpAddr(addr="192.0.2.7")], "prefixes": [IpAddrPrefix(ip_addr=IpAddr(addr="198.51.100.9"), mask=24)],
         "ranges": [IpAddrRange(begin=IpAddr(addr="2001:db8::1"), end=IpAddr(addr="2001:db8::9"))]}


@pytest.mark.parametrize(("source", "inside"), [
    ("192.0.2.7", True), ("192.0.2.8", False), ("198.51.100.255", True), ("198.51.101.0", False),
    ("2001:db8::9", True), ("2001:db8::a", False), ("::ffff:192.0.2.7", True), ("::ffff:192.0.2.8", False)])
def test_an_address_is_inside_or_it_is_not(source: str, inside: bool) -> None:
    assert allows(IpAddrMatch(match_criteria="IS_IN", **MATCH), source) is inside
    assert allows(IpAddrMatch(match_criteria="IS_NOT_IN", **MATCH), source) is not inside


def test_nothing_is_asked_of_a_process_of_this_machine_or_without_a_rule() -> None:
    assert allows(IpAddrMatch(match_criteria="IS_IN"), None)
    assert allows(None, "192.0.2.8")
    assert not allows(IpAddrMatch(match_criteria="IS_IN"), "192.0.2.8")


@pytest.mark.parametrize("addr", ["", "example.com", "192.0.2.7/99", "1" * 200])
def test_what_is_no_address_is_refused(addr: str) -> None:
    with pytest.raises(FairleadError) as refused:
        IpAddrMatch(match_criteria="IS_IN", addrs=[IpAddr(addr=addr)]).networks()
    assert refused.value.code == "FL-OBJECT-FIELD"
