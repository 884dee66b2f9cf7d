"""Which version starts: its command, and what the guard does with how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fairlead
from fairlead.base.errors import OperatorError
from fairlead.base.version import installed
from fairlead.upgrade import launch
from fairlead.upgrade.launch import AGAIN, GUARD, HOLLOW, STOPPED
from fairlead.upgrade.versions import Versions
from tests.second import SECOND, fill
from tests.unit.upgrade.test_versions import NEW, NEWER, OWN, go
from tests.world import ManualClock


class Became(BaseException):
    """The process is another program now."""


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    (state := tmp_path / "state").mkdir(0o700)
    return Versions(state, OWN)


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that this process would have become."""
    found: list[list[str]] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        assert program == command[0] == sys.executable
        assert GUARD not in environment
        found.append(command)
        raise Became

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv(GUARD, raising=False)
    return found


class Child:
    """A process that ends with a code, after so many looks; what it does first."""

    pid = 0

    def __init__(self, code: int, looks: int = 0, first: Any = None) -> None:
        self.code, self.looks, self.first = code, looks, first
        self.sent: list[int] = []

    def wait(self, timeout: float | None = None) -> int:
        if self.first is not None:
            first, self.first = self.first, None
            first()
        if timeout is not None and self.looks:
            self.looks -= 1
            raise subprocess.TimeoutExpired("child", timeout)
        return self.code

    def send_signal(self, number: int) -> None:
        self.sent.append(number)

    def kill(self) -> None:
        self.code, self.looks = -9, 0


def start(versions: Versions, monkeypatch: pytest.MonkeyPatch, child: Child, limit_s: float = 60.0) -> list[str]:
    """Start what stands; the commands that were run as children."""
    run: list[str] = []

    def popen(command: list[str], env: dict[str, str]) -> Child:
        assert env[GUARD] == str(os.getpid())
        run.append(" ".join(command))
        return child

    monkeypatch.setattr(subprocess, "Popen", popen)
    launch.start(versions, "engine", versions.path(NEW).parents[1], limit_s, ManualClock())
    return run


def refuses_to_write(*_: object) -> None:
    """A disk that is full."""
    raise OperatorError("FL-DISK", "full")


def test_the_base_runs_in_this_process(versions: Versions, monkeypatch: pytest.MonkeyPatch,
                                       became: list[list[str]]) -> None:
    assert start(versions, monkeypatch, Child(0)) == []
    assert became == []


def test_a_confirmed_version_takes_the_process_over_in_isolation(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    go(versions, NEW)
    versions.confirm(1)
    with pytest.raises(Became):
        start(versions, monkeypatch, Child(0))
    (command,) = became
    assert command[1:3] == ["-I", "-c"]
    assert command[4:] == [str(versions.path(NEW) / "lib"), "fairlead.cli.main", "engine", "run", "--state",
                           str(versions.path(NEW).parents[1])]


@pytest.mark.parametrize("code", [0, 1, -9, -11])
def test_a_child_that_ends_before_it_is_confirmed_is_a_failure(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]], code: int) -> None:
    go(versions, NEW)
    (command,) = start(versions, monkeypatch, Child(code, 1, lambda: versions.explain("the doors are shut [FL-X]")))
    assert f"leash.py {os.getpid()} {sys.executable} -I -c " in command
    said = versions.standing()
    assert (said.current, said.outcome) == (OWN, "failed")
    assert "the doors are shut [FL-X]" in said.why
    assert became == []


def test_a_child_that_is_not_confirmed_in_time_is_killed(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    go(versions, NEW)
    child = Child(0, 2000)
    start(versions, monkeypatch, child, limit_s=0.01)
    assert child.code == -9
    assert "0.01 s" in versions.standing().why
    assert became == []


@pytest.mark.parametrize(("counter", "full"), [(0, False), (0, True), (3, False)],
                         ids=["base", "base-on-a-full-disk", "none"])
def test_where_the_version_before_a_trial_is_lost_the_base_runs_unless_that_is_a_step_down(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]], counter: int, full: bool) -> None:
    go(versions, NEW, counter)
    versions.confirm(1)
    go(versions, NEWER, counter)
    versions.path(NEW).chmod(0o755)
    if full:
        monkeypatch.setattr(Versions, "back", refuses_to_write)
    if counter:
        with pytest.raises(OperatorError) as caught:
            start(versions, monkeypatch, Child(1))
        assert caught.value.code == "FL-UPGRADE-STANDING"
    else:
        start(versions, monkeypatch, Child(1))
    assert (versions.standing().current, versions.standing().trial) == ((NEWER, True) if counter or full
                                                                         else (OWN, False))
    assert became == [], "the base is this process"


def test_the_trial_has_so_many_starts(versions: Versions, monkeypatch: pytest.MonkeyPatch,
                                      became: list[list[str]]) -> None:
    go(versions, NEW)
    for _ in range(launch.MOST_ATTEMPTS):
        with pytest.raises(SystemExit):
            start(versions, monkeypatch, Child(STOPPED))
    assert start(versions, monkeypatch, Child(STOPPED)) == []
    assert versions.standing().outcome == "failed"
    assert became == []


