"""`fairlead demo --cluster` as people run it: it passes, and leaves nothing; where it may not run, it says so."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.netns.network import able
from tests.scenarios.test_demo import DEADLINE_S, DEMO, LAST, gone, running

CHECKS = 12
"""Where PostgreSQL is installed."""


@pytest.mark.whole
@pytest.mark.timeout(DEADLINE_S + 60)
def test_every_check_passes_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    able("etcd", "postgres", "psql")
    devices, began = sorted(Path("/sys/class/net").iterdir()), time.monotonic()
    with running("--cluster") as demo:
        demo.read()
        code = demo.process.wait()
        took = time.monotonic() - began
        report = "\n".join(demo.lines)
        last = LAST.fullmatch(demo.lines[-1])
        assert last is not None, report
        assert (code, last[1], last[2]) == (0, str(CHECKS), "0"), report
        assert not demo.left()
        assert not demo.folders()
    assert sorted(Path("/sys/class/net").iterdir()) == devices
    with capsys.disabled():
        sys.stdout.write(f"\nfairlead demo --cluster: {took:.0f} s\n")


@pytest.mark.whole
def test_a_killed_demo_takes_its_processes_and_namespaces_along() -> None:
    able("etcd", "postgres", "psql")
    with running("--cluster") as demo:
        demo.read("ok   first Controller")
        assert demo.left()
        demo.process.kill()
        assert gone(demo), demo.left()
    assert str(demo.folder) not in Path("/proc/mounts").read_text()


def test_a_machine_without_namespaces_is_told(tmp_path: Path) -> None:
    """unshare(1) says no, as it does where the kernel forbids it; nothing is begun."""
    for tool in ("ip", "nsenter", "setpriv"):
        (tmp_path / tool).symlink_to("/bin/true")
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    found = subprocess.run([*DEMO, "--cluster"], capture_output=True, text=True, timeout=60, check=False,
                           env=os.environ | {"PATH": str(tmp_path)})
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1), found
    assert "Operation not permitted" in found.stderr
    assert found.stderr.endswith("[FL-NAMESPACES]\n")
