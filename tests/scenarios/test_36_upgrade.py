"""One command has a Controller and its engines run a real second version of fairlead, and another has them go back."""

import hashlib
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fairlead as package
from fairlead.base.version import installed
from tests.processes import Daemon, Site, fairlead, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(500)]
SECOND = "9.9.9"
ENGINES = ("se-1", "se-2", "se-3")
BROKEN = "import os\nif os.path.exists('{flag}') and 'se-2' in ' '.join(__import__('sys').argv): raise SystemExit(3)\n"


def wheel(folder: Path, version: str, main: str = "") -> Path:
    """This code under another number; *main*: what its main module begins with."""
    source, info = Path(package.__file__).parent, f"fairlead-{version}.dist-info"
    path = folder / f"fairlead-{version}-py3-none-any.whl"
    files = {f"fairlead/{file.relative_to(source)}": file.read_bytes() for file in sorted(source.rglob("*"))
             if file.is_file() and "__pycache__" not in file.parts}
    files["fairlead/cli/main.py"] = main.encode() + files["fairlead/cli/main.py"]
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: fairlead\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = f"{info}/RECORD,,\n"
    for name, data in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def controller(site: Site) -> Daemon:
    made = site.controller()
    for name in ENGINES:
        engine = site.join(made, name)
        engine.configure(upgrade_trial_s=40.0)
        engine.start()
    return made


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While it is there, the second version does not come up on se-2."""
    return tmp_path_factory.mktemp("flag") / "broken"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, controller: Daemon, flag: Path) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    made = folder / "second.bundle"
    fairlead("upgrade", "build", "--version", SECOND, "--output", made, "--demo-keys", folder / "keys",
             wheel(folder, SECOND, BROKEN.format(flag=flag))).done()
    controller.cli("upgrade", "trust", folder / "keys" / "root.json").done()
    return made


def status(controller: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = controller.get("/api/upgrade")
    return found


def states(controller: Daemon) -> dict[str, tuple[str, str]]:
    return {row["node"]: (row["version"], row["state"]) for row in status(controller)["nodes"]}


def test_1_an_engine_that_fails_goes_back_alone_and_it_halts(controller: Daemon, bundle: Path, flag: Path) -> None:
    flag.touch()
    said = controller.cli("upgrade", "apply", bundle, "--batch", "2", "--patience", "120s", "--wait")
    said.refused("FL-UPGRADE-HALTED", alone=False)
    found = states(controller)
    assert found["se-1"] == (SECOND, "done"), "the first, alone"
    assert found["se-2"] == (installed(), "back")
    assert found[controller.name] == (SECOND, "done")
    row = next(row for row in status(controller)["nodes"] if row["node"] == "se-2")
    assert "exit code 3" in row["why"]
    assert row["bytes"] == bundle.stat().st_size
    shown = {node["name"]: node["version"] for node in controller.get("/api/node")["results"]}
    assert shown["se-2"] == installed()
    assert shown["se-1"] == SECOND


def test_2_applied_again_all_run_it_and_configuration_goes_on(controller: Daemon, bundle: Path, flag: Path) -> None:
    flag.unlink()
    begun = controller.cli("upgrade", "apply", bundle, "--batch", "100%")
    begun.done()
    controller.cli("node", "label", "se-3", "site=lab").done()
    until(lambda: status(controller)["current"] is None, "it ends", 120)
    assert status(controller)["past"][0]["outcome"] == "done"
    until(lambda: set(states(controller).values()) == {(SECOND, "done")}, "all are connected")
    infos = controller.get("/api/upgradestatusinfo")["results"]
    assert [one["outcome"] for one in infos] == ["done", "halted"]


def test_3_and_back(controller: Daemon) -> None:
    controller.cli("upgrade", "rollback", "--batch", "100%", "--wait").done()
    until(lambda: set(states(controller).values()) == {(installed(), "done")}, "all are back, and connected")
    controller.cli("upgrade", "rollback").refused("FL-UPGRADE-NONE")
    controller.cli("audit", "verify").done()


def test_4_who_is_too_old_is_named_and_nothing_begins(controller: Daemon, tmp_path: Path, bundle: Path) -> None:
    made = tmp_path / "third.bundle"
    fairlead("upgrade", "build", "--version", "10.0.0", "--minimum", "9.9.9", "--output", made, "--keys",
             bundle.parent / "keys", wheel(tmp_path, "10.0.0")).done()
    said = controller.cli("upgrade", "apply", made)
    said.refused("FL-UPGRADE-OLD", alone=False)
    assert status(controller)["current"] is None
