"""The disk that the stories of crashes stand on keeps what its calls have promised, and only that."""

import os
from pathlib import Path

import pytest

from fairlead.base import files
from tests.disk import Disk


def test_a_file_that_was_synced_once_survives_any_number_of_power_cuts(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the file system gives it the inode of a file that is gone, time and again."""
    (root := tmp_path / "disk").mkdir()
    disk = Disk(root, monkeypatch)
    files.write_private(root / "kept", b"for good")
    for number in range(20):
        files.write_private(root / f"other-{number}", b"something else")
        for name in (f"other-{number}", "never synced"):
            os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY, 0o600))
        (root / "never synced").unlink()
        files.sync_folder(root)
        disk.go_on(power_was_cut=True)
        assert (root / "kept").read_bytes() == b"for good"
        assert (root / f"other-{number}").read_bytes() == b"something else"
