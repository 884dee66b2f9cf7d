"""The store of a single Controller: one SQLite file, one writer, one thread.

Rules, and what each stops:

- Every statement runs on one thread, in one connection that holds the file exclusively: two daemons on one state
  folder, and readings of half a transaction.
- WAL with full sync; a transaction is answered after it is on the disk: a crash or ``kill -9`` takes back nothing that
  was answered. A disk that is full or broken undoes the whole transaction (`StoreUnavailable`).
- The clock is read inside the write transaction, and counts from `MARK` up: a request that was slow, or a clock that
  was set back, does not slip under a deadline.
- File, ``-wal`` and ``-shm`` are 0600, and refused when others may read them.
- A file that is not ours, or a newer fairlead's, is left as it was found.

What the store does by itself (keys whose lease ended go, `MARK` advances) is a transaction of its own, with a
revision of its own, just before the caller's and committed with it. It stays when the caller's compares fail.
"""

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import ParamSpec, TypeVar

from fairlead.base.clock import SECOND, Clock
from fairlead.base.errors import OperatorError
from fairlead.base.files import sync_folder
from fairlead.store.protocol import (
    MARK,
    MOST_OPERATIONS,
    Absent,
    Below,
    Born,
    Compacted,
    Compare,
    Delete,
    Equal,
    Event,
    Exists,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
    mark_value,
)

P = ParamSpec("P")
T = TypeVar("T")

APPLICATION = 0x464C4431  # "FLD1", in the file's header
VERSION = 1  # of the schema
HISTORY = 10_000  # revisions that a watch may go back
CHUNK = 500  # revisions that a watch reads in one go
NOTICED_STEP = SECOND  # less is the ordinary trembling of a disciplined clock

SCHEMA = """
CREATE TABLE record (key BLOB PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, revision INTEGER NOT NULL,
                     lease INTEGER) STRICT;
CREATE INDEX record_lease ON record (lease) WHERE lease IS NOT NULL;
CREATE TABLE change (revision INTEGER NOT NULL, key BLOB NOT NULL, value BLOB) STRICT;
CREATE INDEX change_revision ON change (revision);
CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ends INTEGER NOT NULL) STRICT;
CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL) STRICT;
INSERT INTO state VALUES (0, 0);
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a write came to: its outcome, and the keys that changed on the way."""

    outcome: Outcome
    touched: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Watcher:
    """A watch that waits for news."""

    prefix: str
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class SQLiteStore:
    """`Store` on a file. Open it with `open`, end it with `close`."""

    def __init__(self, database: "Database", thread: ThreadPoolExecutor) -> None:
        self._database = database
        self._thread = thread
        self._watchers: set[Watcher] = set()
        self._roused = 0

    @classmethod
    def open(cls, path: Path, clock: Clock, history: int = HISTORY) -> "SQLiteStore":
        """The store at *path*, made where it is missing. Blocks for a moment.

        *history*: revisions that a watch may go back. Raises OperatorError: ``FL-STORE-LOCKED`` (another process has
        it), ``FL-STORE-FOREIGN``, ``FL-STORE-NEWER``, ``FL-STORE-DAMAGED``, ``FL-STATE-OPEN``, ``FL-STATE-UNWRITABLE``,
        ``FL-DISK``.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            return cls(thread.submit(Database.open, path, clock, history).result(), thread)
        except BaseException:
            thread.shutdown()
            raise

    async def close(self) -> None:
        """Finish what was asked before, then let go of the file. Watches end with StoreUnavailable."""
        with contextlib.suppress(RuntimeError):  # closed before
            closed = self._thread.submit(self._database.close)
            self._thread.shutdown(wait=False)  # at once, so that nothing queues up behind a closed connection
            self._wake(tuple(self._watchers))
            await asyncio.wrap_future(closed)

    @property
    def time_step(self) -> int:
        """By how much (microseconds) the machine's clock was found behind `MARK` at worst; 0 if it never was."""
        return self._database.time_step

    async def get(self, key: str) -> Record | None:
        """As in `Store`."""
        return await self._run(self._database.get, key)

    async def list(self, prefix: str, *more: str) -> Listing:
        """As in `Store`."""
        return await self._run(self._database.list, prefix, *more)

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """As in `Store`. A put under a lease that has ended counts as a compare that does not hold.

        Raises ValueError for more than `MOST_OPERATIONS` of either, or for two operations on one key.
        """
        if len(compare) > MOST_OPERATIONS or len(then) > MOST_OPERATIONS:
            raise ValueError(f"a transaction has at most {MOST_OPERATIONS} compares and {MOST_OPERATIONS} operations")
        if len({operation.key for operation in then}) < len(then):
            raise ValueError("a transaction writes a key once")
        return await self._run(self._write, self._database.transact, tuple(compare), tuple(then))

    async def grant(self, seconds: int) -> int:
        """As in `Store`. Raises ValueError for less than a second."""
        if seconds < 1:
            raise ValueError("a lease lasts a second at least")
        return await self._run(self._database.grant, seconds)

    async def sweep(self) -> None:
        """Remove the keys whose lease has ended, so that watches learn of it. Called each second by the daemon."""
        await self._run(self._write, self._database.sweep)

    async def leases(self) -> Mapping[str, int]:
        """When the lease of each key under one ends, microseconds of store time."""
        return await self._run(self._database.leases)

    async def changes(self, after: int) -> tuple[Sequence[Event], int]:
        """What has changed since that revision, and the revision of now. Raises Compacted."""
        events: list[Event] = []
        while True:
            batches, reached = await self._run(self._database.changes, "", after)
            events += [event for batch in batches for event in batch]
            if reached == after:
                return events, reached
            after = reached

    async def now(self) -> int:
        """As in `Store`."""
        return await self._run(self._database.now)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """As in `Store`. Raises StoreUnavailable when the store is closed."""
        watcher = Watcher(prefix, asyncio.get_running_loop())
        self._watchers.add(watcher)
        try:
            while True:
                watcher.woken.clear()  # before reading: what comes during it wakes us again
                batches, reached = await self._run(self._database.changes, prefix, after)
                for batch in batches:
                    yield batch
                if reached == after:
                    await watcher.woken.wait()
                after = reached
        finally:
            self._watchers.discard(watcher)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            future = self._thread.submit(work, *args, **kwargs)
        except RuntimeError as error:
            raise StoreUnavailable("the store is closed") from error
        try:
            return await asyncio.wrap_future(future)
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError):
            raise  # our mistakes
        except sqlite3.DatabaseError as error:
            raise StoreUnavailable(f"the store's file: {error}") from error

    def _write(self, work: Callable[P, Done], *args: P.args, **kwargs: P.kwargs) -> Outcome:
        """On the thread, so that watches are woken even when whoever asked was cancelled meanwhile."""
        done = work(*args, **kwargs)
        if done.touched:
            watchers = tuple(self._watchers)
            if done.outcome.revision - self._roused < self._database.history // 10:
                watchers = tuple(w for w in watchers if any(key.startswith(w.prefix) for key in done.touched))
            else:  # now and then everybody, or a watch of a quiet prefix would be overtaken by the end of history
                self._roused = done.outcome.revision
            self._wake(watchers)
        return done.outcome

    def _wake(self, watchers: Sequence[Watcher]) -> None:
        for watcher in watchers:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                watcher.loop.call_soon_threadsafe(watcher.woken.set)


