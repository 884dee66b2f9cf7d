"""Versions side by side: whatever happens, one that is complete is the one that runs."""

import json
import os
from pathlib import Path

import pytest

from fairlead.base.errors import FairleadError, Refused
from fairlead.upgrade import manifest
from fairlead.upgrade.manifest import File, Manifest
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.versions import MOST_HISTORY, MOST_WORDS, Standing, Versions
from tests.disk import Disk
from tests.world import Death

OWN, NEW, NEWER = "1.0.0", "1.1.0", "1.2.0"


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    (state := tmp_path / "state").mkdir(0o700)
    return Versions(state, OWN)


def put(versions: Versions, version: str, counter: int = 0, text: str = "", said: str = "") -> None:
    """*said*: the version of its manifest, where that is another one."""
    def fill(into: Path) -> None:
        for folder in ("lib", "lib/a"):
            os.mkdir(into / folder, 0o700)  # noqa: PTH102 - what `Disk` watches
        told = manifest.encode(Manifest(said or version, OWN, ("engine",), counter, (File("a.whl", 1, "0" * 64),)))
        for file, data in ("lib/a/m.py", (text or version).encode()), ("lib/n.py", version.encode()), (
                manifest.NAME, told):
            with os.fdopen(os.open(into / file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
                out.write(data)
    versions.install(version, fill)


def go(versions: Versions, version: str, counter: int = 0) -> None:
    put(versions, version, counter)
    versions.switch(version, now=1)


def content(versions: Versions, version: str) -> list[str]:
    return [(versions.path(version) / file).read_text() for file in ("lib/a/m.py", "lib/n.py")]


def refused(code: str, do: object, *arguments: object, **more: object) -> str:
    with pytest.raises(FairleadError) as caught:
        do(*arguments, **more)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value.message


def test_a_version_comes_proves_itself_and_the_way_back_is_kept(versions: Versions) -> None:
    assert versions.standing() == Standing(OWN)
    assert versions.lib(OWN) is None
    go(versions, NEW)
    assert (versions.standing().current, versions.standing().previous, versions.standing().trial) == (NEW, OWN, True)
    versions.confirm(2)
    said = versions.standing()
    assert (said.current, said.previous, said.trial, said.outcome, said.wanted) == (NEW, OWN, False, "confirmed", NEW)
    go(versions, NEWER)
    versions.back("it did not start", 3)
    said = versions.standing()
    assert (said.current, said.previous, said.outcome, said.why, said.wanted) == (
        NEW, OWN, "failed", "it did not start", NEWER)
    versions.back("asked for", 4)
    assert (versions.standing().current, versions.standing().previous) == (OWN, "")
    refused("FL-UPGRADE-PREVIOUS", versions.back, "x", 5)
    assert [(row["event"], row["version"]) for row in versions.history()] == [
        ("switched", NEW), ("confirmed", NEW), ("switched", NEWER), ("back", NEW), ("back", OWN)]


def test_a_switch_during_a_trial_goes_back_to_what_was_confirmed(versions: Versions) -> None:
    go(versions, NEW)
    go(versions, NEWER)
    versions.switch(NEWER, now=1)
    versions.back("x", 2)
    assert versions.standing().current == OWN


def test_what_is_not_there_whole_and_ours_alone_is_not_switched_to(versions: Versions, tmp_path: Path) -> None:
    refused("FL-UPGRADE-ABSENT", versions.switch, NEW, now=1)
    put(versions, NEW)
    versions.path(NEW).chmod(0o750)
    refused("FL-UPGRADE-ABSENT", versions.switch, NEW, now=1)
    refused("FL-UPGRADE-ABSENT", versions.lib, NEW)
    versions.path(NEW).chmod(0o700)
    versions.path(NEW).rename(tmp_path / "elsewhere")
    versions.path(NEW).symlink_to(tmp_path / "elsewhere")
    refused("FL-UPGRADE-ABSENT", versions.switch, NEW, now=1)
    (versions.path(NEWER) / "lib").mkdir(parents=True)
    versions.path(NEWER).chmod(0o700)
    refused("FL-UPGRADE-ABSENT", versions.switch, NEWER, now=1)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", ".", "..", "1.1", "1.1.0/..", "1.1.0\0", ""],
                         ids=["up", "absolute", "here", "parent", "short", "inside", "nul", "empty"])
def test_attack_a_standing_that_leads_elsewhere_runs_nothing_from_there(versions: Versions, name: str,
                                                                        tmp_path: Path) -> None:
    (tmp_path / "evil" / "lib").mkdir(0o700, parents=True)
    (tmp_path / "evil").chmod(0o700)
    go(versions, NEW)
    file = versions.path(NEW).parent / "standing.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"current": name, "trial": False, "previous": name}))
    assert versions.standing().current == OWN
    assert not versions.standing().trial
    refused("FL-UPGRADE-VERSION", versions.install, name, lambda _: None)


def test_attack_nothing_goes_below_the_counter_that_was_confirmed(versions: Versions) -> None:
    go(versions, NEW, counter=3)
    versions.back("a trial forbids nothing", 2)
    assert versions.seen().counter == 0
    versions.switch(NEW, now=3)
    versions.confirm(4)
    assert versions.seen().counter == 3
    refused("FL-UPGRADE-COUNTER", versions.back, "below it", 5)
    put(versions, NEWER, counter=2)
    refused("FL-UPGRADE-COUNTER", versions.switch, NEWER, now=6)
    refused("FL-UPGRADE-COUNTER", versions.switch, OWN, now=6)
    put(versions, "1.3.0", counter=3)
    versions.switch("1.3.0", now=7)
    versions.back("but back from a trial goes always", 8)
    assert versions.standing().current == NEW


def test_a_damaged_standing_has_the_base_run_unless_that_may_be_a_step_down(versions: Versions) -> None:
    go(versions, NEW)
    file = versions.path(NEW).parent / "standing.json"
    for damaged in (b"", b"{", b"[]", b'{"v":2,"current":"1.1.0"}', b'{"v":1}', b'{"v":1,"current":7}',
                    b'{"v":1,"current":"1.1.0","trial":1}', b'{"v":1,"current":"1.1.0","history":[{"a":1}]}'):
        file.write_bytes(damaged)
        assert versions.standing().current == OWN, damaged
    versions.remember(Seen(counter=1))
    assert "damaged" in refused("FL-UPGRADE-STANDING", versions.standing)
    file.unlink()
    assert versions.standing().current == OWN


@pytest.mark.parametrize("damaged", [False, True], ids=["open-to-others", "damaged"])
def test_attack_nothing_that_is_lost_or_damaged_leads_below_the_counter(versions: Versions, damaged: bool) -> None:
    """Not to the base either: whoever can spoil a file or a mode would bring an old hole back."""
    go(versions, NEW, counter=3)
    versions.confirm(2)
    if damaged:
        (versions.path(NEW).parent / "standing.json").write_bytes(b"{")
        assert versions.standing().current == NEW, "it is good"
    versions.path(NEW).chmod(0o755)
    refused("FL-UPGRADE-STANDING", versions.standing)
    for version, counter, runs in ("1.9.0", 2, ""), ("1.7.0", 4, "1.7.0"), ("1.5.0", 3, "1.5.0"), (
            "1.10.0", 4, "1.5.0"), ("1.6.0", 3, "1.6.0"):
        elsewhere = Versions(versions.path(NEW).parents[2] / f"of-{version}", OWN)
        elsewhere.path(NEW).parents[1].mkdir(0o700)
        put(elsewhere, version, counter)
        elsewhere.path(version).rename(versions.path(version))
        if runs:
            assert versions.standing().current == runs
        else:
            refused("FL-UPGRADE-STANDING", versions.standing)
    versions.path(NEW).chmod(0o700)
    assert versions.standing().current == ("1.6.0" if damaged else NEW)


def test_fields_of_a_newer_version_are_no_damage(versions: Versions) -> None:
    go(versions, NEW)
    file = versions.path(NEW).parent / "standing.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": {"x": 1}}))
    assert versions.standing().current == NEW
    versions.remember(Seen(1, 2, 3, 4, 5))
    seen = file.with_name("seen.json")
    seen.write_text(json.dumps(json.loads(seen.read_text()) | {"later": {"x": 1}}))
    versions.back("it did not start", 2)
    assert versions.standing().current == OWN
    versions.remember(Seen(timestamp=7))
    assert versions.seen() == Seen(1, 7, 3, 4, 5)
    assert json.loads(seen.read_text())["later"] == {"x": 1}, "for the next time that the newer one runs"


