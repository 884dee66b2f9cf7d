"""The audit log in the store: each trust decision and its record are one transaction.

Rules, and what each stops:

1. A record is written by the transaction that it is about: no decision without its record, no record of a decision
   that was not made, whatever crashes.
2. That transaction compares the head of the node's chain: two writers never continue from the same record.
3. What strangers cause is counted in memory, within bounds, and recorded as sums: nobody can fill the log from outside.

Keys: ``audit/<node>/<seq, 12 digits>`` holds a record's encoding, ``audit-head/<node>`` the end of its chain.
"""

import asyncio
import ipaddress
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from fairlead.audit.record import GENESIS, AuditRecord, Entry, Head, broken, chain, decode, verify
from fairlead.base import strict
from fairlead.base.clock import MINUTE, rfc3339
from fairlead.store.protocol import (
    Absent,
    Compare,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
)

RECORDS = "audit/"
HEADS = "audit-head/"
BOTH = "audit"  # the prefix that the two have in common
TRIES = 8  # for the head; each one lost means that another process wrote meanwhile
PAGE_DIGITS = 2
PAGE = 10 ** PAGE_DIGITS  # records that are read at once: their keys differ in these digits only
TOGETHER = 64  # records appended in one transaction
MOST_SOURCES = 1024  # networks counted apart between two flushes
OTHER = "other"