class Database:
    """The statements. Made and used on one thread only, which sqlite3 checks."""

    def __init__(self, sql: sqlite3.Connection, clock: Clock, history: int) -> None:
        self._sql = sql
        self._clock = clock
        self.history = history
        self.time_step = 0
        self._began = (0, 0.0)
        self._began = (self.now(), clock.monotonic())

    @classmethod
    def open(cls, path: Path, clock: Clock, history: int) -> "Database":
        """Make or check the file, take its lock. Raises OperatorError."""
        make_private_file(path)
        sql = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            prepare(sql, path)
            database = cls(sql, clock, history)
            database.now()  # notices a clock that was set back while nobody was looking
        except sqlite3.Error as error:
            sql.close()
            raise refusal(path, error) from error
        except BaseException:
            sql.close()
            raise
        return database

    def close(self) -> None:
        """Move the WAL into the file and let go of both."""
        self._sql.close()

    def get(self, key: str) -> Record | None:
        """See `Store.get`."""
        rows = self._records(key.encode(), key.encode() + b"\0")
        return rows[0] if rows else None

    def list(self, prefix: str, *more: str) -> Listing:
        """See `Store.list`; nothing else comes in between, for there is one thread."""
        return Listing([record for one in sorted((prefix, *more)) for record in self._records(*span(one))],
                       self._revision())

    def now(self) -> int:
        """See `Store.now`."""
        clock = self._clock.now()
        row = self._sql.execute("SELECT value FROM record WHERE key = ?", (MARK.encode(),)).fetchone()
        began, ticks = self._began
        # a machine's clock that is set back does not give a token its time again: monotonic time goes on
        least = max(int(row[0]) if row else 0, began + int((self._clock.monotonic() - ticks) * SECOND) if began else 0)
        if least - clock > NOTICED_STEP:
            self.time_step = max(self.time_step, least - clock)
        return max(least, clock)

    def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Done:
        """See `Store.transact`."""
        with self._transaction():
            touched = [*self._settle(mark=any(c.key == MARK for c in compare))]
            succeeded = all(self._holds(c) for c in compare) and all(self._leased(operation) for operation in then)
            if succeeded:
                touched += self._apply(then)
            outcome = Outcome(succeeded, self._revision())
        return Done(outcome, touched)

    def sweep(self) -> Done:
        """Remove the keys whose lease has ended; while one runs, write `MARK`, so that a restart forgets no time."""
        with self._transaction():
            waits = self._sql.execute("SELECT 1 FROM lease LIMIT 1").fetchone() is not None
            touched = self._settle(mark=waits)
            outcome = Outcome(True, self._revision())
        return Done(outcome, touched)

    def grant(self, seconds: int) -> int:
        """See `Store.grant`."""
        with self._transaction():
            ends = self.now() + seconds * SECOND
            return int(self._sql.execute("INSERT INTO lease (ends) VALUES (?) RETURNING id", (ends,)).fetchone()[0])

    def leases(self) -> Mapping[str, int]:
        """See `SQLiteStore.leases`."""
        return {key.decode(): ends for key, ends in self._sql.execute(
            "SELECT key, ends FROM record JOIN lease ON lease.id = record.lease")}

    def changes(self, prefix: str, after: int) -> tuple[Sequence[Sequence[Event]], int]:
        """Batches of events under *prefix* above *after*, and the revision that they reach. Raises Compacted."""
        revision, compacted = self._sql.execute("SELECT revision, compacted FROM state").fetchone()
        if after < compacted:
            raise Compacted(f"revision {after} was asked for, {compacted} is the oldest")
        reached = max(after, min(revision, after + CHUNK))
        rows = self._sql.execute("SELECT revision, key, value FROM change WHERE revision > ? AND revision <= ? "
                                 "AND key >= ? AND key < ? ORDER BY revision, rowid", (after, reached, *span(prefix)))
        return [[Event(key.decode(), value, at) for at, key, value in batch]
                for _, batch in groupby(rows, itemgetter(0))], reached

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:  # some failures have rolled it back already
                self._sql.execute("ROLLBACK")
            raise

    def _settle(self, *, mark: bool = False) -> Sequence[str]:
        """Remove what has ended by now, and write `MARK` if it is going to decide."""
        now = self.now()
        ended = self._sql.execute(
            "SELECT key FROM record WHERE lease IN (SELECT id FROM lease WHERE ends <= ?) ORDER BY key", (now,))
        own: list[Operation] = [Delete(key.decode()) for key, in ended]
        self._sql.execute("DELETE FROM lease WHERE ends <= ?", (now,))
        if mark and not self._holds(Equal(MARK, mark_value(now))):
            own.append(Put(MARK, mark_value(now)))
        return self._apply(own)

    def _holds(self, compare: Compare) -> bool:
        """Whether a compare holds; after `_settle`, so that no key of an ended lease is left."""
        row = self._sql.execute("SELECT value, revision, created FROM record WHERE key = ?",
                                (compare.key.encode(),)).fetchone()
        if row is None:
            return isinstance(compare, Absent)
        match compare:
            case Absent():
                return False
            case Exists():
                return True
            case Unchanged(revision=revision):
                return bool(row[1] == revision)
            case Born(created=created):
                return bool(row[2] == created)
            case Equal(value=value):
                return bool(row[0] == value)
            case Below(value=value):
                return bool(row[0] < value)

    def _leased(self, operation: Operation) -> bool:
        """Whether the lease that an operation names, if any, still runs; after `_settle`."""
        if not isinstance(operation, Put) or operation.lease is None:
            return True
        return self._sql.execute("SELECT 1 FROM lease WHERE id = ?", (operation.lease,)).fetchone() is not None

    def _apply(self, operations: Sequence[Operation]) -> Sequence[str]:
        """Do *operations* at the next revision; the keys that changed."""
        if not operations:
            return []
        revision = self._revision() + 1
        touched = []
        for operation in operations:
            key = operation.key.encode()
            value = operation.value if isinstance(operation, Put) else None
            if isinstance(operation, Put):
                self._sql.execute("INSERT INTO record VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT (key) DO UPDATE "
                                  "SET value = ?2, revision = ?3, lease = ?4", (key, value, revision, operation.lease))
            elif self._sql.execute("DELETE FROM record WHERE key = ?", (key,)).rowcount == 0:
                continue  # was not there: nothing to tell
            self._sql.execute("INSERT INTO change VALUES (?, ?, ?)", (revision, key, value))
            touched.append(operation.key)
        oldest = revision - self.history
        self._sql.execute("UPDATE state SET revision = ?, compacted = max(compacted, ?)", (revision, oldest))
        self._sql.execute("DELETE FROM change WHERE revision <= ?", (oldest,))
        return touched

    def _revision(self) -> int:
        return int(self._sql.execute("SELECT revision FROM state").fetchone()[0])

    def _records(self, first: bytes, beyond: bytes) -> Sequence[Record]:
        """Records that stand now, from one key to before another.

        Writes nothing: reading goes on while the disk is full.
        """
        rows = self._sql.execute(
            "SELECT key, value, created, revision FROM record WHERE key >= ? AND key < ? "
            "AND (lease IS NULL OR lease IN (SELECT id FROM lease WHERE ends > ?)) ORDER BY key",
            (first, beyond, self.now()))
        return [Record(key.decode(), value, created, revision) for key, value, created, revision in rows]


