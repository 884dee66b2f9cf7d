"""Frames out of chunks of any size, and what is no frame."""

import json
import struct
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.link import frames
from tests.world import denied

MESSAGES = st.lists(st.dictionaries(st.text(max_size=10), st.one_of(st.integers(), st.text(max_size=30), st.none()),
                                    max_size=4), max_size=6)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(MESSAGES, st.data())
def test_chunks_do_not_matter(messages: list[dict[str, Any]], data: st.DataObject) -> None:
    stream = b"".join(map(frames.encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = frames.Decoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == messages


def test_a_length_over_the_limit_is_refused_before_the_body() -> None:
    for most in (frames.MOST_BYTES, frames.MOST_COMMIT_BYTES):
        decoder = frames.Decoder(most)
        assert decoder.feed(struct.pack(">I", most)) == []  # the largest is waited for
        assert decoder.feed(b" " * (most - 2)) == []
        assert decoder.feed(b"{}") == [{}]
        assert denied(partial(decoder.feed, struct.pack(">I", most + 1))) == "FL-LINK-FRAME"
    assert denied(lambda: frames.Decoder().feed(b"GET / HTTP/1.1\r\n")) == "FL-LINK-FRAME"
    assert denied(lambda: frames.Decoder().feed(b"SSH-2.0-x\r\n")) == "FL-LINK-FRAME"


def test_nothing_is_held_beyond_the_frame_that_is_incomplete() -> None:
    decoder = frames.Decoder()
    for _ in range(1000):
        assert decoder.feed(frames.encode({"a": "x" * 1000}) + b"\0\0") == [{"a": "x" * 1000}]
        assert decoder.feed(b"\0\2{}") == [{}]
    assert len(decoder._buffer) == 0


@pytest.mark.parametrize("body", [
    b"", b"{", b"null", b"[]", b"1", b'"x"', b"\xff\xfe", b"{}{}", b"{'a':1}", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"a":' + b"1" * 5000 + b"}", b"\0\0\0\2{}"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    assert denied(lambda: frames.Decoder().feed(framed(body))) == "FL-LINK-FRAME"


def test_the_frame_is_what_the_protocol_says() -> None:
    assert frames.encode({"v": 1}) == b'\0\0\0\7{"v":1}'
    assert json.loads(frames.encode({"é": "\n"})[4:]) == {"é": "\n"}
