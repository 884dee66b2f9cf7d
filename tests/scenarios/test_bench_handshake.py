"""`fairlead bench handshake` as people and scripts run it: its figures have a shape, and it leaves nothing behind."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from fairlead.cli.bench.handshake import Handshakes
from tests.processes import COMMAND, fairlead
from tests.scenarios.test_bench import nothing_left

DEADLINE_S = 280


def test_a_row_is_one_object() -> None:
    found = Handshakes([100.0, 300.0, 200.0], [3.0, 2.0, 2.5], Counter({"Connection lost": 2}),
                       {"clients": 1000, "all_in_s": 3.5, "never_in": 0}, 1000, 23.456, 30.0)
    assert json.loads(json.dumps(found.row("fairlead"))) == {
        "name": "fairlead", "handshakes_per_s": 200.0, "min": 100.0, "max": 300.0, "server_cpu_ms": 2.5,
        "failed": {"Connection lost": 2}, "storm": {"clients": 1000, "all_in_s": 3.5, "never_in": 0},
        "idle_connections": 1000, "idle_kib_per_connection": 23.5, "idle_kib_from_none": 30.0}


def test_a_server_that_was_not_measured_has_no_figures() -> None:
    row = Handshakes().row("sshd")
    assert (row["handshakes_per_s"], row["server_cpu_ms"], row["idle_kib_per_connection"]) == (None, None, None)


@pytest.mark.parametrize("wrong", [("--connections", "1"), ("--clients", "-1"), ("--seconds", "0")])
def test_what_cannot_be_measured_is_wrong_usage(wrong: tuple[str, str]) -> None:
    found = fairlead("bench", "handshake", *wrong)
    assert (found.code, found.out) == (2, ""), found
    assert wrong[0] in found.err


@pytest.mark.whole
def test_a_short_run_has_all_figures_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "bench", "handshake", "--seconds", "0.3", "--rounds", "1", "--clients", "40",
                           "--connections", "32", "--json"], capture_output=True, text=True, check=False,
                          timeout=DEADLINE_S, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert {*rows, *found["missing"]} == {"fairlead", "sshd"}
    for row in rows.values():
        assert row["handshakes_per_s"] > 0
        assert row["server_cpu_ms"] > 0
        assert row["failed"] == {}
        assert (row["storm"]["clients"], row["storm"]["never_in"]) == (40, 0)
        assert row["idle_connections"] == 32
    nothing_left(tmp_path)