class AuditStore(Protocol):
    """What the log needs of the store."""

    async def get(self, key: str) -> Record | None:
        """See `store.protocol.Store`."""
        ...

    async def list(self, prefix: str) -> Listing:
        """See `store.protocol.Store`."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """See `store.protocol.Store`."""
        ...

    async def now(self) -> int:
        """See `store.protocol.Store`."""
        ...


class AuditLog:
    """The chain of one node in the store, and a view of all."""

    def __init__(self, store: AuditStore, node: str) -> None:
        self._store = store
        self._node = node
        self._turn = asyncio.Lock()  # so that we do not race ourselves for the head
        self.moved = asyncio.Event()
        """The chain of this node may have moved on; whoever waits for it clears it."""
        self.moved.set()

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do *then* and record *entries*, all in one transaction, if all of *compare* hold.

        A failed outcome means that one of *compare* did not hold; nothing was done or recorded. Room in the
        transaction: one compare and ``len(entries) + 1`` operations are the log's. Raises ValueError without an
        entry, StoreUnavailable (also when other writers of this chain were faster `TRIES` times).
        """
        if not entries:
            raise ValueError("nothing to record")
        async with self._turn:
            seen, head = await self._head()
            for _ in range(TRIES):
                outcome = await self._store.transact([*compare, seen],
                                                     [*then, *self._puts(head, entries, await self._store.now())])
                if outcome.succeeded:
                    self.moved.set()
                    return outcome
                before, (seen, head) = seen, await self._head()
                if seen == before:  # then it was not the head
                    return outcome
        raise StoreUnavailable(f"the audit chain of {self._node} moved on {TRIES} times")

    async def append(self, *entries: Entry) -> None:
        """Record *entries*, in order. Raises StoreUnavailable."""
        for start in range(0, len(entries), TOGETHER):
            await self.append_with([], [], entries[start:start + TOGETHER])

    async def records(self, limit: int, node: str | None = None) -> Sequence[AuditRecord]:
        """The last *limit* records of *node*, or of all nodes by time; the oldest of them first.

        Nothing is verified but each record's form. Raises Refused ``FL-AUDIT-BROKEN``.
        """
        heads = (await self._store.list(HEADS)).records
        found: list[AuditRecord] = []
        for record in heads:
            owner = record.key.removeprefix(HEADS)
            if node is None or owner == node:
                last = decode_head(record.value).seq
                first = max(1, last - limit + 1)
                for page in range(first // PAGE, last // PAGE + 1):
                    for kept in (await self._store.list(record_key(owner, page * PAGE)[:-PAGE_DIGITS])).records:
                        number = kept.key.rpartition("/")[2]
                        if record_key(owner, first) <= kept.key <= record_key(owner, last):
                            found.append(decode(kept.value, f"record {number.lstrip('0')} of {owner}"))
        return sorted(found, key=lambda r: (r.time, r.node, r.seq))[max(0, len(found) - limit):]

    async def verify(self) -> Mapping[str, Head]:
        """Check the chains of all nodes as they stand at one revision; where each ends.

        The ends, noted elsewhere, later prove that nobody rewrote a whole chain. Raises Refused ``FL-AUDIT-BROKEN``.
        """
        return {node: records[-1].head() if records else GENESIS for node, records in (await self.chains()).items()}

    async def head(self) -> Head:
        """Where the chain of this node ends. Raises Refused ``FL-AUDIT-BROKEN``."""
        return (await self._head())[1]

    async def chains(self) -> Mapping[str, Sequence[AuditRecord]]:
        """The chains of all nodes as they stand at one revision, checked. Raises Refused ``FL-AUDIT-BROKEN``."""
        heads: dict[str, Head] = {}
        chains: dict[str, list[AuditRecord]] = {}
        for kept in (await self._store.list(BOTH)).records:
            if kept.key.startswith(HEADS):
                heads[kept.key.removeprefix(HEADS)] = decode_head(kept.value)
            elif kept.key.startswith(RECORDS):
                owner, _, number = kept.key.removeprefix(RECORDS).rpartition("/")
                record = decode(kept.value, f"record {number.lstrip('0')} of {owner}")
                if kept.key != record_key(owner, record.seq):
                    raise broken(f"record {number.lstrip('0')} of {owner} is not in its place: {record.seq} is there")
                chains.setdefault(owner, []).append(record)
        for node in sorted(heads.keys() | chains.keys()):
            verify(chains.get(node, []), heads.get(node, GENESIS), node)
        return {node: chains.get(node, []) for node in sorted(heads.keys() | chains.keys())}

    async def _head(self) -> tuple[Compare, Head]:
        """The end of our chain, and the compare that holds while it is the end."""
        key = HEADS + self._node
        record = await self._store.get(key)
        if record is None:
            return Absent(key), GENESIS
        return Unchanged(key, record.revision), decode_head(record.value)

    def _puts(self, head: Head, entries: Sequence[Entry], now: int) -> Sequence[Put]:
        puts = []
        for entry in entries:
            record = chain(head, entry, self._node, now)
            head = record.head()
            puts.append(Put(record_key(self._node, record.seq), record.encoded()))
        return [*puts, Put(HEADS + self._node, encode_head(head))]


class RefusalCounter:
    """Refusals of strangers, counted per source network, reason and minute until they are written as sums.

    At most `MOST_SOURCES` sums of networks wait for a flush; what comes beyond that is one sum a minute, ``other``.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], Counter[str]] = {}

    def count(self, source: str, reason: str, now: int) -> None:
        """A refusal of *source* (an address) for *reason* (a code of ours, never text of theirs) at *now*."""
        place = (now // MINUTE, network_of(source))
        if place not in self._sums and len(self._sums) >= MOST_SOURCES:
            place = (now // MINUTE, OTHER)
        self._sums.setdefault(place, Counter())[reason] += 1

    def flush(self, now: int) -> Sequence[Entry]:
        """The sums of every minute that has ended by *now*, one entry per source and minute; they are forgotten here.

        To have the running minute too, say on shutdown, hand in a *now* a minute later.
        """
        ended = sorted(place for place in self._sums if place[0] < now // MINUTE)
        return [Entry("refused", network, "anonymous", {"minute": rfc3339(minute * MINUTE),
                                                        **self._sums.pop((minute, network))})
                for minute, network in ended]


def network_of(source: str) -> str:
    """The network that a source is counted under: IPv4 /24, IPv6 /56; what is no address is ``other``."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return OTHER
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # how a socket for both families shows IPv4
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 56), strict=False))


def record_key(node: str, seq: int) -> str:
    """Where a record is kept. Twelve digits, so that keys sort as numbers do."""
    return f"{RECORDS}{node}/{seq:012d}"


def encode_head(head: Head) -> bytes:
    """A head as the store holds it."""
    return json.dumps({"seq": head.seq, "hash": head.hash}, sort_keys=True, separators=(",", ":")).encode()


def decode_head(value: bytes) -> Head:
    """The reverse. Raises Refused ``FL-AUDIT-BROKEN``."""
    try:
        head = Head(**strict.loads(value))
        if encode_head(head) != value or type(head.seq) is not int:
            raise ValueError("not in canonical form")
    except (ValueError, TypeError) as error:
        raise broken("the end of a chain does not read as one") from error
    return head
