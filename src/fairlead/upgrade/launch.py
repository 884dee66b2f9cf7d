"""Which version starts, and who stands by while it proves itself.

`fairlead engine run` and `fairlead controller run` of the installed package, the base, come here first. Rules, and what
each stops:

1. What stands on disk says what runs. The base runs in this very process; another version takes the process over
   (execve), so there is one process as before, under the same pid.
2. A version runs by the base's interpreter, isolated (``-I``): its own ``lib`` comes first, then the standard library
   and the base's packages. Neither the environment nor the working folder puts anything between.
3. A version on trial is a child, and the base stays as its guard, which has nothing to do but to wait. A child that
   ends, or has not proven itself in time, is gone, and the version before it runs again: whatever the new one does, it
   cannot keep its guard from that.
4. Each start of a trial is counted on disk before it begins: a machine that loses power in it does not try for ever.
   Where the disk takes no count, the version before it runs.
5. A guard that is killed takes its child along (`base.leash`): no orphan holds the node's ports.
6. Whether this process *is* a launched version is told by where its code lies. The environment says only whose child
   it is, which decides how it ends and nothing else.

Between versions holds: the command line of `boot`, the variable `GUARD`, the exit codes, and the files of `versions`.
"""

import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import structlog

import fairlead
from fairlead.base import leash
from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, OperatorError
from fairlead.base.service import notify
from fairlead.base.version import PRODUCT, installed
from fairlead.upgrade.versions import FOLDER, LIB, Standing, Versions

MAIN = "fairlead.cli.main"
GUARD = "FAIRLEAD_GUARD"
"""In a guarded child's environment: the pid of its guard."""
AGAIN, STOPPED = 86, 87
"""Exit codes of a guarded child: it is to be started anew; it was told to end, and did."""
HOLLOW = 88
"""Exit code of a version that has no fairlead of its own: the base's code in its place would start it for ever."""
MOST_ATTEMPTS = 3
STOP_S = 4.5
"""After SIGTERM a guarded child is gone."""
LOOK_S = 0.1
BOOT = ("import os, runpy, sys; sys.path.insert(0, sys.argv[1]); import fairlead; "
        "fairlead.__file__.startswith(sys.argv[1] + '/') or print('error:', sys.argv[1], 'has no fairlead of "
        "its own: have its bundle applied again, or go back [FL-UPGRADE-START]', file=sys.stderr) or "
        f"sys.exit({HOLLOW} if {GUARD!r} in os.environ else 1); sys.argv[:] = sys.argv[2:]; "
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)")

log = structlog.get_logger("fairlead.upgrade")


def own_lib() -> Path | None:
    """The ``lib`` of the version that this code belongs to; None for the base."""
    lib = Path(fairlead.__file__).absolute().parents[1]
    return lib if lib.name == LIB and lib.parents[1].name == FOLDER else None


def base_version() -> str:
    """The number of the installed package, also for a version that runs in its place."""
    lib = own_lib()
    if lib is None:
        return installed()
    elsewhere = [place for place in sys.path if place != str(lib)]
    found = next(iter(metadata.distributions(name=PRODUCT, path=elsewhere)), None)
    return "" if found is None else found.version


def versions_of(state: Path) -> Versions:
    """The versions in *state*, for whoever runs."""
    return Versions(state, base_version())


def boot(lib: Path | None, module: str) -> tuple[str, ...]:
    """The command that runs *module* of the version with this ``lib``; of the base for None."""
    if lib is None:
        return sys.executable, "-P", "-m", module
    return sys.executable, "-I", "-c", BOOT, str(lib.absolute()), module


def itself(module: str) -> tuple[str, ...]:
    """The command that runs *module* of this very version, in isolation."""
    lib = own_lib()
    return (sys.executable, "-I", "-m", module) if lib is None else boot(lib, module)


def guarded() -> bool:
    """Whether a guard waits for this process."""
    return os.environ.get(GUARD) == str(os.getppid())


def due(versions: Versions) -> bool:
    """Whether another version than this is to run. Raises OperatorError."""
    return versions.standing().current != installed()


def ended(state: Path, role: str, *, again: bool) -> None:
    """The daemon has stopped in order; *again*: to be started anew, as what stands says. Returns when it is to end."""
    if guarded():
        sys.exit(AGAIN if again else STOPPED)
    if again:
        _become(None, role, state)


def start(versions: Versions, role: str, state: Path, limit_s: float, clock: Clock) -> None:
    """Have the version run that is to run. Returns when that is this process, as it is.

    *limit_s*: a version on trial proves itself in this time. Raises OperatorError; SystemExit when a guarded version
    has ended.
    """
    if own_lib() is not None or guarded():
        return
    standing = versions.standing()
    version = standing.current
    if standing.trial:
        version = _Guard(versions, role, state, limit_s, clock, standing).watch()
    if (lib := versions.lib(version)) is not None:
        log.info("upgrade.starting", version=version)
        _become(lib, role, state)


