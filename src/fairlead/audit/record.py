"""The records of trust decisions: one chain per node, each record naming the hash of the one before. Pure.

Rules, and what each stops:

1. A record's encoding is canonical, and decoding refuses every other text: two texts for one record would have two
   hashes, and an edit that "means the same" would be an edit.
2. Numbers run from 1 without a gap, and each record holds the SHA-256 of the previous encoding: editing, deleting,
   inserting and reordering break the chain at that place.
3. Against a known `Head` a chain that was cut off at its end is found too. Whoever may rewrite the whole chain *and*
   the head is found only by a head noted elsewhere: there is no key in this.
4. Texts are made printable and bounded before they are written: a hostile name neither moves a reader's cursor nor
   fills the disk.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from fairlead.base.clock import LAST_INSTANT
from fairlead.base.errors import Refused, printable

LONGEST_TEXT = 1000  # characters of one text in a record


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody wants on record."""

    event: str
    """What happened, dotted: ``join.reserved``."""
    subject: str
    """To whom or what."""
    by: str
    """Who did it, or asked for it."""
    details: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends."""

    seq: int
    hash: str
    """SHA-256 of the last record's encoding, hex."""


GENESIS = Head(0, "0" * 64)
"""Where every chain begins."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One link of a node's chain. Made by `chain` and `decode`."""

    seq: int
    """From 1."""
    time: int
    """Microseconds since the epoch."""
    node: str
    event: str
    subject: str
    by: str
    details: Mapping[str, str | int]
    previous: str
    """SHA-256 of the previous record's encoding, hex; of the first, zeros."""

    def encoded(self) -> bytes:
        """The one encoding: a line of JSON without its end, keys sorted, no spaces, UTF-8."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def head(self) -> Head:
        """The head of a chain that ends here."""
        return Head(self.seq, hashlib.sha256(self.encoded()).hexdigest())


def chain(previous: AuditRecord | Head | None, entry: Entry, node: str, time: int) -> AuditRecord:
    """The record of *entry* that follows *previous* (None: the first one of *node*), at *time* microseconds."""
    head = previous.head() if isinstance(previous, AuditRecord) else previous or GENESIS
    details = {bounded(name): bounded(value) if isinstance(value, str) else int(value)
               for name, value in entry.details.items()}
    return AuditRecord(head.seq + 1, time, bounded(node), bounded(entry.event), bounded(entry.subject),
                       bounded(entry.by), details, head.hash)


def decode(line: bytes, place: str) -> AuditRecord:
    """The record of a line, found at *place*.

    Raises Refused ``FL-AUDIT-BROKEN``, which names the place, for whatever `AuditRecord.encoded` does not write.
    """
    try:
        record = AuditRecord(**json.loads(line))
        texts = (record.node, record.event, record.subject, record.by, record.previous)
        if (record.encoded() != line or not 0 <= record.time < LAST_INSTANT or {type(text) for text in texts} != {str}
                or {type(number) for number in (record.seq, record.time)} != {int}  # a bool is an int, but not here
                or not {type(value) for value in record.details.values()} <= {str, int}):
            raise ValueError("not in canonical form")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise broken(f"{place} does not read as a record: {printable(str(error), 100)}") from error
    return record


def verify(records: Iterable[AuditRecord], head: Head | None = None, node: str | None = None) -> Head:
    """Check that *records* are a whole chain from its first record on; the head that it has.

    *head*: the end that is known and must be the chain's end. *node*: whose chain it must be; else any one node's.
    Raises Refused ``FL-AUDIT-BROKEN``, which names the first number that is wrong.
    """
    last = GENESIS
    for record in records:
        expected = last.seq + 1
        node = record.node if node is None else node
        if record.node != node:
            raise broken(f"record {expected} of {node} is one of {record.node}")
        if record.seq != expected:
            raise broken(f"record {expected} of {node} is missing, or not in its place: {record.seq} is there")
        if record.previous != last.hash:
            raise broken(f"record {expected} of {node} does not follow the record before: one of them was changed")
        last = record.head()
    if head is not None and last != head:
        if last.seq < head.seq:
            raise broken(f"record {last.seq + 1} of {node} is missing: the chain was cut off, it had {head.seq}")
        if last.seq > head.seq:
            raise broken(f"record {head.seq + 1} of {node} is one too many: the chain had {head.seq}")
        raise broken(f"record {last.seq} of {node} was changed")
    return last


def bounded(text: str) -> str:
    """*text* printable, and no longer than `LONGEST_TEXT`."""
    shown = printable(text, LONGEST_TEXT)  # escaping makes it longer, so it is measured afterwards
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT - 3] + "..."


def broken(what: str) -> Refused:
    """The refusal of a chain."""
    return Refused("FL-AUDIT-BROKEN", f"the audit log is broken: {what}",
                   "keep a copy, find out who could write to it, and compare with a backup")
