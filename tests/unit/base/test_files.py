"""The state folder: private, and never half written."""

import os
import stat
from pathlib import Path

import pytest

from fairlead.base import files
from fairlead.base.errors import OperatorError
from tests.disk import fills_up


def code(call: object, *given: object) -> str:
    with pytest.raises(OperatorError) as caught:
        call(*given)  # type: ignore[operator]
    return caught.value.code


def test_what_is_written_is_private_and_whole(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files.write_private(tmp_path / "f", b"one")
        files.make_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert files.read_private(tmp_path / "f") == b"one"
    files.write_private(tmp_path / "f", b"two")
    assert files.read_private(tmp_path / "f") == b"two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "f"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_content_and_no_litter(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    files.write_private(tmp_path / "f", b"one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full)
    assert code(files.write_private, tmp_path / "f", b"two") == "FL-DISK"
    monkeypatch.undo()
    assert files.read_private(tmp_path / "f") == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_at_the_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    files.write_private(tmp_path / "f", b"ours")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert not (tmp_path / "f").is_symlink()


def test_what_is_appended_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = os.open(tmp_path / "f", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        with monkeypatch.context() as patch:
            fills_up(patch, 1000)
            files.append(handle, b"a" * 900)
            with pytest.raises(OSError, match="space"):
                files.append(handle, b"b" * 200)
            files.append(handle, b"c" * 100)
        files.append(handle, b"d")
    finally:
        os.close(handle)
    assert (tmp_path / "f").read_bytes() == b"a" * 900 + b"c" * 100 + b"d"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_what_others_may_read_or_write_is_not_read(tmp_path: Path, mode: int) -> None:
    files.write_private(tmp_path / "f", b"x")
    (tmp_path / "f").chmod(mode)
    assert code(files.read_private, tmp_path / "f") == "FL-STATE-OPEN"


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o777, 0o701])
def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    folder.chmod(mode)
    assert code(files.check_private_folder, folder) == "FL-STATE-OPEN"
    assert code(files.make_private_folder, folder) == "FL-STATE-OPEN"


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert code(files.check_private_folder, tmp_path / "f") == "FL-STATE-MISSING"
    assert code(files.check_private_folder, tmp_path / "nowhere") == "FL-STATE-MISSING"
    assert code(files.make_private_folder, tmp_path / "f" / "s") == "FL-STATE-UNWRITABLE"
    with pytest.raises(FileNotFoundError):
        files.read_private(tmp_path / "nowhere")
    assert code(files.read_private, tmp_path) in ("FL-STATE-OPEN", "FL-STATE-UNREADABLE")


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert code(files.check_private_folder, tmp_path) == "FL-STATE-OWNER"


def test_remove(tmp_path: Path) -> None:
    files.write_private(tmp_path / "f", b"x")
    files.remove(tmp_path / "f")
    files.remove(tmp_path / "f")
    assert not (tmp_path / "f").exists()
