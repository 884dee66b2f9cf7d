"""Each defence taken away once: the test that is named for it must fail.

The lists are TOML files beside this one. A mutant is a piece of a source file that is replaced in a copy of the
project; `caught_by` runs there. What no longer fits the source, or names a test that is gone, shows in the short run
already.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = ("src", "tests", "docs", "packaging", "pyproject.toml", "Makefile", "README.md")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defence that is taken away."""

    takes_away: str
    file: str
    old: str
    new: str
    caught_by: str


def suite(name: str) -> tuple[Callable[[Mutant], None], Callable[[Mutant, Path], None]]:
    """The tests of the list *name*; a module for each, so that they run side by side."""
    entries = tomllib.loads((HERE / f"{name}.toml").read_text())["mutant"]
    each = pytest.mark.parametrize("mutant", [Mutant(**entry) for entry in entries],
                                   ids=[f"{name}-{number}" for number in range(1, len(entries) + 1)])

    @each
    def fits(mutant: Mutant) -> None:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant.takes_away
        assert mutant.new != mutant.old
        file, _, test = mutant.caught_by.partition("::")
        function = re.split(r"[\[:]", test)[0]
        assert re.search(rf"def {function}\(", (ROOT / file).read_text()), mutant.caught_by

    @pytest.mark.whole
    @each
    def caught(mutant: Mutant, tmp_path: Path) -> None:
        for copied in COPIED:
            source = ROOT / copied
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / copied)
        changed = tmp_path / mutant.file
        changed.write_text(changed.read_text().replace(mutant.old, mutant.new))
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PYTEST_ADDOPTS": ""}
        imported = subprocess.run([sys.executable, "-c", "import fairlead; print(fairlead.__file__)"], cwd=tmp_path,
                                  env=environment, capture_output=True, text=True, check=True).stdout
        assert imported.startswith(str(tmp_path))
        done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist",
                               mutant.caught_by], cwd=tmp_path, env=environment, capture_output=True, text=True,
                              timeout=240, check=False)
        said = done.stdout[-2000:] + done.stderr[-2000:]
        assert done.returncode == pytest.ExitCode.TESTS_FAILED, f"survived: {mutant.takes_away}\n{said}"

    return fits, caught
