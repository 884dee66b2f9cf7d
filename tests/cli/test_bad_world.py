"""A clock that is wrong, a disk that is full: the join says so, loses nothing, and works once that is mended."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import lacking, need
from tests.processes import Daemon, fairlead

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests

DISK = 64 * 1024


@pytest.mark.parametrize("shift", [400, -365], ids=["ahead", "behind"])
def test_a_wrong_clock_is_named_with_both_times(controller: Daemon, bundle: Path, tmp_path: Path, shift: int) -> None:
    """Ahead means past the end of the portal's certificate, 397 days; within it the clock only shows as skew."""
    need("faketime")
    name = f"se-clock{shift}"
    join = ("engine", "join", bundle, "--name", name)
    said = fairlead(*join, state=tmp_path / "se", before=["faketime", f"{shift:+d} days"]).refused(
        "FL-TIME-SKEW", alone=False)
    now = datetime.now(UTC)
    assert f"{now + timedelta(days=shift):%Y-%m-%dT}" in said
    assert f"{now:%Y-%m-}" in said, "when the Controller's certificate begins"
    assert controller.node(name) == {}
    fairlead(*join, state=tmp_path / "se").done()
    assert controller.node(name)["state"] == "down"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.whole
def test_a_full_disk_costs_no_token_and_makes_one_node(controller: Daemon, bundle: Path, tmp_path: Path) -> None:
    need("mount", "umount")
    if os.geteuid() != 0:
        lacking("mounting needs root")
    with small_disk(tmp_path / "se") as state:
        refusals = 0
        for free in range(0, DISK, 8192):  # each time the join comes a little further
            filler = state / "filler"
            filler.write_bytes(b"")
            used = os.statvfs(state)
            filler.write_bytes(bytes(max(0, used.f_bavail * used.f_frsize - free)))
            result = fairlead("engine", "join", bundle, "--name", "se-disk", state=state)
            filler.unlink()
            if result.code == 0:
                break
            result.refused("FL-DISK", alone=False)
            assert bundle.exists()
            assert not (state / "trust.json").exists()
            refusals += 1
        assert refusals >= 3, "at the first write, after the answer, after the commit"
        assert result.code == 0
        assert [row["name"] for row in controller.listed("node")].count("se-disk") == 1
        assert controller.node("se-disk")["state"] == "down"
        assert not bundle.exists()
        assert not (state / "pending").exists()