def test_a_version_that_was_lost_leaves_the_one_before_and_a_newer_base_goes_first(versions: Versions) -> None:
    go(versions, NEW)
    versions.confirm(2)
    go(versions, NEWER)
    versions.confirm(3)
    newer_base = Versions(versions.path(NEW).parents[1], "2.0.0")
    assert newer_base.standing().current == "2.0.0", "somebody has installed it by hand"
    versions.path(NEWER).rename(versions.path("9.0.0"))
    assert versions.standing().current == NEW
    versions.path(NEW).rename(versions.path("9.0.1"))
    assert versions.standing().current == OWN


def test_only_what_is_led_to_is_kept(versions: Versions) -> None:
    for version in (NEW, NEWER, "1.3.0"):
        go(versions, version)
        versions.confirm(2)
    put(versions, "1.4.0")
    kept = {path.name for path in versions.path(NEW).parent.iterdir() if path.is_dir()}
    assert kept == {NEWER, "1.3.0", "1.4.0"}
    put(versions, "1.4.0", text="built anew")
    assert content(versions, "1.4.0")[0] == "built anew"
    put(versions, "1.3.0", text="what runs stays")
    assert content(versions, "1.3.0")[0] == "1.3.0"
    assert refused("FL-UPGRADE-VERSION", versions.install, OWN, lambda _: None)


