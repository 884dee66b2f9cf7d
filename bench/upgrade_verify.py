"""Verifying a bundle of 200 MB against `sha256sum` of the same file: the ratio of the medians' rounds.

    python bench/upgrade_verify.py [ROUNDS] [MEGABYTES]

In each round each is done once, in turns as to which comes first; the file is in the page cache. The product is timed
as a node runs it, in a process that is up (`verify`), and as a person does (`upgrade verify`).
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fairlead.upgrade.build import Plan, build, gather
from fairlead.upgrade.keys import Keys, demo
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import verify

FILES = 8


def main(rounds: int, megabytes: int) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        bundle, root = made(folder, megabytes)
        ways: dict[str, Callable[[], object]] = {
            "sha256sum": lambda: subprocess.run(["sha256sum", bundle], check=True, capture_output=True),
            "verify": lambda: verified(bundle, root.read_bytes()),
            "upgrade verify": lambda: subprocess.run(
                [sys.executable, "-m", "fairlead.cli.main", "upgrade", "verify", bundle, "--root", root], check=True,
                capture_output=True),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):  # the first one fills the page cache
            names = list(ways)
            for name in names[number % 3:] + names[:number % 3]:
                begun = time.perf_counter()
                ways[name]()
                if number:
                    times[name].append(time.perf_counter() - begun)
        print(f"{bundle.stat().st_size / 1e6:.0f} MB, {rounds} rounds\n")
        print("| | median | min | max | ratio to sha256sum |\n|---|---|---|---|---|")
        for name, all_ in times.items():
            ratio = statistics.median(one / base for one, base in zip(all_, times["sha256sum"], strict=True))
            print(f"| `{name}` | {statistics.median(all_):.3f} s | {min(all_):.3f} | {max(all_):.3f} | {ratio:.2f} |")
    finally:
        shutil.rmtree(folder)


def made(folder: Path, megabytes: int) -> tuple[Path, Path]:
    now = datetime.now(UTC).replace(microsecond=0)
    (folder / "payload").mkdir()
    for number in range(FILES):
        (folder / "payload" / f"{number}.bin").write_bytes(os.urandom(megabytes * 1_000_000 // FILES))
    demo(folder / "keys", now)
    build(folder / "bundle", Keys(folder / "keys"), Plan("1.0.0", "0.0.0", ("engine",), None, now + timedelta(days=1),
                                                        gather([folder / "payload"])))
    return folder / "bundle", folder / "keys" / "root.json"


def verified(bundle: Path, root: bytes) -> None:
    fd = os.open(bundle, os.O_RDONLY)
    try:
        verify(fd, root, Seen(), time.time_ns() // 1000)
    finally:
        os.close(fd)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [9, 200][len(given):]))
