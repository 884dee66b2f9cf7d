"""What only the SQLite store promises: its file, its lock, its clock, and what a crash or a full disk leaves."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from fairlead.base.clock import HOUR, SECOND
from fairlead.base.errors import OperatorError
from fairlead.store.protocol import MARK, Below, Event, Exists, Put, StoreUnavailable, mark_value
from fairlead.store.sqlite import APPLICATION, VERSION, SQLiteStore

START = 1_767_225_600 * SECOND


class ManualClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.instant = START
        self.elapsed = 0.0

    def now(self) -> int:
        return self.instant

    def monotonic(self) -> float:
        return self.elapsed


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SQLiteStore]:
    opened = SQLiteStore.open(path, clock)
    yield opened
    await opened.close()


def refused(path: Path) -> str:
    with pytest.raises(OperatorError) as caught:
        SQLiteStore.open(path, ManualClock())
    return caught.value.code


def refused_untouched(path: Path) -> str:
    content = path.read_bytes()
    code = refused(path)
    assert path.read_bytes() == content
    return code


# --- the file


async def test_every_file_is_private_whatever_the_umask(path: Path, clock: ManualClock) -> None:
    before = os.umask(0)
    try:
        store = SQLiteStore.open(path, clock)
        await store.transact([], [Put("a", b"")])
        names = {file.name for file in path.parent.iterdir()}
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert "store.db-wal" in names
    assert modes == {0o600}


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_open_to_others_is_refused(store: SQLiteStore, path: Path, suffix: str) -> None:
    await store.close()
    file = path.with_name(path.name + suffix)
    file.touch()
    file.chmod(0o640)
    assert refused(path) == "FL-STATE-OPEN"


async def test_writes_reach_the_disk_before_they_are_answered(store: SQLiteStore) -> None:
    sql = store._database._sql

    def ask(setting: str) -> object:
        return sql.execute(f"PRAGMA {setting}").fetchone()[0]
    settings = [store._thread.submit(ask, s).result() for s in ("journal_mode", "synchronous", "locking_mode")]
    assert settings == ["wal", 2, "exclusive"]


@pytest.mark.parametrize("content", [b"hello", b"\0" * 8192, b"not a store " * 1000])
def test_a_file_that_is_no_database_is_foreign_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    assert refused_untouched(path) == "FL-STORE-FOREIGN"


def test_somebody_elses_database_is_foreign_and_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.executescript("CREATE TABLE theirs (a)")
    path.chmod(0o600)
    assert refused_untouched(path) == "FL-STORE-FOREIGN"


def test_a_folder_or_a_link_in_its_place_is_foreign(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "other")
    (tmp_path / "other").touch(0o600)
    assert refused(path) == "FL-STORE-FOREIGN"
    path.unlink()
    path.mkdir(0o700)
    assert refused(path) == "FL-STORE-FOREIGN"


def test_no_folder_to_make_it_in(tmp_path: Path) -> None:
    assert refused(tmp_path / "none" / "store.db") == "FL-STATE-UNWRITABLE"


async def test_a_newer_store_is_refused_and_left_alone(store: SQLiteStore, path: Path) -> None:
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert refused_untouched(path) == "FL-STORE-NEWER"


async def test_a_damaged_store_is_refused(store: SQLiteStore, path: Path) -> None:
    for number in range(200):
        await store.transact([], [Put(f"k/{number}", os.urandom(200))])
    await store.close()
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(os.urandom(4096))
    assert refused(path) == "FL-STORE-DAMAGED"


def test_a_store_without_its_tables_is_damaged(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.executescript(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};")
    path.chmod(0o600)
    assert refused(path) == "FL-STORE-DAMAGED"


def test_a_crash_while_it_was_made_leaves_a_file_that_opens(path: Path, clock: ManualClock) -> None:
    with contextlib.closing(sqlite3.connect(path)) as sql:
        sql.execute("PRAGMA journal_mode = WAL")  # as far as it got
    path.chmod(0o600)
    asyncio.run(SQLiteStore.open(path, clock).close())


# --- the lock

OTHER_PROCESS = """
import sys
from pathlib import Path
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.store.sqlite import SQLiteStore
try:
    SQLiteStore.open(Path(sys.argv[1]), SystemClock())
except FairleadError as error:
    print(error.code)
