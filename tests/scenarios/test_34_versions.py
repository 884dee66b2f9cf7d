"""A node keeps versions side by side: a new one proves itself, or the one before it runs again, by itself."""

from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from time import monotonic

import pytest

from fairlead.base.version import installed
from fairlead.upgrade.versions import Versions
from tests.processes import Daemon, Site, until
from tests.second import SECOND, bring

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def controller(site: Site) -> Daemon:
    return site.controller()


def versions(node: Daemon) -> Versions:
    return Versions(node.state, installed())


def runs(node: Daemon, version: str) -> None:
    def look() -> bool:
        return bool(node.get("/api/status")["version"] == version)
    until(look, f"{node.name} runs {version}")


def test_an_engine_switches_while_it_runs_proves_itself_and_goes_back(site: Site, controller: Daemon) -> None:
    engine = site.engine(controller, "se-1")
    pid = engine.pid
    bring(versions(engine))
    engine.signal(SIGHUP)
    runs(engine, SECOND)
    until(lambda: versions(engine).standing().outcome == "confirmed", "it proves itself")
    assert engine.pid == pid
    assert engine.runs

    engine.signal(SIGTERM)
    assert engine.ended() == 0, "its guard ends with it, in order"
    engine.start()
    runs(engine, SECOND)
    pid = engine.pid
    assert children(engine.pid) == [], "confirmed: no guard any more"

    versions(engine).back("asked for", 2)
    engine.signal(SIGHUP)
    runs(engine, installed())
    assert engine.pid == pid, "execve"
    assert [row["event"] for row in versions(engine).history()] == ["switched", "confirmed", "back"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("main", "why"), [
    pytest.param("raise RuntimeError('no')", "exit code 1", id="raises"),
    pytest.param("import time; time.sleep(1); raise SystemExit(0)", "exit code 0", id="ends", marks=pytest.mark.whole),
    pytest.param("import time; time.sleep(600)", "had not proven itself after 5 s", id="hangs",
                 marks=pytest.mark.whole),
    pytest.param("import os; os.kill(os.getpid(), 9)", "signal 9", id="killed", marks=pytest.mark.whole)])
def test_a_version_that_does_not_come_up_is_gone_and_the_one_before_runs(
        site: Site, controller: Daemon, main: str, why: str, request: pytest.FixtureRequest) -> None:
    name = f"se-{request.node.callspec.id}"
    engine = site.join(controller, name)
    engine.configure(upgrade_trial_s=5.0)
    engine.start()
    runs(engine, installed())
    bring(versions(engine), main=main)
    engine.signal(SIGHUP)
    until(lambda: versions(engine).standing().outcome == "failed", "it goes back")
    runs(engine, installed())
    until(lambda: controller.node(name)["state"] == "up", "and is up")
    standing = versions(engine).standing()
    assert why in standing.why
    assert (standing.current, standing.wanted, standing.trial) == (installed(), SECOND, False)
    assert children(engine.pid) == []
    engine.signal(SIGTERM)
    assert engine.ended() == 0


@pytest.mark.whole
def test_what_stops_the_guard_stops_all_and_a_killed_guard_leaves_nobody(
        site: Site, controller: Daemon, tmp_path: Path) -> None:
    engine = site.join(controller, "se-guard")
    deaf = tmp_path / "deaf"
    bring(versions(engine), main=f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(deaf)!r}, 'w')\n"
                                 "time.sleep(600)")
    engine.start(ready=False)
    until(deaf.exists, "it runs, and hears nothing")
    child, = children(engine.pid)
    began = monotonic()
    engine.signal(SIGTERM)
    assert engine.ended() == 0
    assert monotonic() - began < 6
    assert not Path(f"/proc/{child}").exists()
    assert versions(engine).standing().trial, "to be told to end is no failure"

    deaf.unlink()
    engine.start(ready=False)
    until(deaf.exists, "once more")
    child, = children(engine.pid)
    engine.signal(SIGKILL)
    engine.ended()
    until(lambda: state_of(child) in ("", "Z"), "no orphan")
    assert versions(engine).standing().attempts == 2

    for _ in range(2):  # the third attempt, and what would be the fourth
        engine.start(ready=False)
        if versions(engine).standing().attempts == 2:
            until(lambda: versions(engine).standing().attempts == 3, "the third")
            engine.signal(SIGKILL)
            engine.ended()
    runs(engine, installed())
    assert "in 3 starts" in versions(engine).standing().why


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.whole
def test_a_controller_switches_too(site: Site) -> None:
    controller = site.controller("ctl-2")
    engine = site.engine(controller, "se-x")
    bring(versions(controller))
    controller.signal(SIGHUP)
    runs(controller, SECOND)
    until(lambda: versions(controller).standing().outcome == "confirmed", "it proves itself")
    until(lambda: controller.node("se-x")["state"] == "up", "its engine is up again")
    assert engine.runs
