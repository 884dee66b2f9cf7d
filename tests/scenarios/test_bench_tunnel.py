"""`fairlead bench tunnel` as people and scripts run it: its figures have their shape, and it leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fairlead.cli.bench.load import Counter
from fairlead.cli.bench.plot import svg
from fairlead.cli.bench.rows import FIGURES, RATIOS, ROWS, Found, rotated
from tests.netns.network import able
from tests.processes import COMMAND, free_port, until
from tests.scenarios.test_bench import nothing_left

DEADLINE_S = 280
FOUND = Found(
    {"raw": {"mb_per_s": [2000.0, 4000.0, 3000.0], "mb_per_s_4": [4000.0, 5000.0, 6000.0]},
     "ssh-default": {"mb_per_s": [400.0, 500.0, 600.0], "cpu_s_per_gb": [3.0, 3.5, 3.25],
                     "mb_per_s_4": [500.0, 500.0, 700.0]},
     "fairlead": {"mb_per_s": [800.0, 500.0, 300.0], "cpu_s_per_gb": [2.0, 2.5, 2.25],
                  "mb_per_s_4": [900.0, 800.0, 700.0]}},
    {"relay": "haproxy is not installed"}, {"ssh-default": "chacha20"}, {"rounds": 3, "seconds": 1.0})


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    raw, ssh, ours = FOUND.rows()
    assert ours == {
        "name": "fairlead", "mb_per_s": 500.0, "min": 300.0, "max": 800.0, "ratio_to_ssh_default": 1.0,
        "ratio_to_ssh_best": None, "ratio_to_relay": None, "ratio_to_raw": 0.125, "cpu_s_per_gb": 2.25,
        "mb_per_s_4": 800.0, "ratios": {
            "mb_per_s": {"ssh-default": 1.0, "raw": 0.125}, "cpu_s_per_gb": {"ssh-default": 0.692},
            "mb_per_s_4": {"ssh-default": 1.6, "raw": 0.16}}}
    assert (raw["name"], raw["cpu_s_per_gb"], raw["ratio_to_raw"]) == ("raw", None, 1.0)
    assert ssh["note"] == "chacha20"


def test_a_run_is_one_object_that_names_what_is_missing() -> None:
    shown = json.loads(json.dumps(FOUND.as_json()))
    assert {key: shown[key] for key in ("rounds", "seconds", "missing")} == {
        "rounds": 3, "seconds": 1.0, "missing": {"relay": "haproxy is not installed"}}
    assert [row["name"] for row in shown["rows"]] == ["raw", "ssh-default", "fairlead"]


def test_people_see_tables(capsys: pytest.CaptureFixture[str]) -> None:
    FOUND.show()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "TUNNEL 1 STREAM MB/S MIN MAX OF SSH-DEFAULT OF SSH-BEST OF RELAY OF RAW CPU S/GB",
        "raw 3000 2000 4000 5.00 - - 1.00 -", "ssh-default 500 400 600 1.00 - - 0.20 3.25",
        "fairlead 500 300 800 1.00 - - 0.12 2.25", "",
        "TUNNEL 4 STREAMS MB/S", "raw 5000", "ssh-default 500", "fairlead 800", "",
        "ssh-default: chacha20", "relay: not measured, haproxy is not installed"]


def test_the_picture_is_xml_with_a_bar_for_each_row() -> None:
    picture = ET.fromstring(FOUND.picture())
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:] == ["raw", "3000", "ssh-default", "500", "fairlead", "500"]
    widths = [float(bar.attrib["width"]) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(6 * widths[2], rel=0.01)
    assert "a < b & c" in list(ET.fromstring(svg("a < b & c", [])).itertext())


def test_each_row_comes_first_in_its_turn() -> None:
    assert [rotated(["a", "b", "c"], number) for number in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
    assert rotated([], 1) == []


@pytest.mark.parametrize("kind", ["send", "receive", "ping", "connect", "slow"])
def test_a_load_measures_what_its_service_saw(kind: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    port, what = free_port(), "echo" if kind in ("ping", "connect") else "bulk"
    load = [sys.executable, "-m", "fairlead.cli.bench.load"]
    with subprocess.Popen([*load, what, "127.0.0.1", str(port), "--counter", counter]) as server:
        try:
            until(lambda: reached(port), "the service listens")
            done = subprocess.run([*load, kind, "127.0.0.1", str(port), "--counter", counter, "--seconds", "0.2",
                                   "--warm", "0.05", "--streams", "3", "--pids", str(server.pid)], text=True,
                                  capture_output=True, timeout=60, check=True)
        finally:
            server.kill()
    found = json.loads(done.stdout)
    assert found["count"] > 0
    assert found["seconds"] >= 0.2
    if kind == "send":
        assert found["count"] <= int.from_bytes(counter.read_bytes(), "little")
    if kind == "ping":
        assert 0 < found["p50_us"] <= found["p99_us"]
    if kind == "connect":
        assert found["failed"] == 0
    if kind == "slow":
        assert found["count"] < 300_000, "1 MB/s"


def test_who_reads_a_counter_never_sees_it_go_back(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    Counter.make(path)
    adding = ("import sys; from pathlib import Path; from fairlead.cli.bench.load import Counter\n"
              "c = Counter(Path(sys.argv[1]))\nwhile True: c.add(1)")
    with subprocess.Popen([sys.executable, "-c", adding, path]) as process:
        try:
            seen = Counter(path)
            until(lambda: seen.value, "it counts")
            last = 0
            for _ in range(300_000):
                now = seen.value
                assert now >= last
                last = now
        finally:
            process.kill()


def reached(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_load_whose_peer_is_gone_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "fairlead.cli.bench.load", "send", "127.0.0.1", str(free_port()),
                           "--counter", "/dev/null"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.whole
def test_a_round_has_all_rows_and_leaves_nothing(tmp_path: Path) -> None:
    done = run("--seconds", "0.2", "--rounds", "1", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [row["name"] for row in found["rows"]]
    assert sorted([*names, *found["missing"]]) == sorted(ROWS)
    assert {"raw", "fairlead-stock", "fairlead"} <= set(names)
    for row in found["rows"]:
        assert set(row) - {"note"} == {"name", "mb_per_s", "min", "max", "cpu_s_per_gb", "ratios", *RATIOS}
        assert row["mb_per_s"] == row["min"] == row["max"] > 0
        assert row["name"] == "raw" or row["cpu_s_per_gb"] > 0
        for ratio, other in RATIOS.items():
            assert (row[ratio] is None) == (other in found["missing"])
    nothing_left(tmp_path)


def test_rows_may_be_chosen_and_no_others_start(tmp_path: Path) -> None:
    done = run("--seconds", "0.1", "--rounds", "1", "--row", "raw", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == ["raw"]
    assert found["missing"] == {}
    refused = run("--row", "telnet", folder=tmp_path)
    assert refused.returncode == 2
    assert "telnet" in refused.stderr
    assert "ssh-default" in refused.stderr
    nothing_left(tmp_path)


@pytest.mark.whole
def test_peers_that_are_not_installed_are_named_and_ours_is_measured_in_full(tmp_path: Path) -> None:
    """Of other tools only what is outside PATH is found: the rows that need more are named as missing."""
    tools, work = tmp_path / "tools", tmp_path / "work"
    for folder in (tools, work):
        folder.mkdir()
    done = run("--seconds", "0.1", "--rounds", "1", "--more", "--json", folder=work, PATH=str(tools))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"ssh-default", "ssh-best", "stunnel", "nginx"} <= set(found["missing"])
    assert {row["name"] for row in found["rows"]} >= {"raw", "fairlead-stock", "fairlead"}
    ours = found["rows"][-1]
    assert set(FIGURES) <= set(ours)
    assert ours["connects_failed"] == 0
    nothing_left(work)


@pytest.mark.whole
def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, "bench", "tunnel"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=os.environ | {"TMPDIR": str(tmp_path)}) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if line.startswith("round 1"):
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
        assert not process.stderr.read()
    nothing_left(tmp_path)


@pytest.mark.whole
def test_over_links_each_weather_has_its_rows_and_nothing_is_left(tmp_path: Path) -> None:
    able("ssh", "sshd")
    done = run("--links", "--seconds", "0.5", "--rounds", "1", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["link"] for one in found["links"]] == ["70 ms", "70 ms, 1 % loss", "70 ms, 10 Mbit/s"]
    for one in found["links"]:
        assert [row["name"] for row in one["rows"]] == ["raw", "ssh-default", "ssh-best", "fairlead-stock", "fairlead"]
        assert all(row["beside_p50_us"] >= 70_000 for row in one["rows"]), "a round trip takes as long as the link"
    assert all(row["mb_per_s"] < 6 for row in found["links"][2]["rows"]), "10 Mbit/s, and what a gap had held back"
    nothing_left(tmp_path)


def run(*options: str, folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """The command, with its files in *folder*."""
    return subprocess.run([*COMMAND, "bench", "tunnel", *options], capture_output=True, text=True, check=False,
                          timeout=DEADLINE_S, env=os.environ | {"TMPDIR": str(folder)} | env)