"""


async def test_one_process_at_a_time(store: SQLiteStore, path: Path) -> None:
    def from_elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(path)], check=True, capture_output=True,
                              text=True, timeout=60).stdout.strip()

    assert from_elsewhere() == "FL-STORE-LOCKED"  # also before anything was written
    assert refused(path) == "FL-STORE-LOCKED"  # in the same process; and it does not loosen the lock:
    await store.transact([], [Put("a", b"")])
    assert from_elsewhere() == "FL-STORE-LOCKED"
    await store.close()
    assert from_elsewhere() == ""


# --- crash, full disk

WRITER = """
import asyncio, sys
from pathlib import Path
from fairlead.base.clock import SystemClock
from fairlead.store.protocol import Put
from fairlead.store.sqlite import SQLiteStore
async def main():
    store = SQLiteStore.open(Path(sys.argv[1]), SystemClock())
    for number in range(1_000_000):
        await store.transact([], [Put(f"a/{number:09d}", b"x" * 500), Put(f"b/{number:09d}", b"y" * 500)])
        print(number, flush=True)
asyncio.run(main())
"""


def write_until_killed(path: Path, enough: int) -> int:
    """The last number that the writer was answered for, having got to *enough* at least."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == enough:
                writer.kill()
                break
        return int((writer.stdout.read().split() or [str(enough)])[-1])


async def test_kill_9_loses_no_answered_write_and_halves_none(path: Path, clock: ManualClock) -> None:
    for round_number in range(1, 4):
        answered = write_until_killed(path, 150 * round_number)
        store = SQLiteStore.open(path, clock)
        a, b = await store.list("a/"), await store.list("b/")
        await store.close()
        assert len(a.records) > answered
        assert [r.key[2:] for r in a.records] == [r.key[2:] for r in b.records]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=False,
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_undoes_the_whole_transaction_and_reading_goes_on(small_disk: Path,
                                                                         clock: ManualClock) -> None:
    store = SQLiteStore.open(small_disk / "store.db", clock)
    try:
        lease = await store.grant(1)
        await store.transact([], [Put("leased", b"", lease)])
        pairs = 0
        with pytest.raises(StoreUnavailable, match="full"):
            while pairs < 1000:
                await store.transact([], [Put(f"a/{pairs}", b"x" * 3000), Put(f"b/{pairs}", b"y" * 3000)])
                pairs += 1
        assert pairs > 5
        clock.instant += 2 * SECOND
        listing = await store.list("")
        assert len(listing.records) == 2 * pairs
        assert listing.revision == pairs + 1
        watch = store.watch("", pairs)
        assert [e.key for e in await anext(watch)] == [f"a/{pairs - 1}", f"b/{pairs - 1}"]
    finally:
        await store.close()
    store = SQLiteStore.open(small_disk / "store.db", clock)
    assert len((await store.list("")).records) == 2 * pairs
    await store.close()


async def test_a_transaction_that_breaks_in_the_middle_is_undone(store: SQLiteStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):  # our own mistake, and not dressed up as the disk's
        await store.transact([], [Put("a", b""), Put("b", cast("bytes", "text"))])
    listing = await store.list("")
    assert (listing.records, listing.revision) == ([], 0)
    assert (await store.transact([], [Put("c", b"")])).succeeded


# --- watches


