"""What processes use, as the kernel counts it."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path


def cpu_s(pid: int) -> float:
    """Seconds of CPU used so far, without those of its children."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_and_ended(pid: int) -> float:
    """The same, with those of its children that have ended."""
    return sum(map(int, _fields(pid)[11:15])) / os.sysconf("SC_CLK_TCK")


def total(of: Callable[[int], float], pids: Iterable[int]) -> float:
    """One of these figures *of* several processes; one that has ended counts for nothing."""
    found = 0.0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += of(pid)
    return found


def memory_mib(pid: int) -> float:
    """Private memory."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024


def resident_mib(pid: int) -> float:
    """Resident memory, shared pages included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def families(pids: Iterable[int]) -> list[int]:
    """These processes and all that they have started, however deep; ended ones are left out."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            children.setdefault(int(_fields(int(path.name))[1]), []).append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if Path(f"/proc/{pid}").exists():
            found.append(pid)
        waiting += children.get(pid, [])
    return found


def _fields(pid: int) -> list[str]:
    """Of stat, from the state on: its name may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
