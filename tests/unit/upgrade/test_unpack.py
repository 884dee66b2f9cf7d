"""Only what was verified is written, and only where it belongs."""

import errno
import os
import random
import stat
import struct
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fairlead.base.errors import OperatorError, Refused
from fairlead.upgrade import unpack as module
from fairlead.upgrade import wheel as wheels
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.unpack import unpack
from fairlead.upgrade.verify import verify
from fairlead.upgrade.wheel import for_this_machine
from tests.unit.upgrade.ground import NOW, Publisher, opened
from tests.unit.upgrade.wheels import CONTENT, INFO, NAME, entry, record, wheel

ROOT = Publisher().roots[0]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "version"
    folder.mkdir(0o700)
    return folder


def unpacked(files: Mapping[str, bytes], into: Path, meanwhile: Callable[[int, bytes], object] | None = None) -> None:
    """Verify a bundle of *files* and unpack it; *meanwhile* gets the descriptor and what is in it."""
    data = Publisher(files=files).bundle()
    with opened(data) as fd:
        found = verify(fd, ROOT, Seen(), NOW)
        if meanwhile:
            meanwhile(fd, data)
        unpack(fd, found, into)


def refused(files: Mapping[str, bytes], into: Path, code: str = "WHEEL",
            meanwhile: Callable[[int, bytes], object] | None = None) -> str:
    with pytest.raises(Refused) as caught:
        unpacked(files, into, meanwhile)
    assert caught.value.code == f"FL-UPGRADE-{code}", caught.value.message
    assert caught.value.line().isprintable()
    assert list(into.iterdir()) == [], "what was written is gone"
    return caught.value.message


