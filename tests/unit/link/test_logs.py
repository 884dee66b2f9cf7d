"""Chunks of logs out of bytes cut anywhere; what is too long, or no greeting, is refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.link.logs import LAST_OFFSET, MOST_CHUNK, Chunks, Settlements, chunk, have, settled, want
from tests.world import denied


@given(st.lists(st.tuples(st.integers(0, LAST_OFFSET - 1), st.binary(min_size=1, max_size=50)), max_size=5),
       st.integers(1, 40))
def test_chunks_come_whole_however_they_are_cut(chunks: list[tuple[int, bytes]], step: int) -> None:
    data, reader, found = b"".join(chunk(*one) for one in chunks), Chunks(), []
    for at in range(0, len(data), step):
        found += reader.feed(data[at:at + step])
    assert found == chunks


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, MOST_CHUNK + 1), (0, 2**32 - 1), (LAST_OFFSET, 1)])
def test_attack_a_chunk_that_is_none_is_refused_before_it_is_kept(offset: int, size: int) -> None:
    assert denied(lambda: Chunks().feed(struct.pack(">QI", offset, size))) == "FL-LINK-FRAME"


def test_the_last_settlement_counts() -> None:
    reader = Settlements()
    data = settled(5) + settled(9)
    assert [reader.feed(data[:7]), reader.feed(data[7:12]), reader.feed(data[12:])] == [None, 5, 9]


@pytest.mark.parametrize("fields", [{}, [], {"v": 1, "spool": "../" * 11, "begin": 0, "end": 0},
                                    {"v": 1, "spool": "a" * 32},
                                    {"v": 1, "spool": "a" * 32, "begin": -1, "end": 0},
                                    {"v": 1, "spool": "a" * 32, "begin": 0, "end": 2**63, "x": 1}])
def test_a_greeting_that_is_none_is_refused(fields: object) -> None:
    assert denied(lambda: have(fields)) == "FL-LINK-MESSAGE"
    assert denied(lambda: want(fields)) == "FL-LINK-MESSAGE"
