"""A town and its outside: two network namespaces of ours, and strangers in the one who flood the other.

The test's own thread lives in the town while it is there, and so does whatever it starts: daemons, commands, services.
The outside is reached by one pair of virtual interfaces; strangers have up to 250 addresses there. Nothing leaves the
two, and both vanish at the end, with what was left running in them.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fairlead.cli.netns.namespace import inside as within
from tests.conftest import lacking, need
from tests.processes import Daemon, until

TOWN = "10.77.0.1"
STRANGERS = [f"10.77.1.{number}" for number in range(1, 251)]


@dataclass(frozen=True, slots=True)
class Town:
    """Where the test is."""

    outside: str
    """The name of the namespace from which strangers come."""

    def flood(self, port: int, manners: str, *, number: int = 2000,
              sources: int = 1) -> "contextlib.AbstractContextManager[Flood]":
        """*number* connections from the outside to *port* in the town, from *sources* addresses."""
        return flood(TOWN, port, manners, number, STRANGERS[:sources], before=["ip", "netns", "exec", self.outside])


@contextlib.contextmanager
def flood(host: str, port: int, manners: str, number: int, sources: Sequence[str], *,
          before: Sequence[str] = ()) -> "Iterator[Flood]":
    """*number* connections to *host*, *port* from *sources*; *manners* are named in the program."""
    with subprocess.Popen(
            [*before, "setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.netns.flood", host, str(port),
             manners, str(number), *sources],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            yield Flood(process)
        finally:
            process.kill()


@dataclass(slots=True)
class Flood:
    """A flood that goes on: who is cut comes again a second later."""

    process: "subprocess.Popen[str]"

    def now(self) -> dict[str, Any]:
        """Connections: ``opened`` since the beginning, ``cut`` by the other side, ``held`` now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def risen(self, opened: int = 2000) -> Self:
        """Itself, once so many connections were opened."""
        until(lambda: self.now()["opened"] >= opened, f"{opened} connections of strangers were opened")
        return self


@contextlib.contextmanager
def town() -> Iterator[Town]:
    """Be in a town for as long as the block lasts. Skips without root; fails then in CI."""
    need("ip", "setpriv")
    if os.geteuid() != 0:
        lacking("network namespaces need root")
    mark = f"{random.getrandbits(32):08x}"
    inside, outside = f"fl-in-{mark}", f"fl-out-{mark}"
    with contextlib.ExitStack() as after:
        for name in (inside, outside):
            ip("netns", "add", name)
            after.callback(ip, "netns", "del", name)
        ip("-n", inside, "link", "add", "in", "type", "veth", "peer", "name", "out", "netns", outside)
        ip("-n", inside, "address", "add", f"{TOWN}/16", "dev", "in")
        ip("-n", outside, "-batch", "-", given="".join(f"address add {a}/16 dev out\n" for a in STRANGERS))
        for name, link in ((inside, "lo"), (inside, "in"), (outside, "lo"), (outside, "out")):
            ip("-n", name, "link", "set", link, "up")
        after.enter_context(within(Path("/run/netns", inside)))
        yield Town(outside)


def ip(*arguments: str, given: str | None = None) -> None:
    """ip(8); *given* is what a ``-batch -`` reads."""
    subprocess.run(["ip", *arguments], input=given, text=True, check=True)


def private_mib(daemon: Daemon) -> float:
    """The memory that is the daemon's alone."""
    lines = Path(f"/proc/{daemon.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def opened(daemon: Daemon) -> int:
    """The descriptors that the daemon has open."""
    return sum(1 for _ in Path(f"/proc/{daemon.pid}/fd").iterdir())


def busy_s(daemon: Daemon) -> float:
    """The processor time that the daemon has used."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
