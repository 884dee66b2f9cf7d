"""The demo of a cluster: three Controllers and two engines, each in a network namespace of its own."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import lacking, need
from tests.processes import COMMAND, surroundings

pytestmark = pytest.mark.whole


def test_the_demo_of_a_cluster_passes_and_leaves_nothing_behind() -> None:
    need("etcd", "ip", "nsenter", "psql", "setpriv", "unshare")
    if os.geteuid() != 0:
        lacking("the demo of a cluster is run as root here")
    before = Path("/proc/self/net/dev").read_text().count("\n")
    found = subprocess.run([*COMMAND, "demo", "--cluster"], env=surroundings(), capture_output=True, text=True,
                           timeout=280, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    checks = re.findall(r"^(ok|FAIL|--) ", found.stdout, re.MULTILINE)
    assert found.stdout.splitlines()[-1] == f"demo: {len(checks)} checks passed, 0 failed"
    assert set(checks) == {"ok"}
    assert len(checks) == 12
    folder = re.search(r"in (/\S+)", found.stdout)
    assert folder is not None
    assert not Path(folder[1]).exists()
    assert Path("/proc/self/net/dev").read_text().count("\n") == before
