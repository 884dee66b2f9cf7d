"""`fairlead demo` as people run it: it passes here, and it leaves nothing behind, however it ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import need

DEMO = (sys.executable, "-m", "fairlead.cli.main", "demo")
DEADLINE_S = 300.0
LAST = re.compile(r"demo: (\d+) checks passed, (\d+) failed")
CHECKS = 20
"""Where PostgreSQL, OpenSSH and Prometheus are installed."""


@dataclass(slots=True)
class Demo:
    """One run; its first line names its folder."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where it works."""
        return Path(self.lines[0].rpartition(" in ")[2])

    @property
    def failed(self) -> list[str]:
        """The titles of the checks that failed."""
        return [line.removeprefix("FAIL ").partition(":")[0] for line in self.lines if line.startswith("FAIL ")]

    def read(self, until: str = "") -> None:
        """Read its lines up to one that begins with *until*; all of them when that is empty."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if until and line.startswith(until):
                return
        assert not until, self.lines

    def left(self) -> list[str]:
        """Processes that name its folder, or that of its database."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if self.folder.name in command:
                    found.append(command)
        return found

    def folders(self) -> list[Path]:
        """What is left on the disk."""
        return list(self.folder.parent.glob(f"{self.folder.name}*"))


@contextmanager
def running(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[Demo]:
    """The demo, from its first line on. Whatever is left of it afterwards is removed."""
    process = subprocess.Popen([*DEMO, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=os.environ | dict(environment or {}), start_new_session=True)
    demo = Demo(process)
    alarm = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        demo.read("fairlead demo")
        yield demo
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        if process.poll() is None:
            process.terminate()
        process.communicate()
        if demo.lines:
            for folder in demo.folders():
                shutil.rmtree(folder, ignore_errors=True)


def gone(demo: Demo) -> bool:
    """Whether all its processes end; the kernel takes a moment."""
    deadline = time.monotonic() + 20
    while demo.left() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not demo.left()


@pytest.mark.whole
@pytest.mark.timeout(DEADLINE_S + 60)
def test_every_check_passes_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    need("postgres", "psql", "ssh", "prometheus", "prometheus-node-exporter")
    began = time.monotonic()
    with running() as demo:
        demo.read()
        code = demo.process.wait()
        took = time.monotonic() - began
        report = "\n".join(demo.lines)
        last = LAST.fullmatch(demo.lines[-1])
        assert last is not None, report
        assert (code, last[1], last[2]) == (0, str(CHECKS), "0"), report
        assert not demo.left()
        assert not demo.folders()
    with capsys.disabled():
        sys.stdout.write(f"\nfairlead demo: {took:.0f} s\n")


@pytest.mark.whole
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_an_interrupted_demo_ends_what_it_started(number: signal.Signals) -> None:
    with running() as demo:
        demo.read("ok   bundle")
        assert demo.left()
        demo.process.send_signal(number)
        demo.read()
        assert demo.process.wait() == 130, demo.lines
        assert not demo.left()
        assert not demo.folders()


@pytest.mark.whole
def test_a_killed_demo_takes_its_processes_along() -> None:
    need("setpriv")
    with running() as demo:
        demo.read("ok   bundle")
        assert demo.left()
        demo.process.kill()
        assert gone(demo), demo.left()
