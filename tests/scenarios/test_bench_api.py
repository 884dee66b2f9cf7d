"""`fairlead bench api` as people and scripts run it: its figures have their shape, and it leaves nothing behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fairlead.base.clock import SystemClock
from fairlead.cli.bench.population import settle
from fairlead.cli.bench.served import LOGINS, RATES, Served
from fairlead.nodes.directory import Directory
from fairlead.store.sqlite import SQLiteStore
from tests.processes import COMMAND, fairlead
from tests.scenarios.test_bench import nothing_left

DEADLINE_S = 280
FOUND = Served(
    {"fairlead": {"list_per_s": [100.0, 50.0, 60.0], "list_p50_us": [10_000.0, 20_000.0, 16_000.0],
                  "one_p99_us": [2000.0, 4000.0, 1000.0], "one_p99_us_beside_bulk": [6000.0, 8000.0, 4000.0],
                  "login_per_s": [4.0, 5.0, 3.0], "bulk_mb_per_s": [400.0, 500.0, 300.0]},
     "framework": {"list_per_s": [200.0, 200.0, 400.0]},
     "argon2": {"login_per_s": [8.0, 5.0, 5.0]}},
    {"nginx": "nginx is not installed"}, {"rounds": 3})


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    ours, framework, argon2 = FOUND.as_json()["rows"]
    assert ours["ratios"] == {"list_per_s": {"framework": 0.25}, "login_per_s": {"argon2": 0.6}}
    assert framework["ratios"] == {"list_per_s": {"fairlead": 4.0}}
    assert (ours["list_per_s"], ours["spread"]["list_per_s"], argon2["of_alone"]) == (60.0, [50.0, 100.0], {})


def test_what_was_late_beside_a_load_is_held_against_the_same_round_without_it() -> None:
    assert FOUND.as_json()["rows"][0]["of_alone"] == {"bulk": 3.0}


def test_people_see_tables_that_name_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    FOUND.show()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["REQUESTS/S FAIRLEAD MIN MAX OF FRAMEWORK OF NGINX P50 MS P99 MS",
                         "1,000 engines (public model), 1 connection 60.0 50.0 100 0.25 - 16.0 -"]
    assert "log-ins, one at a time 4.00 3.00 5.00 0.60" in lines
    assert "a bulk stream through the tunnel 6.00 3.00 - - -" in lines
    assert lines[-2:] == ["the bulk stream meanwhile: 400 MB/s", "nginx: not measured, nginx is not installed"]


@pytest.mark.parametrize("wrong", [("--engines", "0"), ("--engines", "1001"), ("--seconds", "0"), ("--rounds", "0")])
def test_what_cannot_be_measured_is_wrong_usage(wrong: tuple[str, str]) -> None:
    found = fairlead("bench", "api", *wrong)
    assert (found.code, found.out) == (2, ""), found
    assert wrong[0] in found.err


async def test_the_engines_that_are_written_are_engines_to_a_controller(tmp_path: Path) -> None:
    nodes = await settle(tmp_path / "store.db", 60)
    store = SQLiteStore.open(tmp_path / "store.db", SystemClock())
    directory = Directory(store)
    await directory.load()
    await store.close()
    assert sorted(directory.nodes.values(), key=lambda node: node.name) == nodes
    assert {node.internal_address for node in nodes} == set(directory.addresses)
    assert {node.id for node in nodes} == {key.node_id for key in directory.keys.values()}
    assert len(directory.keys) == 120


@pytest.mark.whole
def test_a_short_run_has_all_figures_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "bench", "api", "--seconds", "0.3", "--rounds", "1", "--engines", "30", "--json"],
                          capture_output=True, text=True, check=False, timeout=DEADLINE_S,
                          env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert {*rows, *found["missing"]} == {"fairlead", "framework", "nginx", "argon2"}
    ours = rows["fairlead"]
    assert all(ours[figure] > 0 for figure in (*RATES, *LOGINS, "bulk_mb_per_s"))
    assert set(ours["of_alone"]) == {"bulk", "logins"}
    assert set(ours["ratios"]["list_per_s"]) == {*rows} - {"fairlead", "argon2"}
    assert (found["engines"], found["rounds"], set(found["bytes"])) == (
        30, 1, {"list", "nodes", "version", "status", "one"})
    nothing_left(tmp_path)