def written(into: Path) -> dict[str, bytes]:
    return {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def test_files_and_wheels_are_written_where_they_belong_and_for_their_owner_only(into: Path) -> None:
    extra = {"thing-1.0.data/purelib/pure.py": b"p", "thing-1.0.data/platlib/thing/plat.so": b"so",
             "thing-1.0.data/scripts/run": b"#!python", "thing-1.0.data/data/share/man": b"m",
             "thing-1.0.data/headers/thing.h": b"h"}
    before = os.umask(0)
    try:
        unpacked({"notes/read.me": b"hello", f"wheels/{NAME}": wheel(CONTENT | extra)}, into)
    finally:
        os.umask(before)
    assert written(into) == {
        "files/notes/read.me": b"hello", "lib/pure.py": b"p", "lib/thing/plat.so": b"so",
        **{f"lib/{path}": data for path, data in CONTENT.items()}, f"lib/{INFO}/RECORD": record(CONTENT | extra)}
    for path in into.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_two_wheels_may_share_a_folder_and_no_file(into: Path) -> None:
    other = "other-1.0-py3-none-any.whl"
    info = "other-1.0.dist-info"
    unpacked({NAME: wheel(), other: wheel({"thing/more.py": b""}, info=info)}, into)
    assert {"lib/thing/__init__.py", "lib/thing/more.py"} <= set(written(into))


@pytest.mark.parametrize("path", ["thing/__init__.py", "thing/__INIT__.py", "Thing/new.py", "thing/ｄata.txt", "thing"])
def test_attack_two_wheels_bring_one_file(into: Path, path: str) -> None:
    other = wheel({path: b""}, info="other-1.0.dist-info")
    assert "two wheels" in refused({NAME: wheel(), "other-1.0-py3-none-any.whl": other}, into)


# -- what was verified is what is written (RAUC, CVE-2020-25860) ------------------------------------------------------

def test_attack_the_file_is_rewritten_between_verification_and_unpacking(into: Path) -> None:
    evil = Publisher("stranger", files={"a.cfg": b"evil", NAME: wheel()}).bundle()
    files = {"a.cfg": b"good", NAME: wheel()}
    refused(files, into, "CHANGED", lambda fd, data: os.pwrite(fd, evil, 0))
    for what in (b"good", b"PK\3\4"):
        refused(files, into, "CHANGED", lambda fd, data, what=what: os.pwrite(fd, b"evil", data.rindex(what)))  # type: ignore[misc]
    refused(files, into, "CHANGED", lambda fd, data: os.ftruncate(fd, data.index(b"good")))


def test_attack_a_thread_rewrites_the_file_while_it_is_unpacked(into: Path) -> None:
    good = {"a.bin": b"g" * 200_000, "b.bin": b"h" * 200_000}
    evil = Publisher(files=dict.fromkeys(good, b"e" * 200000)).bundle()
    over, outcomes = threading.Event(), set[str]()
    data = Publisher(files=good).bundle()
    with opened(data) as fd:
        found = verify(fd, ROOT, Seen(), NOW)

        def rewrite() -> None:
            while not over.is_set():
                os.pwrite(fd, evil, 0)
                os.pwrite(fd, data, 0)

        thread = threading.Thread(target=rewrite)
        thread.start()
        try:
            for number in range(40):
                folder = into / str(number)
                folder.mkdir(0o700)
                try:
                    unpack(fd, found, folder)
                    outcomes.add("good")
                except Refused as error:
                    outcomes.add(error.code)
                    assert not written(folder)
                else:
                    assert written(folder) == {f"files/{path}": text for path, text in good.items()}
        finally:
            over.set()
            thread.join()
    assert outcomes <= {"good", "FL-UPGRADE-CHANGED"}


def test_attack_another_file_takes_the_path(into: Path, tmp_path: Path) -> None:
    """The descriptor is what was verified; nobody looks at the path again."""
    path = tmp_path / "bundle"
    path.write_bytes(Publisher(files={"a.cfg": b"good"}).bundle())
    fd = os.open(path, os.O_RDONLY)
    try:
        found = verify(fd, ROOT, Seen(), NOW)
        (tmp_path / "evil").write_bytes(Publisher("stranger", files={"a.cfg": b"evil"}).bundle())
        (tmp_path / "evil").replace(path)
        unpack(fd, found, into)
    finally:
        os.close(fd)
    assert written(into) == {"files/a.cfg": b"good"}


def test_a_full_disk_leaves_nothing(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    for after in range(5):
        left = iter(range(after))

        def fsync(fd: int, left: "object" = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OperatorError) as caught:
            unpacked({"a.cfg": b"good", NAME: wheel()}, into)
        assert caught.value.code == "FL-DISK"
        assert list(into.iterdir()) == []


# -- hostile wheels ---------------------------------------------------------------------------------------------------

LINK, FIFO, DEVICE, SOCKET, FOLDER = 0o120777, 0o010644, 0o060644, 0o140644, 0o040755


@pytest.mark.parametrize("mode", [LINK, FIFO, DEVICE, SOCKET, FOLDER],
                         ids=["link", "fifo", "device", "socket", "folder-with-content"])
def test_attack_what_is_no_regular_file(into: Path, mode: int) -> None:
    name = "thing/evil" + ("/" if mode == FOLDER else "")
    content = CONTENT | {name: b"/etc/passwd"}
    made = wheel(CONTENT, [(entry(name, mode), b"/etc/passwd")], listed=record(content))
    assert "evil" in refused({NAME: made}, into)


@pytest.mark.parametrize("path", [
    "/etc/passwd", "../evil", "thing/../../evil", "thing/./evil", "./evil", "thing//evil", "..", ".", "~/x:y",
    "C:/evil", "thing\\..\\evil", "thing/ev\nil", "thing/ev\x1bil", "thing/evil ", "thing/evil.", "thing/ev\u202eil",
    "thing/e\u0301vil", "x/" * 30 + "evil", "e" * 201, "thing/con|", "thing/evil\0.py"])
def test_attack_a_path_that_leads_elsewhere(into: Path, path: str) -> None:
    content = CONTENT | {path: b"evil"}
    made = wheel(content) if "\0" not in path else wheel(CONTENT | {path.replace("\0", "#"): b"evil"}).replace(
        b"evil#.py", b"evil\0.py")
    refused({NAME: made}, into)
    assert not (into.parent / "evil").exists()


@pytest.mark.parametrize("path", ["thing/__INIT__.py", "thing/DATA.TXT", "THING/more.py", "thing/__init__.py/x",
                                  "thing/ﬁle.py", "thing/data.txt"])
def test_attack_names_that_are_one_to_a_file_system(into: Path, path: str) -> None:
    content = CONTENT | {"thing/file.py": b""}
    if path in content:
        with pytest.warns(UserWarning, match="Duplicate"):
            refused({NAME: wheel(content, [(path, b"other")])}, into)
    else:
        assert "two wheels" not in refused({NAME: wheel(content | {path: b""})}, into)


def test_attack_a_bomb(into: Path) -> None:
    assert "times its size" in refused({NAME: wheel(CONTENT | {"bomb": bytes(8 << 20)})}, into)


def test_attack_bombs_of_count_and_of_size(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "MOST_ENTRY_BYTES", 100_000)
    assert "more than" in refused({NAME: wheel(CONTENT | {"large": random.Random(1).randbytes(100_001)})}, into)
    for room in (wheels.Room(bytes_left=3000), wheels.Room(entries_left=6)):
        monkeypatch.setattr(module, "Room", lambda room=room: room)
        two = {NAME: wheel(), "other-1.0-py3-none-any.whl": wheel({"o": b""}, info="other-1.0.dist-info")}
        room.bytes_left = min(room.bytes_left, 2800)
        assert "more than" in refused(two, into)


def test_attack_more_inflates_than_is_said(into: Path) -> None:
    """In front and in the directory alike: 100 of 2500 bytes."""
    made = wheel()
    sizes = struct.pack("<L", len(CONTENT["thing/data.txt"]))
    assert made.count(sizes) == 2
    refused({NAME: made.replace(sizes, struct.pack("<L", 100))}, into)
    refused({NAME: made.replace(sizes, struct.pack("<L", 5000))}, into)


def test_attack_two_readings_of_one_archive(into: Path) -> None:
    made = wheel()
    local, central = made.index(b"PK\3\4"), made.index(b"PK\1\2")
    changes: list[bytes] = [
        made[:local + 6] + b"\x01" + made[local + 7:],  # encrypted, in front only
        made[:central + 8] + b"\x01" + made[central + 9:],  # and in the directory only
        made[:local + 8] + b"\0" + made[local + 9:],  # stored, in front
        made[:local + 14] + b"xxxx" + made[local + 18:],  # the check sum, in front
        made.replace(b"thing/__init__.py", b"thing/__main__.py", 1),  # the name, in front
        b"#!/bin/sh\n" + made,  # something before it
        made + b"behind",
        made[:-2] + b"\x05\0hello",  # a comment
        made[:central] + b"between" + made[central:-6] + struct.pack("<LH", central + 7, 0),
    ]
    for number, changed in enumerate(changes):
        assert changed != made, number
        refused({NAME: changed}, into)


def test_attack_two_entries_share_their_bytes(into: Path) -> None:
    made = wheel()
    at = [n for n in range(len(made)) if made.startswith(b"PK\1\2", n)][1]
    refused({NAME: made[:at + 42] + bytes(4) + made[at + 46:]}, into)


def test_attack_an_entry_that_streams_its_length(into: Path) -> None:
    made = wheel()
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = made.index(magic) + offset
        made = made[:at] + b"\x08" + made[at + 1:]
    assert "in front" in refused({NAME: made}, into)


def test_a_wheel_is_stored_or_deflated(into: Path) -> None:
    odd = entry("thing/odd")
    odd.compress_type = zipfile.ZIP_LZMA
    refused({NAME: wheel(CONTENT, [(odd, b"x" * 1000)], listed=record(CONTENT | {"thing/odd": b"x" * 1000}))}, into)


@pytest.mark.parametrize(("what", "made"), [
    ("unlisted", wheel(CONTENT, [("thing/evil.py", b"evil")])),
    ("absent", wheel(CONTENT, listed=record(CONTENT | {"thing/absent": b""}))),
    ("other", wheel(CONTENT, listed=record(CONTENT | {"thing/__init__.py": b"x = 2\n"}))),
    ("md5", wheel(CONTENT, listed=record(CONTENT).replace(b"sha256=", b"md5="))),
    ("unhashed", wheel(CONTENT, listed=b"\n".join(line.split(b",")[0] + b",," for line in record(CONTENT).split()))),
    ("twice", wheel(CONTENT, listed=record(CONTENT) + record(CONTENT))),
    ("columns", wheel(CONTENT, listed=record(CONTENT).replace(b",", b";"))),
    ("none", wheel(CONTENT, listed=b"")),
    ("latin", wheel(CONTENT, listed=b"\xff")),
    ("not-its-own", wheel(CONTENT | {"other-1.0.dist-info/METADATA": b""})),
    ("foreign-data", wheel(CONTENT | {"other-1.0.data/purelib/x.py": b""})),
    ("unknown-data", wheel(CONTENT | {"thing-1.0.data/etc/passwd": b""})),
    ("no-zip", b"PK"), ("no-zip-either", b"x" * 4096), ("empty", b"")],
    ids=lambda value: value if isinstance(value, str) else "")
def test_what_record_does_not_name_is_not_unpacked(into: Path, what: str, made: bytes) -> None:
    refused({NAME: made}, into)


def test_a_folder_of_its_own_is_no_harm(into: Path) -> None:
    unpacked({NAME: wheel(CONTENT, [(entry("thing/", FOLDER), b"")])}, into)
    assert "lib/thing/__init__.py" in written(into)


@pytest.mark.parametrize(("tags", "fits"), [
    ("py3-none-any", True), ("py2.py3-none-any", True), ("py311-none-any", True), ("cp311-abi3-any", True),
    ("cp36-abi3-manylinux_2_34_{m}", True), ("cp3{n}-cp3{n}-manylinux2014_{m}.manylinux_2_17_{m}", True),
    ("cp3{n}-cp3{n}-linux_{m}", True), ("cp3{n}-none-any", True),
    ("py2-none-any", False), ("cp310-cp310-manylinux_2_17_{m}", False), ("cp3999-abi3-any", False),
    ("pp310-pypy310_pp73-manylinux_2_17_{m}", False), ("py3-none-win_amd64", False),
    ("cp3{n}-cp3{n}-macosx_11_0_arm64", False), ("cp3{n}-cp3{n}-manylinux_2_17_sparc", False),
    ("cp3{n}-cp3{n}t-manylinux_2_17_{m}", False), ("py3999-none-any", False)])
def test_a_wheel_for_another_machine_is_refused_before_anything_runs(tags: str, fits: bool) -> None:
    name = f"thing-1.0-{tags.format(m=os.uname().machine, n=sys.version_info[1])}.whl"
    if fits:
        assert for_this_machine(name) == "thing-1.0"
        return
    with pytest.raises(Refused, match="it is for"):
        for_this_machine(name)


@pytest.mark.parametrize("name", ["thing.whl", "thing-1.0.whl", "-1.0-py3-none-any.whl", "thing-1.0-py3-none-any.zip"])
def test_what_is_not_named_as_a_wheel_is_none(name: str) -> None:
    with pytest.raises(Refused):
        for_this_machine(name)
