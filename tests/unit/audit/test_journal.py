"""The journal of a node without a store: on the disk before it is answered, and whole after a crash."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.audit.journal import Journal
from fairlead.audit.record import AuditRecord, Entry, decode
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError, OperatorError, Refused

ENTRY = Entry("trust.pinned", "ctl-1", "join", {"fingerprint": "SHA256:abc"})


class Stopped:
    """A clock that stands still."""

    def now(self) -> int:
        return 1_767_225_600_000_000

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal.open(path, "se-1", Stopped())
    yield opened
    opened.close()


def reopened(journal: Journal, path: Path, node: str = "se-1") -> list[AuditRecord]:
    """The records that a restart finds, one more entry appended and everything verified."""
    journal.close()
    again = Journal.open(path, node, Stopped())
    try:
        again.append(Entry("restart", "", ""))
        again.verify()
        return list(again.records())
    finally:
        again.close()


def refused(path: Path, node: str = "se-1") -> str:
    with pytest.raises(FairleadError) as caught:
        Journal.open(path, node, Stopped())
    return caught.value.code


def test_records_are_lines_of_one_chain_and_go_on_after_a_restart(journal: Journal, path: Path) -> None:
    first = journal.append(ENTRY)
    second = journal.append(ENTRY)
    assert path.read_bytes() == first.encoded() + b"\n" + second.encoded() + b"\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (first.seq, first.node, first.time) == (1, "se-1", Stopped().now())
    assert journal.verify() == second.head()
    records = reopened(journal, path)
    assert records[:2] == [first, second]
    assert [r.seq for r in records] == [1, 2, 3]
    assert records[2].previous == second.head().hash


@pytest.mark.parametrize("torn", [b"{", b'{"by":"x","details"', b"\0" * 4096])
def test_a_torn_last_line_is_cut_off_and_recorded(journal: Journal, path: Path, torn: bytes) -> None:
    kept = journal.append(ENTRY)
    with path.open("ab") as file:
        file.write(torn)
    _, noted, _ = records = reopened(journal, path)
    assert records[0] == kept
    assert (noted.event, noted.details) == ("journal.torn", {"bytes": len(torn)})


def test_a_first_line_that_is_torn(journal: Journal, path: Path) -> None:
    path.write_bytes(b'{"by"')
    assert [r.event for r in reopened(journal, path)] == ["journal.torn", "restart"]


def test_a_failed_append_leaves_the_journal_as_it_was(journal: Journal, path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    kept = journal.append(ENTRY)

    def half(file: int, data: bytes, position: int) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return pwrite(file, data[:len(data) - 50], position)

    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(OperatorError, match="No space") as caught:
            journal.append(ENTRY)
        assert caught.value.code == "FL-DISK"
        assert path.read_bytes() == kept.encoded() + b"\n"
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(OperatorError):
            journal.append(Entry("long" * 100, "", ""))
    following = journal.append(ENTRY)
    assert path.read_bytes() == kept.encoded() + b"\n" + following.encoded() + b"\n"
    journal.verify()


def test_a_record_is_synced_before_it_is_answered(journal: Journal, path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: synced.append(path.stat().st_size))
        record = journal.append(ENTRY)
    assert synced == [len(record.encoded()) + 1]


@pytest.mark.parametrize(("content", "where"), [
    (lambda lines: lines[1:], "record 1"), (lambda lines: [lines[0], lines[2]], "record 2"),
    (lambda lines: [lines[0], lines[1].replace(b"ctl-1", b"ctl-9"), lines[2]], "record 3"),
    (lambda lines: [lines[0], b"{}", lines[2]], "line 2"),
    (lambda lines: [lines[0] + b"\r" + lines[1], lines[2]], "line 1"),
])
def test_what_was_done_to_the_file_shows(journal: Journal, path: Path, content: object, where: str) -> None:
    for _ in range(3):
        journal.append(ENTRY)
    assert callable(content)
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"\n".join(content(lines)) + b"\n")
    journal.close()
    again = Journal.open(path, "se-1", Stopped())
    with pytest.raises(Refused, match=where) as caught:
        again.verify()
    assert caught.value.code == "FL-AUDIT-BROKEN"
    again.close()


def test_a_cut_end_shows_while_it_is_open_and_against_a_noted_head(journal: Journal, path: Path) -> None:
    journal.append(ENTRY)
    head = journal.append(ENTRY).head()
    whole = path.read_bytes()
    path.write_bytes(whole[:whole.index(b"\n") + 1])
    with pytest.raises(Refused, match="record 2"):
        journal.verify()
    journal.close()
    again = Journal.open(path, "se-1", Stopped())
    again.verify()  # nothing here knows better
    with pytest.raises(Refused, match="record 2"):
        again.verify(head)
    again.close()


def test_a_whole_last_line_that_is_no_record_is_refused(journal: Journal, path: Path) -> None:
    journal.append(ENTRY)
    journal.close()
    path.write_bytes(path.read_bytes().replace(b"ctl-1", b"ctl-1\\u0020"))
    assert refused(path) == "FL-AUDIT-BROKEN"


def test_the_journal_of_another_node_is_refused(journal: Journal, path: Path) -> None:
    journal.append(ENTRY)
    journal.close()
    assert refused(path, "se-2") == "FL-AUDIT-BROKEN"


def test_open_to_others_a_link_or_no_folder_is_refused(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.touch()
    shown.chmod(0o644)
    assert refused(shown) == "FL-STATE-OPEN"
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").touch(0o600)
    assert refused(tmp_path / "link") == "FL-STATE-UNWRITABLE"
    assert refused(tmp_path / "none" / "audit.jsonl") == "FL-STATE-UNWRITABLE"


def test_one_process_at_a_time(journal: Journal, path: Path) -> None:
    assert refused(path) == "FL-AUDIT-LOCKED"
    journal.append(ENTRY)


WRITER = """
import sys
from pathlib import Path
from fairlead.audit.journal import Journal
from fairlead.audit.record import Entry
from fairlead.base.clock import SystemClock
journal = Journal.open(Path(sys.argv[1]), "se-1", SystemClock())
while True:
    print(journal.append(Entry("e", "s" * 900, "b")).seq, flush=True)
"""


def test_kill_9_loses_no_answered_record(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 100:
                writer.kill()
                break
        answered = int((writer.stdout.read().split() or ["100"])[-1])
    journal = Journal.open(path, "se-1", SystemClock())
    assert journal.verify().seq >= answered
    assert decode(path.read_bytes().split(b"\n")[0], "line 1").seq == 1
    journal.close()
