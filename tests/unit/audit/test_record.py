"""A chain of records: whatever is done to it afterwards shows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from fairlead.audit.record import (
    GENESIS,
    LONGEST_TEXT,
    AuditRecord,
    Entry,
    Head,
    chain,
    decode,
    verify,
)
from fairlead.base.errors import Refused


def made(count: int, node: str = "ctl-1") -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for number in range(count):
        entry = Entry("join.reserved", f"se-{number}", "admin", {"token": "abc", "tries": number})
        records.append(chain(records[-1] if records else None, entry, node, 1000 + number))
    return records


def rechained(records: list[AuditRecord]) -> list[AuditRecord]:
    """As somebody would write it who recomputes every hash."""
    out: list[AuditRecord] = []
    for record in records:
        out.append(replace(record, previous=out[-1].head().hash if out else GENESIS.hash))
    return out


def test_the_encoding_is_the_documented_one() -> None:
    record = chain(None, Entry("a.b", "sé", "me", {"z": 1, "a": "x"}), "n", 5)
    assert record.encoded() == (
        '{"by":"me","details":{"a":"x","z":1},"event":"a.b","node":"n","previous":"' + "0" * 64
        + '","seq":1,"subject":"sé","time":5}').encode()
    assert decode(record.encoded(), "here") == record
    following = chain(record, Entry("c", "", ""), "n", 6)
    assert following == chain(record.head(), Entry("c", "", ""), "n", 6)
    assert (following.seq, following.previous) == (2, record.head().hash)


def test_a_whole_chain_passes() -> None:
    records = made(5)
    assert verify(records) == records[-1].head()
    assert verify(records, records[-1].head(), "ctl-1") == records[-1].head()
    assert verify([]) == verify([], GENESIS) == GENESIS


@pytest.mark.parametrize(("tamper", "seq"), [
    (lambda r: [*r[:2], replace(r[2], by="mallory"), *r[3:]], 4),  # the next one does not follow it
    (lambda r: [*r[:4], replace(r[4], by="mallory")], 5),  # the last one: only the head knows
    (lambda r: [*r[:2], *r[3:]], 3),
    (lambda r: r[1:], 1),
    (lambda r: [r[0], r[2], r[1], *r[3:]], 2),
    (lambda r: [r[0], r[0], *r[1:]], 2),
    (lambda r: r[:3], 4),
    (lambda r: [], 1),
    (lambda r: [*r, chain(r[-1], Entry("e", "s", "b"), "ctl-1", 1)], 6),
    (lambda r: [*r[:2], *(replace(x, seq=x.seq - 1) for x in r[3:])], 3),  # deleted and numbered anew
    (lambda r: rechained([*r[:2], replace(r[2], by="mallory"), *r[3:]]), 5),  # all hashes anew: only the head knows
    (lambda r: [replace(r[0], previous="1" * 64), *r[1:]], 1),
    (lambda r: [*r[:2], replace(r[2], node="ctl-2"), *r[3:]], 3),
    (lambda r: made(5, "ctl-2"), 1),
])
def test_what_was_done_to_a_chain_shows_and_where(tamper: Callable[[list[AuditRecord]], list[AuditRecord]],
                                                  seq: int) -> None:
    records = made(5)
    with pytest.raises(Refused, match=rf"record {seq} of ctl-1") as caught:
        verify(tamper(records), records[-1].head(), "ctl-1")
    assert caught.value.code == "FL-AUDIT-BROKEN"


def test_a_gap_in_the_numbers_shows_even_if_every_hash_and_the_head_were_made_anew() -> None:
    records = made(5)
    gapped = rechained([*records[:2], *records[3:]])
    with pytest.raises(Refused, match="record 3 of ctl-1"):
        verify(gapped, gapped[-1].head())


LINE = chain(None, Entry("e", "s", "b", {"n": 1}), "n", 5).encoded()


@pytest.mark.parametrize("line", [
    b"", b"{}", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, LINE[:-1], LINE + b"\n", LINE + LINE,
    LINE.replace(b'"seq":1', b'"seq": 1'),
    LINE.replace(b'"seq":1', b'"seq":1.0'),
    LINE.replace(b'"seq":1', b'"seq":true'),
    LINE.replace(b'"seq":1', b'"seq":1,"seq":1'),
    LINE.replace(b'"n":1', b'"n":[1]'),
    LINE.replace(b'"n":1', b'"n":true'),
    LINE.replace(b'"n":1', b'"n":NaN'),
    LINE.replace(b'{"n":1}', b'"n"'),
    LINE.replace(b'"by":"b"', b'"by":1'),
    LINE.replace(b'"by":"b"', b'"by":"\\u0062"'),
    LINE.replace(b'"by":"b"', b'"by":"\\ud800"'),
    LINE.replace(b'"by":"b",', b""),
    LINE.replace(b'{"by"', b'{"also":1,"by"'),
])
def test_only_the_canonical_text_is_a_record(line: bytes) -> None:
    with pytest.raises(Refused, match="line 9") as caught:
        decode(line, "line 9")
    assert caught.value.code == "FL-AUDIT-BROKEN"


def test_hostile_texts_are_printable_and_bounded_and_stay_a_chain() -> None:
    hostile = "\x1b[2J\n\u202e\ud800" * 1000
    record = chain(None, Entry(hostile, hostile, hostile, {hostile: hostile, "n": True}), "n", 5)
    texts = [record.event, record.subject, record.by, *record.details, str(record.details["n"])]
    assert all(len(text) <= LONGEST_TEXT and text.isprintable() for text in texts)
    assert decode(record.encoded(), "here") == record
    assert verify([record]) == Head(1, record.head().hash)
