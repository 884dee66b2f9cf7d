"""The pool, and what a node with a view of its own sees."""

from ipaddress import IPv4Address, IPv4Network
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.nodes.address import LOOPBACK, View, candidates
from tests.world import denied


def test_controllers_and_engines_draw_from_parts_that_do_not_touch() -> None:
    controllers = list(candidates("controller"))
    assert (controllers[0], controllers[-1], len(controllers)) == ("127.64.0.1", "127.64.0.255", 255)
    assert list(islice(candidates("engine"), 2)) == ["127.64.1.0", "127.64.1.1"]
    assert not set(controllers) & set(islice(candidates("engine"), 10_000))


@pytest.mark.parametrize(("view", "internal", "seen"), [
    ("127.64.0.0/10", "127.64.1.7", "127.64.1.7"), ("127.65.0.0/16", "127.64.1.7", "127.65.1.7"),
    ("127.0.0.0/8", "127.64.1.7", "127.0.1.7"), ("127.200.0.0/16", "127.64.0.1", "127.200.0.1"),
    ("127.65.3.0/24", "127.64.0.9", "127.65.3.9")])
def test_a_view(view: str, internal: str, seen: str) -> None:
    assert View.parse(view).see(internal) == seen


@pytest.mark.parametrize("text", [
    "", "x", "127.65.0.1/16", "10.0.0.0/8", "126.0.0.0/7", "0.0.0.0/0", "127.65.0.0/25", "127.0.0.1", "::1/128",
    "127.65.0.0/16\n", "$(id)"])
def test_what_is_no_view(text: str) -> None:
    assert denied(lambda: View.parse(text)) == "FL-VIEW"


@given(st.integers(9, 24), st.integers(0, 2**24 - 1), st.sampled_from(list(islice(candidates("engine"), 600))))
def test_a_view_never_leads_off_loopback(bits: int, base: int, internal: str) -> None:
    network = IPv4Network((int(LOOPBACK.network_address) + base, bits), strict=False)
    view = View.parse(str(network))
    place = int(IPv4Address(internal)) - int(IPv4Address("127.64.0.0"))
    if place < network.num_addresses:
        assert IPv4Address(view.see(internal)) in network
    else:
        assert denied(lambda: view.see(internal)) == "FL-VIEW"


@pytest.mark.parametrize("internal", ["127.63.255.255", "10.0.0.1", "0.0.0.0", "127.65.0.0"])
def test_an_address_outside_is_not_seen(internal: str) -> None:
    assert denied(lambda: View.parse("127.66.0.0/16").see(internal)) == "FL-VIEW"
