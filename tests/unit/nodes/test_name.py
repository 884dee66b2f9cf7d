"""Names, addresses and labels as people and peers type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.base.errors import Refused
from fairlead.enrol.token import PREFIX, Token
from fairlead.nodes.name import QUOTED, check_name, full_name, is_name
from fairlead.nodes.node import split_address
from tests.unit.enrol.test_bundle import HOSTILE
from tests.world import denied


@pytest.mark.parametrize("name", ["a", "0", "se-1", "a--b", "a" * 63, "0-0"])
def test_names(name: str) -> None:
    assert check_name(name) == name
    assert full_name(name) == f"{name}.fairlead.internal"


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names(what: str) -> None:
    assert not is_name(HOSTILE[what])
    with pytest.raises(Refused) as caught:
        check_name(HOSTILE[what])
    assert caught.value.code == "FL-NAME"
    assert len(caught.value.message) < 600
    assert caught.value.message.isprintable()


def test_a_token_in_the_place_of_a_name_is_not_repeated() -> None:
    for token in ("flt1_" + "7" * 90, Token.new(bytes(32)).encode()):
        with pytest.raises(Refused) as caught:
            check_name(token)
        assert token[:25] not in caught.value.message
    assert len(PREFIX) + 16 * 8 // 6 >= QUOTED  # the secret follows 16 bytes of id


@pytest.mark.parametrize("name", ["engines", "controllers"])
def test_words_that_mean_a_role_name_nobody(name: str) -> None:
    assert denied(lambda: check_name(name)) == "FL-NAME"


@given(st.text(max_size=70))
def test_a_name_is_harmless_wherever_it_is_written(text: str) -> None:
    if is_name(text):
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 1 <= len(text) <= 63
        assert text.strip("-") == text


@pytest.mark.parametrize(("text", "place"), [
    ("192.0.2.1", ("192.0.2.1", 8443)), ("192.0.2.1:443", ("192.0.2.1", 443)), ("ctl.example", ("ctl.example", 8443)),
    ("2001:db8::1", ("2001:db8::1", 8443)), ("[2001:db8::1]:9", ("2001:db8::1", 9)), ("[::1]", ("::1", 8443)),
    ("::1", ("::1", 8443))])
def test_addresses(text: str, place: tuple[str, int]) -> None:
    assert split_address(text, 8443) == place


@pytest.mark.parametrize("text", [
    "", ":", "x:", "x:0", "x:65536", "x:-1", "x:٣", "x y", "$(id)", "-x", "x\n", "x:80\n", "[::1", "[::1]:x", "[::1]80",
    "[::1]:", "http://x", "x/y", "a@b", "x" * 254, "\x1b[2J", "[]:80"])
def test_what_is_no_address(text: str) -> None:
    assert denied(lambda: split_address(text, 8443)) == "FL-ADDRESS"
