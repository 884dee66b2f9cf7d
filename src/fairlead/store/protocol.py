"""The replicated state, as its users may see it: keys with revisions, transactions that compare, watches, leases.

One contract (``tests/contract``) holds for every backend. Keys are paths (``enrol/token/<id>``), values are bytes.
Revisions are whole numbers of one sequence for the whole store. Each user declares the few methods it needs as a
`Protocol` of its own; this is the sum of them.

The store's clock is the key `MARK`: 20 decimal digits of microseconds, so that comparing bytes compares time. A
deadline is a `Below(MARK, ...)` inside the transaction that depends on it, never a reading made before it.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fairlead.base.errors import OperatorError

MARK = "clock/mark"
MOST_OPERATIONS = 128
"""Compares or operations in one transaction (etcd's limit)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A key as it stands."""

    key: str
    value: bytes
    created: int
    """Revision at which the key came into being; changes when it is deleted and put again."""
    revision: int
    """Revision of the last change."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All records under a prefix, or several, ordered by key, and the revision at which they were read."""

    records: Sequence[Record]
    revision: int


@dataclass(frozen=True, slots=True)
class Absent:
    """The key does not exist."""

    key: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The key exists, whatever it holds."""

    key: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The key's last change is the one that was read."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Born:
    """The key came into being at this revision and was not deleted since, whatever it holds now."""

    key: str
    created: int


@dataclass(frozen=True, slots=True)
class Equal:
    """The key holds exactly this value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Below:
    """The key exists and its value sorts before this one, byte by byte."""

    key: str
    value: bytes


Compare = Absent | Exists | Unchanged | Born | Equal | Below


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; under a lease it goes when the lease ends."""

    key: str
    value: bytes
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, if it is there."""

    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether every compare held, so that the operations were done; and the store's revision afterwards."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """A key was put (value) or deleted (None) at a revision."""

    key: str
    value: bytes | None
    revision: int


class Compacted(Exception):
    """A watch asked for changes that the store no longer has: list again, then watch from that revision."""


class StoreUnavailable(OperatorError):
    """The store did not answer; whether a transaction happened is not known."""

    def __init__(self, reason: str, remedy: str = "see that its disk has room and is in order, then try again",
                 code: str = "FL-STORE") -> None:
        super().__init__(code, f"the store did not answer: {reason}", remedy)


class Store(Protocol):
    """Everything that a backend offers."""

    async def get(self, key: str) -> Record | None:
        """The record of a key, or None."""
        ...

    async def list(self, prefix: str, *more: str) -> Listing:
        """All records whose key starts with *prefix*, or with one of *more*, at one revision.

        No prefix begins with another one. However many there are: it takes its time.
        """
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then* if all of *compare* hold, atomically and durably; else nothing."""
        ...

    async def grant(self, seconds: int) -> int:
        """A lease that ends after *seconds* of store time; its keys end with it."""
        ...

    async def now(self) -> int:
        """Store time in microseconds: what `MARK` holds, or would hold if it were written now."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """Every change under *prefix* with a revision above *after*, in order, none twice; then waits for more.

        The events of one transaction come in one batch. Raises Compacted.
        """
        ...


def mark_value(instant: int) -> bytes:
    """*instant* (microseconds) as `MARK` holds it."""
    return b"%020d" % instant
