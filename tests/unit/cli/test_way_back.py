"""`upgrade back`, and what `run` does before the daemon."""

import shutil
from pathlib import Path

import pytest

from fairlead.base.version import installed
from fairlead.cli import daemons
from fairlead.engine.settings import EngineSettings
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.versions import Versions
from tests.processes import fairlead
from tests.unit.upgrade.test_versions import put

NEW = "9.9.9"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (made := tmp_path / "state").mkdir(0o700)
    return made


def test_the_version_before_runs_from_the_next_start(state: Path) -> None:
    fairlead("upgrade", "back", state=state).refused("FL-UPGRADE-PREVIOUS")
    versions = Versions(state, installed())
    put(versions, NEW)
    versions.switch(NEW, now=1)
    versions.confirm(2)
    assert f"{installed()} runs from the next start, no longer {NEW}" in fairlead(
        "upgrade", "back", state=state).done().err
    assert versions.standing().current == installed()
    fairlead("upgrade", "back", state=state).refused("FL-UPGRADE-PREVIOUS")


def test_a_damaged_standing_leads_to_what_is_whole_and_never_below_the_counter(state: Path) -> None:
    versions = Versions(state, installed())
    put(versions, NEW, counter=1)
    versions.switch(NEW, now=1)
    versions.confirm(2)
    (state / "versions" / "standing.json").write_text("{")
    # it is whole, as far as that can be seen, and then has nothing that runs
    fairlead("engine", "run", state=state).refused("FL-UPGRADE-START", alone=False)
    shutil.rmtree(state / "versions" / NEW)
    fairlead("engine", "run", state=state).refused("FL-UPGRADE-STANDING", alone=False)


def test_another_cluster_has_its_own_root_for_upgrades(state: Path) -> None:
    versions = Versions(state, installed())
    versions.pin(b"of the old cluster")
    versions.remember(Seen(root=7, counter=7))
    daemons._settle(state, EngineSettings())
    assert (versions.root(), versions.seen()) == (None, Seen())


@pytest.mark.parametrize(("text", "found"), [
    ("upgrade_trial_s = 7.5\nsomething_of_tomorrow = 1\n", 7.5), ("upgrade_trial_s = 7\n", 7.0), ("", 60.0),
    ("upgrade_trial_s = 1\n", 60.0), ("upgrade_trial_s = 'x'\n", 60.0), ("[", 60.0)],
    ids=["set", "whole", "unset", "too-short", "text", "damaged"])
def test_the_time_of_a_trial_is_read_also_from_settings_of_tomorrow(state: Path, text: str, found: float) -> None:
    (state / "fairlead.toml").touch(0o600)
    (state / "fairlead.toml").write_text(text)
    assert daemons._trial_s(state) == found
