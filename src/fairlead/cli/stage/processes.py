"""What is started on a stage: each process in a group of its own, and none outlives the stage.

A group gets its signal whole, so nothing that a process started is left either. When we ourselves are killed, the
kernel ends what it started (prctl(2), PR_SET_PDEATHSIG, which setpriv(1) sets).
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.cli.program import FAIRLEAD

COMMAND_S = 60.0
END_S = 5.0
_CODE = re.compile(r"\[(FL-[A-Z0-9-]+)\]\s*$")
_NOT_OURS = re.compile(r"FAIRLEAD_|AVICNTRL|PG|SSH_|LC_|LANG")
"""Settings of the person who runs it, which must not decide what is seen."""


class Failed(Exception):
    """What was observed is not what it should be."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did."""

    command: str
    code: int
    out: str
    error: str

    @property
    def last(self) -> str:
        """Its last line on standard error."""
        return (self.error.strip().splitlines() or ["it said nothing"])[-1]

    def done(self) -> "Result":
        """Itself. Raises Failed when it did not succeed."""
        if self.code != 0:
            raise Failed(f"`{self.command}` ended with exit code {self.code}: {self.last}")
        return self

    def refused(self, code: str) -> str:
        """The line of its refusal with *code*. Raises Failed when it was not refused so."""
        found = _CODE.search(self.last)
        if self.code != 1 or found is None or found[1] != code:
            raise Failed(f"`{self.command}` should be refused with {code}; exit code {self.code}: {self.last}")
        return self.last.removeprefix("error: ")


@dataclass(slots=True, eq=False)
class Started:
    """A process that stays."""

    name: str
    process: "subprocess.Popen[bytes]"
    stop: signal.Signals

    @property
    def pid(self) -> int:
        """Its number, which is its group's too."""
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Signal the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Its exit code. Raises Failed when it does not end in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} (pid {self.pid}) still runs after {seconds:g} s") from None


class Processes:
    """All that were started; `close` ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        """Where they run: ours alone, so that nothing is imported from anywhere else."""
        self._started: dict[int, Started] = {}
        self._closed = False
        self._turn = threading.Lock()

    @property
    def running(self) -> list[Started]:
        """What has not ended yet."""
        return [started for started in self._started.values() if started.process.poll() is None]

    def start(self, name: str, command: Sequence[str], log: Path, *, stop: signal.Signals = signal.SIGTERM,
              user: str = "", within: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Started:
        """Start *command*, as *user* if given, by the command *within*; what it says goes to the end of *log*."""
        with log.open("ab") as file:
            return self._start(name, command, stop, user, environment, within, stdin=subprocess.DEVNULL, stdout=file,
                               stderr=file)

    def run(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, user: str = "",
            within: Sequence[str] = ()) -> Result:
        """Run *command* to its end. Raises Failed when it takes a minute."""
        said = " ".join(("fairlead", *command[len(FAIRLEAD):]) if tuple(command[:3]) == FAIRLEAD else command)
        started = self._start(said, command, signal.SIGTERM, user, environment, within,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, error = started.process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"`{said}` did not end in {COMMAND_S:g} s") from None
        finally:
            self.end(started, 0)
        return Result(said, started.process.returncode, out.decode(errors="replace"), error.decode(errors="replace"))

    def end(self, started: Started, seconds: float = END_S) -> int:
        """Its exit code, after it was asked to stop and, when *seconds* are over, killed."""
        if seconds and started.process.poll() is None:
            started.send(started.stop)
            with contextlib.suppress(Failed):
                started.wait(seconds)
        started.send(signal.SIGKILL)  # the rest of its group, too
        self._started.pop(started.pid, None)
        return started.process.wait()

    def close(self) -> list[Started]:
        """End everything, and start nothing any more; returns what ended only when it was killed."""
        with self._turn:
            self._closed = True
        left = list(self._started.values())
        for started in left:
            started.send(started.stop)
        deadline = time.monotonic() + END_S
        stubborn = []
        for started in left:
            with contextlib.suppress(Failed):
                started.wait(max(0.0, deadline - time.monotonic()))
            if started.process.poll() is None:
                stubborn.append(started)
            self.end(started, 0)
        return stubborn

    def _start(self, name: str, command: Sequence[str], stop: signal.Signals, user: str,
               environment: Mapping[str, str] | None = None, within: Sequence[str] = (), **streams: Any) -> Started:
        before = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        other: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user and not within else {}
        if user and within:  # only we may go there; the kernel forgets the signal with the change of the user
            before += [*within, "setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL"]
        else:
            before += within
        surroundings = {k: v for k, v in os.environ.items() if not _NOT_OURS.match(k)} | {"LC_ALL": "C"}
        with self._turn:
            if self._closed:
                raise Failed("the stage is being cleared")
            process = subprocess.Popen([*before, *command], cwd=self._folder, start_new_session=True,
                                       env=surroundings | dict(environment or {}), **streams, **other)
            started = self._started[process.pid] = Started(name, process, stop)
        return started
