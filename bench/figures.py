"""Every measurement in a short form, and each figure beside what it has to hold and what it is to reach.

    python bench/figures.py [FOLDER]

Runs the measurements one after the other (under ten minutes on two cores; nothing else should run), and leaves what
each found as JSON in FOLDER, if one is named. Ends with 1 when a figure does not hold. In their long form the commands
give more rows, more rounds, tables and ranges: see docs/guide.md.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fairlead.cli.bench import goals

HERE = Path(__file__).resolve().parent
ROWS = [part for name in ("raw", "relay", "ssh-default", "ssh-best", "fairlead") for part in ("--row", name)]
FAR_ROWS = [part for name in ("raw", "ssh-best", "fairlead") for part in ("--row", name)]
SHORT = {
    "tunnel": ["tunnel.py", "--more", "--rounds", "5", "--seconds", "0.5", *ROWS],
    "links": ["tunnel.py", "--links", "--rounds", "1", "--seconds", "2", *FAR_ROWS],
    "handshake": ["handshake.py", "--rounds", "2", "--seconds", "1"],
    "idle": ["idle.py"],
    "failover": ["failover.py", "--rounds", "3"]}


def main(folder: Path | None) -> int:
    """The program."""
    found: dict[str, Any] = {}
    for name, (program, *options) in SHORT.items():
        print(f"== {name}: {' '.join(options)}", file=sys.stderr, flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, HERE / program, *options, "--json"], stdout=subprocess.PIPE, check=False)
        if done.returncode:
            return done.returncode
        found[name] = json.loads(done.stdout)
        if folder:
            (folder / f"{name}.json").write_bytes(done.stdout)
        print(f"== {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    figures = goals.judged(found)
    goals.show(figures)
    missed = [one.what for one in figures if one.verdict == "MISSED"]
    print("\n" + (f"does not hold: {'; '.join(missed)}" if missed else "everything that was measured holds"))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