async def test_a_watch_that_was_woken_rests_again(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    changes = store._database.changes

    def counted(prefix: str, after: int) -> tuple[Sequence[Sequence[Event]], int]:
        nonlocal reads
        reads += 1
        return changes(prefix, after)

    monkeypatch.setattr(store._database, "changes", counted)
    waiting = asyncio.ensure_future(take_two(store))
    for number in range(2):
        for _ in range(20):
            await store.get("a")
        await store.transact([], [Put(f"elsewhere/{number}", b""), Put("a", b"")])
    await asyncio.wait_for(waiting, 10)
    assert reads <= 8  # one to find, one to see that there is no more; not one per turn of the loop


async def take_two(store: SQLiteStore) -> None:
    watch = store.watch("a", 0)
    for _ in range(2):
        await anext(watch)


# --- closing


async def test_after_closing_everything_is_unavailable_and_watches_end(store: SQLiteStore) -> None:
    waiting = asyncio.ensure_future(anext(store.watch("", 0)))
    await store.get("a")
    writing = [asyncio.ensure_future(store.transact([], [Put(f"k/{n}", b"")])) for n in range(5)]
    await asyncio.sleep(0)  # they are under way
    await asyncio.gather(store.close(), store.close())
    assert all(outcome.succeeded for outcome in await asyncio.gather(*writing))
    with contextlib.suppress(StoreUnavailable):
        await waiting  # it may have seen the first of the writes
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("a")
    with pytest.raises(StoreUnavailable, match="closed"):
        await anext(store.watch("", 0))


async def test_a_waiting_watch_ends_when_the_store_is_closed(store: SQLiteStore) -> None:
    waiting = asyncio.ensure_future(anext(store.watch("", 0)))
    for _ in range(3):
        await store.get("a")
    await store.close()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(waiting, 10)


async def test_a_write_whose_caller_was_cancelled_still_wakes_watches(store: SQLiteStore) -> None:
    waiting = asyncio.ensure_future(anext(store.watch("", 0)))
    for _ in range(3):
        await store.get("a")
    writing = asyncio.ensure_future(store._run(store._write, store._database.transact, [], [Put("a", b"")]))
    store._thread.submit(lambda: None).result()  # the thread is idle: the next statement starts at once
    await asyncio.sleep(0)
    store._thread.submit(lambda: None).result()  # written, and not yet told
    writing.cancel()
    assert [e.key for e in await asyncio.wait_for(waiting, 10)] == ["a"]


# --- the clock


async def test_the_mark_is_the_clock_read_in_the_transaction_even_when_it_fails(store: SQLiteStore,
                                                                               clock: ManualClock) -> None:
    assert await store.get(MARK) is None
    await store.transact([], [Put("a", b"")])
    assert await store.get(MARK) is None  # nobody asked about time
    clock.instant += 7
    assert not (await store.transact([Below(MARK, mark_value(START))], [Put("b", b"")])).succeeded
    mark = await store.get(MARK)
    assert mark is not None
    assert mark.value == mark_value(START + 7)
    assert await store.get("b") is None
    again = await store.transact([Exists(MARK)], [])
    assert again.revision == mark.revision  # the same instant is not written twice


async def test_a_clock_that_is_set_back_neither_reopens_a_deadline_nor_goes_unnoticed(
        store: SQLiteStore, path: Path, clock: ManualClock) -> None:
    deadline = Below(MARK, mark_value(START + HOUR))
    clock.instant += HOUR
    assert not (await store.transact([deadline], [])).succeeded
    clock.instant -= SECOND
    assert not (await store.transact([deadline], [])).succeeded
    assert store.time_step == 0  # clocks are disciplined all the time
    clock.instant -= 2 * HOUR
    assert not (await store.transact([deadline], [])).succeeded
    assert await store.now() == START + HOUR
    assert store.time_step == 2 * HOUR + SECOND
    clock.instant += SECOND
    await store.now()
    assert store.time_step == 2 * HOUR + SECOND  # the worst is remembered
    await store.close()
    reopened = SQLiteStore.open(path, clock)
    try:
        assert reopened.time_step == 2 * HOUR
        assert not (await reopened.transact([deadline], [])).succeeded
    finally:
        await reopened.close()


async def test_keys_of_an_ended_lease_are_gone_before_they_are_swept(store: SQLiteStore, clock: ManualClock) -> None:
    lease = await store.grant(5)
    put = await store.transact([], [Put("a", b"", lease)])
    clock.instant += 5 * SECOND
    assert await store.get("a") is None
    assert not (await store.list("")).records
    assert not (await store.transact([Exists("a")], [])).succeeded  # and this one deletes them
    assert [(e.key, e.value) for e in await anext(store.watch("", put.revision))] == [("a", None)]


async def test_a_sweep_tells_watches_and_without_anything_to_do_changes_nothing(store: SQLiteStore,
                                                                               clock: ManualClock) -> None:
    before = (await store.list("")).revision
    await store.sweep()
    assert (await store.list("")).revision == before
    lease = await store.grant(5)
    put = await store.transact([], [Put("a", b"", lease)])
    waiting = asyncio.ensure_future(anext(store.watch("a", put.revision)))
    for _ in range(3):
        await store.get("a")
    clock.instant += 5 * SECOND
    await store.sweep()
    assert [(e.key, e.value) for e in await asyncio.wait_for(waiting, 10)] == [("a", None)]


async def test_a_clock_that_is_set_back_gives_no_time_again(store: SQLiteStore, clock: ManualClock) -> None:
    """Attack: the machine's clock is set back by an hour while a token is open; its deadline comes all the same."""
    issued = await store.now()
    await store.transact([], [Put("live", b"", await store.grant(600))])
    await store.sweep()  # as the daemon does each second
    clock.instant -= 3600 * SECOND
    clock.elapsed += 601
    assert await store.now() >= issued + 601 * SECOND
    assert not (await store.transact([Below(MARK, mark_value(issued + 600 * SECOND))], [Put("late", b"")])).succeeded
    assert not (await store.transact([Exists("live")], [Put("late", b"")])).succeeded
    assert store.time_step >= 3600 * SECOND
