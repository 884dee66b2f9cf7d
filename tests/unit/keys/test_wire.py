"""The one encoding: nothing runs into its neighbour, and every value has one spelling."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.keys.wire import b64, b64url, from_b64, string, u32


def test_the_shapes_of_rfc_4251() -> None:
    assert string("a€") == b"\0\0\0\4a\xe2\x82\xac"
    assert string(b"") == bytes(4)
    assert u32(0x01020304) == b"\1\2\3\4"


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.binary(max_size=40), max_size=6))
def test_two_sequences_of_fields_never_look_alike(one: list[bytes], other: list[bytes]) -> None:
    encoded = [b"".join(map(string, fields)) for fields in (one, other)]
    assert (encoded[0] == encoded[1]) == (one == other)


@given(st.binary(max_size=70))
def test_base64_there_and_back(data: bytes) -> None:
    assert from_b64(b64(data)) == data
    assert base64.urlsafe_b64decode(b64url(data) + "=" * (-len(data) % 3)) == data


@pytest.mark.parametrize("text", [
    "AA=", "AA", "AB==", "AAB=", "AAA=\n", " AAA=", "A-A=", "A_A=", "AAA=AAA=", "ААА=", "\ud800AA=", "=", "AAA==",
    "A A=",
])
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        from_b64(text)