def test_a_disk_that_takes_no_count_has_the_version_before_run(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    go(versions, NEW)

    monkeypatch.setattr(Versions, "_save", refuses_to_write)
    assert start(versions, monkeypatch, Child(0)) == []
    assert became == []


@pytest.mark.parametrize(("code", "exits"), [(STOPPED, 0), (1, 1), (-11, 139)])
def test_a_confirmed_child_ends_and_so_does_its_guard(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]], code: int, exits: int) -> None:
    go(versions, NEW)
    with pytest.raises(SystemExit) as caught:
        start(versions, monkeypatch, Child(code, 1, lambda: versions.confirm(2)))
    assert caught.value.code == exits
    assert versions.standing().current == NEW
    assert became == []


def test_a_confirmed_child_that_asks_for_it_is_started_anew(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    go(versions, NEW)
    with pytest.raises(Became):
        start(versions, monkeypatch, Child(AGAIN, 1, lambda: versions.confirm(2)))
    assert became[0][1:5] == ["-P", "-m", "fairlead.cli.main", "engine"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_on_to_the_child_and_to_be_told_to_end_is_no_failure(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]], number: signal.Signals) -> None:
    go(versions, NEW)
    before = signal.getsignal(number)
    code = STOPPED if number == signal.SIGHUP else -number  # before it listens to signals, say
    child = Child(code, 1, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as caught:
        start(versions, monkeypatch, child)
    assert caught.value.code == 0
    assert child.sent == [number]
    assert versions.standing().trial
    assert signal.getsignal(number) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert became == []


def test_attack_the_environment_says_only_how_a_process_ends(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    go(versions, NEW)
    versions.confirm(1)
    monkeypatch.setenv(GUARD, "1")
    with pytest.raises(Became):
        start(versions, monkeypatch, Child(0))
    monkeypatch.setenv(GUARD, str(os.getppid()))
    for again, code in (True, AGAIN), (False, STOPPED):
        with pytest.raises(SystemExit) as caught:
            launch.ended(Path("/x"), "engine", again=again)
        assert caught.value.code == code
    monkeypatch.delenv(GUARD)
    launch.ended(Path("/x"), "engine", again=False)
    with pytest.raises(Became):
        launch.ended(Path("/x"), "engine", again=True)


def test_a_version_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(OperatorError) as caught:
        launch.ended(Path("/x"), "engine", again=True)
    assert caught.value.code == "FL-UPGRADE-START"


def test_attack_nothing_comes_between_a_version_and_its_code(tmp_path: Path) -> None:
    """Neither the environment nor the working folder; and it knows the base, and how to start itself again."""
    (state := tmp_path / "state").mkdir(0o700)
    versions = Versions(state, installed())
    versions.install(SECOND, fill())
    evil = tmp_path / "evil"
    (evil / "fairlead").mkdir(parents=True)
    (evil / "fairlead" / "__init__.py").write_text("raise SystemExit('evil')")
    (evil / "structlog.py").write_text("raise SystemExit('evil')")
    lib = versions.lib(SECOND)
    assert lib is not None
    (lib / "ask.py").write_text(
        "import fairlead, sys; from fairlead.upgrade import launch; from fairlead.base.version import installed\n"
        "print(fairlead.__file__, launch.own_lib(), launch.base_version(), installed(), *launch.itself('m')[1:3], "
        "sys.argv[1:])\n")
    said = subprocess.run((*launch.boot(lib, "ask"), "x"), cwd=evil, env=os.environ | {"PYTHONPATH": str(evil)},
                          capture_output=True, text=True, check=False)
    assert said.stdout.split() == [str(lib / "fairlead/__init__.py"), str(lib), installed(), SECOND, "-I", "-c",
                                   "['x']"], said
    assert launch.own_lib() is None
    assert launch.base_version() == installed()
    assert launch.itself("m") == (sys.executable, "-I", "-m", "m")


def test_a_version_without_fairlead_ends_with_words_and_does_not_start_for_ever(
        versions: Versions, monkeypatch: pytest.MonkeyPatch, became: list[list[str]]) -> None:
    go(versions, NEW)
    for left, more, code in ("nothing", {}, 1), ("a folder", {GUARD: "1"}, HOLLOW):
        said = subprocess.run((*launch.boot(versions.lib(NEW), launch.MAIN), "--help"), capture_output=True, text=True,
                              check=False, env=os.environ | more)
        assert (said.returncode, said.stdout, "FL-UPGRADE-START" in said.stderr) == (code, "", True), left
        (versions.path(NEW) / "lib" / "fairlead").mkdir(exist_ok=True)
    start(versions, monkeypatch, Child(HOLLOW))
    assert "no fairlead of its own" in versions.standing().why
    assert became == []


@pytest.mark.parametrize(("place", "own"), [
    ("/s/versions/1.2.3/lib", True), ("/home/x/.pyenv/versions/3.11.4/lib/python3.11/site-packages", False),
    ("/s/versions/lib", False), ("/opt/fairlead/src", False)])
def test_by_its_place_code_knows_what_it_belongs_to(monkeypatch: pytest.MonkeyPatch, place: str, own: bool) -> None:
    monkeypatch.setattr(launch, "fairlead", SimpleNamespace(__file__=f"{place}/fairlead/__init__.py"))
    assert launch.own_lib() == (Path(place) if own else None)
    assert fairlead.__file__