def span(prefix: str) -> tuple[bytes, bytes]:
    """First key of a prefix, and the first beyond it. Exact: no UTF-8 text has a byte 0xff."""
    return prefix.encode(), prefix.encode() + b"\xff"


def files_of(path: Path) -> Sequence[Path]:
    """The store at *path*, and what SQLite keeps beside it."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def make_private_file(path: Path) -> None:
    """Make *path* 0600, or check it and what SQLite keeps beside it. SQLite gives those the mode of *path*."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)
    except FileExistsError:
        pass  # not opened here: closing it would drop the locks that SQLite may hold on it in this process
    except OSError as error:
        raise OperatorError("FL-STATE-UNWRITABLE", f"the store {path} cannot be made: {error.strerror}",
                            "check the state folder and its owner") from error
    for file in files_of(path):
        with contextlib.suppress(FileNotFoundError):
            mode = file.lstat().st_mode
            if not stat.S_ISREG(mode):
                raise OperatorError("FL-STORE-FOREIGN", f"{file} is not a plain file", "name the right state folder")
            if mode & 0o077:
                raise OperatorError("FL-STATE-OPEN", f"{file} is open to others (mode {stat.S_IMODE(mode):04o})",
                                    f"chmod 600 {file}")


def prepare(sql: sqlite3.Connection, path: Path) -> None:
    """Take the lock, see whose file it is, make the tables in a new one. Raises OperatorError, sqlite3.Error."""
    sql.execute("PRAGMA locking_mode = EXCLUSIVE")  # kept from the first reading until the end
    sql.execute("PRAGMA temp_store = MEMORY")
    application, = sql.execute("PRAGMA application_id").fetchone()
    version, = sql.execute("PRAGMA user_version").fetchone()
    tables, = sql.execute("SELECT count(*) FROM sqlite_master").fetchone()
    fresh = (application, version, tables) == (0, 0, 0)
    if not fresh and application != APPLICATION:
        raise foreign(path)
    if version > VERSION:
        raise OperatorError("FL-STORE-NEWER", f"the store {path} was written by a newer fairlead (format {version}, "
                            f"this one knows {VERSION})", "run the newer version, or restore a backup of this one's")
    sql.execute("PRAGMA journal_mode = WAL")
    sql.execute("PRAGMA synchronous = FULL")
    if fresh:  # one step: a crash leaves a fresh file, or a whole store
        sql.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; "
                          f"PRAGMA user_version = {VERSION}; COMMIT;")
    else:  # writes nothing, yet keeps readers of other processes out from now on
        sql.executescript("BEGIN IMMEDIATE; COMMIT;")
    found = [line for line, in sql.execute("PRAGMA quick_check(1)")]
    if found != ["ok"] or sql.execute("SELECT count(*) FROM state").fetchone() != (1,):
        raise damaged(path, str(found[0]))


def refusal(path: Path, error: sqlite3.Error) -> OperatorError:
    """What an error of SQLite while opening means to the operator."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return OperatorError("FL-STORE-LOCKED", f"another process has the store {path} open",
                                 "stop the fairlead that runs on this state folder, or name another with --state")
        case sqlite3.SQLITE_NOTADB:
            return foreign(path)
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return OperatorError("FL-DISK", f"the store {path} cannot be opened: {error}",
                                 "free some space or mend the disk, then start again; nothing was lost")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return OperatorError("FL-STATE-UNWRITABLE", f"the store {path} cannot be opened: {error}",
                                 "check the state folder and its owner")
        case _:
            return damaged(path, str(error))


def foreign(path: Path) -> OperatorError:
    """The file is something else."""
    return OperatorError("FL-STORE-FOREIGN", f"{path} is not a fairlead store, or its first page is destroyed",
                         "name the right state folder with --state, or restore a backup")


def damaged(path: Path, what: str) -> OperatorError:
    """The file was ours once."""
    return OperatorError("FL-STORE-DAMAGED", f"the store {path} is damaged: {what}", "restore a backup")
