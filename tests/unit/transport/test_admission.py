"""Places at the door: counted by source, given back, never remembered."""

import pytest

from fairlead.transport.admission import Admission, plain_address


def test_caps_in_all_and_per_source() -> None:
    admission = Admission(3, 2)
    assert admission.enter("192.0.2.1")
    assert admission.enter("192.0.2.1")
    assert not admission.enter("192.0.2.1")  # its share
    assert admission.enter("192.0.2.2")
    assert not admission.enter("192.0.2.3")  # the house is full
    admission.leave("192.0.2.1")
    assert admission.enter("192.0.2.3")
    assert admission.inside == 3


def test_sources_are_subscribers_not_addresses() -> None:
    admission = Admission(10, 1)
    assert admission.enter("2001:db8:0:12ff::1")
    assert not admission.enter("2001:db8:0:1200:ffff::2")  # the same /56
    assert admission.enter("2001:db8:0:1300::1")
    assert admission.enter("::ffff:192.0.2.1")
    assert not admission.enter("192.0.2.1")  # the same machine, seen by an IPv6 socket
    assert admission.enter("fe80::1%eth0")
    assert not admission.enter("fe80::2%eth1")


def test_what_has_left_is_forgotten() -> None:
    admission = Admission(2, 1)
    for number in range(1000):
        assert admission.enter(f"10.0.{number // 256}.{number % 256}")
        admission.leave(f"10.0.{number // 256}.{number % 256}")
    assert not admission._per_source
    with pytest.raises(ValueError, match="not inside"):
        admission.leave("10.0.0.1")
    assert admission.inside == 0


def test_plain_addresses() -> None:
    assert plain_address("::ffff:127.0.0.1") == "127.0.0.1"
    assert plain_address("fe80::1%lo") == "fe80::1"
    assert plain_address("") == ""
