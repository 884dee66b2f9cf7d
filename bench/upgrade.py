"""How long an upgrade takes each node, and how many bytes it moves: three Controllers and two engines in namespaces,
20 ms between Controllers, 70 ms to engines, from this version to another one and back.

The other version is this one with another number, as a wheel. For each node, of `upgrade status`: seconds from being
told to being confirmed, and bytes fetched. For the whole: from the command to its end.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fairlead.base.errors import FairleadError
from fairlead.cli.bench.failover import FAR_MS, NEAR_MS
from fairlead.cli.netns.network import Network
from fairlead.cli.program import FAIRLEAD
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed, Processes
from fairlead.cli.stage.town import CONTROLLERS, ENGINES, Town, pairs

ROOT = Path(__file__).parent.parent
SECOND = "99.0.0"
OVER_S = 600.0


def wheel(folder: Path) -> Path:
    """This version under another number."""
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "README.md", source)
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    (source / "pyproject.toml").write_text("\n".join(
        f'version = "{SECOND}"' if line.startswith("version = ") else line for line in lines))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=source,
                   check=True, capture_output=True)
    return folder / f"fairlead-{SECOND}-py3-none-any.whl"


def settle(town: Town) -> None:
    """Everybody is there."""
    town.network.open()
    for pair in pairs(*town.network.hosts):
        town.network.links[pair].set(delay_ms=NEAR_MS if set(pair) <= set(CONTROLLERS) else FAR_MS)
    first, *others = CONTROLLERS
    town.found(first)
    for number, name in enumerate(others, 2):
        town.enrol("controller", name, first)
        town.run(name, "controller")
        town.voting(*CONTROLLERS[:number], at=first)
    for name in ENGINES:
        town.enrol("engine", name, first)
        town.run(name, "engine")
        town.linked(name)


def step(town: Town, what: str, *command: str) -> None:
    """One upgrade, timed, and what each node says of it."""
    began = time.monotonic()
    until_over(town, json.loads(town.fairlead("upgrade", *command, "--json", on="ctl-2").done().out)["id"])
    print(f"{what}: {time.monotonic() - began:.1f} s from the command to its end")
    for row in town.shown("upgrade", "status", on="ctl-2")["nodes"]:
        print(f"  {row['node']:6} {row['version']:8} {row['state']:8}"
              f" {row['seconds']!s:>6} s {row['bytes']!s:>9} bytes")


def until_over(town: Town, begun: str) -> None:
    """That upgrade has ended well; a Controller that is started anew is asked again. Raises Failed."""
    def over() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = town.control("ctl-2").get("/api/upgrade")
        except FairleadError:
            return None
        return next((one for one in found["past"] if one["id"] == begun), None)

    found = until("the upgrade is over", over, OVER_S)
    if found["outcome"] != "done":
        raise Failed(json.dumps(found))


def main() -> None:
    """There and back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", default="1", help="engines at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fairlead-upgrade-") as name:
        folder = Path(name)
        hosts = (*CONTROLLERS, *ENGINES)
        town = Town(folder, Processes(folder), network=Network(folder / "namespaces", *hosts, joined=pairs(*hosts)))
        try:
            settle(town)
            bundle, keys = folder / "upgrade.bundle", folder / "keys"
            town.processes.run([*FAIRLEAD, "upgrade", "build", "--version", SECOND, "--output", str(bundle),
                                "--demo-keys", str(keys), str(wheel(folder))]).done()
            town.fairlead("upgrade", "trust", str(keys / "root.json"), on="ctl-1").done()
            print(f"the bundle: {bundle.stat().st_size} bytes")
            step(town, "there", "apply", str(bundle), "--batch", options.batch)
            step(town, "back", "rollback")
        finally:
            town.close()


if __name__ == "__main__":
    main()