def _command(lib: Path | None, role: str, state: Path) -> list[str]:
    return [*boot(lib, MAIN), role, "run", "--state", str(state)]


def _become(lib: Path | None, role: str, state: Path) -> None:
    command = _command(lib, role, state)
    environment = {name: value for name, value in os.environ.items() if name != GUARD}
    try:
        os.execve(command[0], command, environment)  # noqa: S606 - that is what we are for
    except OSError as error:
        raise OperatorError("FL-UPGRADE-START", f"{command[0]} cannot be started: {error.strerror}",
                            "mend the installation of fairlead") from error


class Child(Protocol):
    """The process on trial."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        ...

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        ...

    def kill(self) -> None:
        """At once."""
        ...


class _Guard:
    """Waits for one version to prove itself."""

    def __init__(self, versions: Versions, role: str, state: Path, limit_s: float, clock: Clock,
                 standing: Standing) -> None:
        self._versions = versions
        self._role, self._state = role, state
        self._limit_s = limit_s
        self._clock = clock
        self._standing = standing
        self._trying = standing.current
        self._child: Child | None = None
        self._told = 0
        """The signal by which somebody has us end."""

    def watch(self) -> str:
        """Run the version on trial. Returns the version that is to run in its place.

        Raises SystemExit: it has ended, and so is this process to do; OperatorError: nothing else here may run.
        """
        try:
            attempt = self._versions.attempt()
            self._versions.explained()  # of an earlier one
            if attempt > MOST_ATTEMPTS:
                return self._back(f"it had not proven itself in {MOST_ATTEMPTS} starts")
            lib = self._versions.lib(self._trying)
        except FairleadError as error:
            return self._back(error.line())
        notify(f"STATUS=version {self._trying} is on trial\nEXTEND_TIMEOUT_USEC={int((self._limit_s + 60) * 1e6)}")
        log.info("upgrade.trial", version=self._trying, attempt=attempt, limit_s=self._limit_s)
        before = {number: signal.signal(number, self._signalled)
                  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)}
        try:
            previous = self._wait(lib)
            if self._told:  # just now
                sys.exit(0)
            return previous
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wait(self, lib: Path | None) -> str:
        began = time.monotonic()
        self._child = child = subprocess.Popen(
            [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *_command(lib, self._role, self._state)],
            env=os.environ | {GUARD: str(os.getpid())})
        if self._told:  # in between
            self._signalled(self._told, None)
        late = False
        while True:
            try:
                code = child.wait(LOOK_S if self._proving() and not self._told else None)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() - began > self._limit_s:
                    late = True
                    child.kill()  # no drain: it may hang in that, and tell systemd that all of us end
                    code = child.wait()
                    break
        if self._told:
            sys.exit(0 if code in (0, STOPPED, -signal.SIGKILL, -self._told) else _exit_code(code))
        if not self._proving():  # it has proven itself, or another one is to run
            if code == AGAIN or late:
                _become(None, self._role, self._state)
            sys.exit(0 if code == STOPPED else _exit_code(code))
        if code == STOPPED:  # over the control socket, say
            sys.exit(0)
        if code == AGAIN:
            _become(None, self._role, self._state)
        why = f"it had not proven itself after {self._limit_s:g} s" if late else (
            f"it ended with {_said(code)} after {time.monotonic() - began:.1f} s, before it had proven itself")
        said = self._versions.explained()
        return self._back(f"{why}: {said}" if said else why)

    def _proving(self) -> bool:
        try:
            standing = self._versions.standing()
        except OperatorError:  # damaged meanwhile: nothing is proven
            return True
        return standing.trial and standing.current == self._trying

    def _back(self, why: str) -> str:
        previous = self._versions.standby(self._standing)
        log.error("upgrade.back", version=self._trying, previous=previous, reason=why)
        try:
            self._versions.back(why, self._clock.now())
        except FairleadError as error:  # a full disk, say: it runs all the same
            log.error("upgrade.unsaved", code=error.code, reason=error.message)
        return previous

    def _signalled(self, number: int, _: FrameType | Any) -> None:
        if number == signal.SIGALRM:
            if self._child is not None:
                self._child.kill()
            return
        if number != signal.SIGHUP:
            self._told = number
            signal.setitimer(signal.ITIMER_REAL, STOP_S)
        if self._child is not None:
            self._child.send_signal(number)


def _said(code: int) -> str:
    if code == HOLLOW:
        return f"exit code {code}, for it has no fairlead of its own,"
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
