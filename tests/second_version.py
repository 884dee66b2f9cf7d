"""A second version of fairlead, real and built here: another number, and something that people see.

Its hosts file begins with a line that says which version wrote it. On the nodes in *broken* it does not start.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIGN = "# written by fairlead "


def build_wheel(folder: Path, version: str, *, broken: Sequence[str] = ()) -> Path:
    """The wheel of that version, in *folder*."""
    source = folder / f"source-{version}"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "README.md", source)
    _change(ROOT / "pyproject.toml", source / "pyproject.toml", _line(ROOT / "pyproject.toml", "version = "),
            f'version = "{version}"')
    plan, daemon = "src/fairlead/mesh/plan.py", "src/fairlead/engine/daemon.py"
    _change(source / plan, source / plan, '    return "".join(f"{address}',
            f'    return "{SIGN}{version}\\n" + "".join(f"{{address}}')
    _change(source / daemon, source / daemon, "    settings, keyring = load_settings(state), Keyring(state)\n",
            f"    if trust.node in {tuple(broken)!r}:\n"
            '        raise OperatorError("FL-TEST-BROKEN", "this version does not work here", "go back")\n'
            "    settings, keyring = load_settings(state), Keyring(state)\n")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=source,
                   check=True, capture_output=True)
    return folder / f"fairlead-{version}-py3-none-any.whl"


def _line(file: Path, begin: str) -> str:
    return next(line for line in file.read_text().splitlines() if line.startswith(begin))


def _change(file: Path, into: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, old
    into.write_text(text.replace(old, new))