def test_what_fill_refuses_leaves_nothing(versions: Versions) -> None:
    def fill(into: Path) -> None:
        (into / "lib").mkdir()
        raise Refused("FL-X", "no")
    refused("FL-X", versions.install, NEW, fill)
    refused("FL-UPGRADE-MANIFEST", versions.install, NEW, lambda into: (into / "lib").mkdir())
    refused("FL-UPGRADE-MANIFEST", put, versions, NEW, said=NEWER)
    assert list(versions.path(NEW).parent.iterdir()) == []


def test_the_root_is_pinned_once_and_what_was_seen_only_rises(versions: Versions) -> None:
    go(versions, NEW)
    assert versions.root() is None
    versions.pin(b"one")
    versions.pin(b"one")
    refused("FL-UPGRADE-PINNED", versions.pin, b"two")
    assert versions.root() == b"one"
    versions.pin(b"two", replace=True)
    assert versions.root() == b"two"
    versions.remember(Seen(2, 3, 4, 5, 6))
    versions.remember(Seen(3, 1, 1, 1, 1))
    assert versions.seen() == Seen(3, 3, 4, 5, 6)
    versions.forget()
    versions.forget()
    assert (versions.root(), versions.seen(), versions.standing().current) == (None, Seen(), NEW), "another life"
    versions.remember(Seen(counter=1))
    (versions.path(NEW).parent / "seen.json").write_bytes(b"{}")
    refused("FL-STATE-DAMAGED", versions.seen)
    refused("FL-STATE-DAMAGED", versions.switch, OWN, now=1)


def test_history_and_reasons_have_bounds(versions: Versions) -> None:
    put(versions, NEW)
    for _ in range(MOST_HISTORY):
        versions.switch(NEW, now=1)
        versions.back("x\x1b" * 1000, 2)
    assert len(versions.history()) == MOST_HISTORY
    assert len(versions.standing().why) == MOST_WORDS
    assert versions.standing().why.isprintable()
    versions.explain("why\n" * 1000)
    assert versions.explained().startswith("why\\n")
    assert versions.explained() == ""


# -- power cuts and full disks ----------------------------------------------------------------------------------------

def upgraded(versions: Versions, end: str) -> None:
    """All of an upgrade, from wherever it was left."""
    put(versions, NEWER, 1)
    versions.switch(NEWER, now=1)
    versions.note({"links": 1})
    if versions.standing().trial:
        versions.attempt()
        if end == "confirmed":
            versions.confirm(2)
        else:
            versions.back("x", 3)


def sound(versions: Versions) -> None:
    """What is to run is there as a whole; so is where it would go back to."""
    said = versions.standing()
    assert said.current in (NEW, NEWER)
    assert json.loads((versions.path(NEW).parent / "standing.json").read_text())["current"] == said.current, (
        "what it names is there")
    for version in (said.current, said.previous, said.older):
        if version and version != OWN:
            assert content(versions, version) == [version, version]
            versions.lib(version)
    if said.current == NEWER:
        assert said.previous == NEW
        assert said.trial or versions.seen().counter == 1


@pytest.mark.parametrize("end", ["confirmed", "back"])
@pytest.mark.parametrize(("happened", "power"), [(False, False), (True, False), (False, True), (True, True)],
                         ids=["before", "after", "power-before", "power-after"])
def test_a_stop_at_any_step_leaves_a_version_that_runs(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happened: bool, power: bool, end: str) -> None:
    (root := tmp_path / "disk").mkdir(0o700)
    disk = Disk(root, monkeypatch)
    step = 0
    while True:
        step += 1
        disk.go_on()
        disk.clear()
        versions = Versions(root, OWN)
        go(versions, NEW)
        versions.confirm(1)
        disk.keep()
        disk.stop_at(step, happened=happened)
        try:
            upgraded(versions, end)
        except Death:
            died = True
        else:
            died = False
        disk.go_on(power_was_cut=power)
        sound(versions)
        upgraded(versions, "confirmed")
        sound(versions)
        assert (versions.standing().current, versions.standing().outcome) == (NEWER, "confirmed")
        assert not [p for p in (root / "versions").iterdir() if p.name.startswith(".new")]
        if not died:
            break
    assert step > 20


def test_a_disk_that_is_full_at_any_step_says_so_and_loses_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root := tmp_path / "disk").mkdir(0o700)
    disk = Disk(root, monkeypatch)
    step = 0
    while True:
        step += 1
        disk.go_on()
        disk.clear()
        versions = Versions(root, OWN)
        go(versions, NEW)
        versions.confirm(1)
        disk.fill_at(step)
        try:
            upgraded(versions, "confirmed")
            break
        except FairleadError as error:
            said = error.code
        assert said == "FL-DISK"
        disk.go_on()
        sound(versions)
        upgraded(versions, "confirmed")
        assert versions.standing().current == NEWER
    assert step > 15


def test_a_version_folder_is_private(versions: Versions) -> None:
    put(versions, NEW)
    assert versions.path(NEW).stat().st_mode & 0o777 == 0o700
    assert versions.path(NEW).parent.stat().st_mode & 0o777 == 0o700
