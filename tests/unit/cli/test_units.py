"""The systemd units: what an upgrade needs of them."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fairlead.cli.main import application
from tests.unit.cli.test_allowed import ALL

UNITS = Path(__file__).parents[3] / "packaging" / "systemd"
WAY_BACK = "fairlead-way-back@.service"


def unit(name: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string((UNITS / name).read_text())
    return read


@pytest.mark.parametrize("role", ["controller", "engine"])
def test_a_service_that_ends_again_and_again_starts_the_way_back(role: str) -> None:
    read = unit(f"fairlead-{role}.service")
    assert read["Unit"]["OnFailure"] == f"fairlead-way-back@{role}.service"
    assert read["Service"]["Restart"] == "on-failure"
    # all starts fall into the interval, also when each takes its time
    assert int(read["Unit"]["StartLimitBurst"]) * 20 <= int(read["Unit"]["StartLimitIntervalSec"])
    assert read["Service"]["NotifyAccess"] == "all", "a version on trial is a child"
    assert read["Service"]["Type"] == "notify"


def test_the_way_back_is_a_command_that_there_is_and_a_start() -> None:
    service = unit(WAY_BACK)["Service"]
    assert service["User"] == "fairlead"
    assert ("upgrade", "back") in ALL
    text = (UNITS / WAY_BACK).read_text()
    assert re.search(r"^ExecStart=\S+/fairlead upgrade back --state /var/lib/fairlead$", text, re.MULTILINE)
    assert [line for line in text.splitlines() if line.startswith("ExecStartPost")] == [
        "ExecStartPost=+/bin/systemctl reset-failed fairlead-%i.service",
        "ExecStartPost=+/bin/systemctl --no-block start fairlead-%i.service"]
    assert application()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for path in UNITS.glob("*.service"):
        for name in [path.name.replace("@", f"@{role}") for role in ("controller", "engine")]:
            (tmp_path / name).write_text(path.read_text().replace("/opt/fairlead/.venv/bin/fairlead", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "fairlead" in line]) == (0, [])
