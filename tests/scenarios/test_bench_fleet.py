"""`fairlead bench fleet` as people and scripts run it, with few engines: its figures have their shape."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.processes import COMMAND
from tests.scenarios.test_bench import nothing_left

ASKED = {"joined", "lost", "seconds", "joins_per_s", "rss_mib", "kib_per_engine", "config_p50_ms", "config_p99_ms",
         "staged_done_s", "return_s", "idle_cpu"}
ALL = ("joined", "linked", "returned", "config_count", "idle_engines")


@pytest.mark.whole
@pytest.mark.timeout(300)
def test_a_small_fleet_joins_is_configured_comes_back_and_ends(tmp_path: Path) -> None:
    ran = subprocess.run([*COMMAND, "bench", "fleet", "--engines", "6", "--json"], capture_output=True, text=True,
                         timeout=280, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found.keys() >= ASKED
    assert ([found[name] for name in ALL], found["lost"]) == ([6] * len(ALL), 0)
    assert 0 < found["config_p50_ms"] <= found["config_p99_ms"]
    nothing_left(tmp_path)
