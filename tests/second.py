"""A second version of fairlead: this one's code under another number, with what a test changes in it."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import fairlead
from fairlead.upgrade import manifest
from fairlead.upgrade.manifest import File, Manifest
from fairlead.upgrade.versions import Versions

SECOND = "9.9.9"
MAIN = "fairlead/cli/main.py"


def fill(version: str = SECOND, counter: int = 0, changed: Mapping[str, str] | None = None) -> Callable[[Path], None]:
    """What writes its folder. *changed*: a file below ``lib``, and what is put at its beginning."""
    def write(into: Path) -> None:
        lib = into / "lib"
        shutil.copytree(Path(fairlead.__file__).parent, lib / "fairlead",
                        ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in (changed or {}).items():
            (lib / file).write_text(text + "\n" + (lib / file).read_text())
        (lib / f"fairlead-{version}.dist-info").mkdir()
        (lib / f"fairlead-{version}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: fairlead\nVersion: {version}\n")
        (into / "manifest.json").write_bytes(manifest.encode(
            Manifest(version, "0.1.0", ("controller", "engine"), counter, (File("a.whl", 1, "0" * 64),))))
        (into / "manifest.json").chmod(0o600)
    return write


def bring(versions: Versions, version: str = SECOND, now: int = 1, counter: int = 0, **changed: str) -> None:
    """Have the next start be a trial of a second version; *changed*: by ``main``, the beginning of its main module."""
    versions.install(version, fill(version, counter, {MAIN: changed["main"]} if "main" in changed else None))
    versions.switch(version, now=now)
