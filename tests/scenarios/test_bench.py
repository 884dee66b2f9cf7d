"""`fairlead bench` as people and scripts run it: its figures have their shape, and it leaves nothing behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fairlead.cli.bench.figures import Failover, Idle, Round
from tests.netns.network import able
from tests.processes import COMMAND, fairlead

DEADLINE_S = 280
UNTIL = {"another_leads", "change_accepted", "bundle_exported", "votes_again"}
FOUND = Failover(
    [Round(4.163, 1.234, 4.494, 9.671, 2), Round(3.656, 0.466, 4.07, 8.12, 1), Round(3.9, 0.5, 4.2, 8.5, 2)],
    [Idle("ctl-1", 6.649, 64.74, 3.91, 27.6), Idle("ctl-2", 4.0, 64.6, 2.66, 24.5)], 22.844, 12.331)


def test_the_figures_of_a_run_are_one_object() -> None:
    assert json.loads(json.dumps(FOUND.as_json())) == {
        "rounds": 3,
        "until_s": {"another_leads": {"median": 3.9, "min": 3.66, "max": 4.16},
                    "change_accepted": {"median": 0.5, "min": 0.47, "max": 1.23},
                    "bundle_exported": {"median": 4.2, "min": 4.07, "max": 4.49},
                    "votes_again": {"median": 8.5, "min": 8.12, "max": 9.67}},
        "engine_fewest_links": 1,
        "join_s": {"from_command": 22.84, "from_joined": 12.33},
        "idle": [{"controller": "ctl-1", "cpu_percent": 6.6, "memory_mib": 64.7, "etcd_cpu_percent": 3.9,
                  "etcd_memory_mib": 27.6},
                 {"controller": "ctl-2", "cpu_percent": 4.0, "memory_mib": 64.6, "etcd_cpu_percent": 2.7,
                  "etcd_memory_mib": 24.5}]}


def test_people_see_tables(capsys: pytest.CaptureFixture[str]) -> None:
    FOUND.show()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "LEADER KILLED, UNTIL MEDIAN MIN MAX", "another leads 3.90 s 3.66 s 4.16 s",
        "a change is accepted 0.50 s 0.47 s 1.23 s", "a bundle is exported 4.20 s 4.07 s 4.49 s",
        "the dead one votes again 8.50 s 8.12 s 9.67 s", "",
        "IDLE CPU MEMORY ETCD'S CPU ETCD'S MEMORY", "ctl-1 6.6 % 64.7 MiB 3.9 % 27.6 MiB",
        "ctl-2 4.0 % 64.6 MiB 2.7 % 24.5 MiB", "",
        "of 3 rounds; at their worst moment the engine had a link to 1 of 3 Controllers",
        "a new Controller votes 22.84 s after its bundle was asked for, 12.33 s after it had joined"]


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_rounds_that_are_none_are_wrong_usage(rounds: str) -> None:
    found = fairlead("bench", "failover", "--rounds", rounds)
    assert (found.code, found.out) == (2, ""), found
    assert "--rounds" in found.err


def test_a_machine_without_namespaces_is_told(tmp_path: Path) -> None:
    """unshare(1) says no, as it does where the kernel forbids it; nothing is begun."""
    for tool in ("ip", "nsenter", "setpriv"):
        (tmp_path / tool).symlink_to("/bin/true")
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'open: No such file or directory' >&2\nexit 1\n")
    refusing.chmod(0o755)
    for why in ("open: No such file or directory", "not installed: unshare"):
        found = fairlead("bench", "failover", env={"PATH": str(tmp_path)})
        assert why in found.refused("FL-NAMESPACES")
        assert not found.out
        refusing.unlink(missing_ok=True)


@pytest.mark.whole
def test_one_round_has_all_figures_and_leaves_nothing(tmp_path: Path) -> None:
    able("etcd")
    devices = sorted(Path("/sys/class/net").iterdir())
    found = run("--rounds", "1", "--json", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout)
    assert set(figures) == {"rounds", "until_s", "engine_fewest_links", "join_s", "idle"}
    assert figures["rounds"] == 1
    assert set(figures["until_s"]) == UNTIL
    assert all(0 < one["min"] == one["median"] == one["max"] for one in figures["until_s"].values())
    assert figures["engine_fewest_links"] in (0, 1, 2)
    assert 0 < figures["join_s"]["from_joined"] < figures["join_s"]["from_command"]
    assert [one["controller"] for one in figures["idle"]] == ["ctl-1", "ctl-2", "ctl-3"]
    assert all(value > 0 for one in figures["idle"] for name, value in one.items() if name != "controller")
    assert "round 1 of 1" in found.stderr
    nothing_left(tmp_path)
    assert sorted(Path("/sys/class/net").iterdir()) == devices


@pytest.mark.whole
def test_without_etcd_it_says_why_it_came_to_no_end(tmp_path: Path) -> None:
    able()
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in reversed(os.get_exec_path()):
        for tool in Path(folder).glob("*"):
            if tool.name != "etcd":
                (tools / tool.name).unlink(missing_ok=True)
                (tools / tool.name).symlink_to(tool)
    work = tmp_path / "work"
    work.mkdir()
    found = run("--rounds", "1", folder=work, PATH=str(tools))
    assert (found.returncode, found.stdout) == (1, "")
    assert "etcd" in found.stderr.splitlines()[-1]
    assert found.stderr.endswith("[FL-BENCH]\n")
    assert "Traceback" not in found.stderr
    kept = [path.name for path in work.iterdir()]
    assert len(kept) == 1
    assert kept[0] in found.stderr
    assert kept[0] not in Path("/proc/mounts").read_text()


def run(*options: str, folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """The command, with its files in *folder*."""
    return subprocess.run([*COMMAND, "bench", "failover", *options], capture_output=True, text=True, check=False,
                          timeout=DEADLINE_S, env=os.environ | {"TMPDIR": str(folder)} | env)


def nothing_left(folder: Path) -> None:
    """No file, mount or process of a run in *folder*."""
    assert not list(folder.iterdir())
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in read(path)]


def read(path: Path) -> bytes:
    """Of a process that may end meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
