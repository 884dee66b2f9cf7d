"""`upgrade build` and `upgrade verify`, as people type them, without a node and without a network."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from fairlead.base.files import write_private
from fairlead.upgrade.seen import Seen
from tests.processes import Result, fairlead
from tests.unit.upgrade.wheels import NAME, wheel


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upgrade")
    (folder / "payload").mkdir()
    (folder / "payload" / NAME).write_bytes(wheel())
    (folder / "read.me").write_bytes(b"notes")
    built(folder, "--demo-keys", folder / "keys").done()
    return folder


def built(place: Path, *more: object, output: str = "bundle", at: int | None = None) -> Result:
    return fairlead("upgrade", "build", "--version", "1.2.3", "--output", place / output, *more, place / "payload",
                    place / "read.me", env={"SOURCE_DATE_EPOCH": str(at)} if at else None)


def verified(place: Path, *more: object, file: str = "bundle", state: Path | None = None) -> Result:
    return fairlead("upgrade", "verify", place / file, *more, state=state)


def test_a_bundle_is_built_with_throw_away_keys_and_explained(place: Path) -> None:
    assert stat.S_IMODE((place / "keys").stat().st_mode) == 0o700
    told = verified(place, "--root", place / "keys" / "root.json", "--json").done().json
    assert (told["version"], told["minimum"], told["roles"]) == ("1.2.3", "0.0.0", ["controller", "engine"])
    assert [file["path"] for file in told["files"]] == ["read.me", NAME]
    assert told["sha256"] == hashlib.sha256((place / "bundle").read_bytes()).hexdigest()
    assert {role: signed["threshold"] for role, signed in told["signed"].items()} == dict.fromkeys(
        ("root", "timestamp", "snapshot", "targets"), 2)
    said = verified(place, "--root", place / "keys" / "root.json").done()
    for word in ("1.2.3", NAME, told["sha256"], told["expires_at"], "threshold".upper()):
        assert word in said.out
    assert "not checked" in said.err


def test_the_same_is_built_to_the_same_bytes(place: Path) -> None:
    options = ("--keys", place / "keys", "--role", "engine", "--minimum", "1.0.0", "--counter", 2, "--expires", 30)
    for output in ("one", "two"):
        built(place, *options, output=output, at=1_790_000_000).done()
    assert (place / "one").read_bytes() == (place / "two").read_bytes()


def test_a_changed_bundle_is_refused_with_its_reason(place: Path) -> None:
    data = bytearray((place / "bundle").read_bytes())
    data[-1025] ^= 1
    (place / "bad").write_bytes(data)
    verified(place, "--root", place / "keys" / "root.json", file="bad").refused("FL-UPGRADE-FORMAT")
    (place / "none").write_bytes(b"")
    verified(place, "--root", place / "keys" / "root.json", file="none").refused("FL-UPGRADE-FORMAT")
    verified(place, "--root", place / "bundle").refused("FL-UPGRADE-ROOT")
    verified(place, "--root", place / "absent").refused("FL-FILE")
    verified(place, "--root", place / "keys" / "root.json", file="absent").refused("FL-FILE")


def test_without_a_root_nothing_is_believed_and_a_node_has_its_own(place: Path, tmp_path: Path) -> None:
    assert "--root" in verified(place, state=tmp_path).refused("FL-UPGRADE-NO-ROOT")
    folder = tmp_path / "versions"
    folder.mkdir(0o700)
    write_private(folder / "root.json", (place / "keys" / "root.json").read_bytes())
    verified(place, state=tmp_path).done()
    write_private(folder / "seen.json", Seen(timestamp=9).encode())
    verified(place, state=tmp_path).refused("FL-UPGRADE-ROLLBACK")
    write_private(folder / "seen.json", b"{}")
    verified(place, state=tmp_path).refused("FL-STATE-DAMAGED")


@pytest.mark.parametrize(("options", "code"), [
    ((), "FL-UPGRADE-KEYS"), (("--keys", "/nonexistent"), "FL-UPGRADE-KEYS"),
    (("--keys", "keys", "--demo-keys", "more"), "FL-UPGRADE-KEYS"), (("--demo-keys", "keys"), "FL-UPGRADE-KEYS"),
    (("--keys", "keys", "--role", "portal"), "FL-UPGRADE-PAYLOAD"),
    (("--keys", "keys", "--minimum", "9.0.0"), "FL-UPGRADE-PAYLOAD"),
    (("--keys", "keys", "--minimum", "x"), "FL-UPGRADE-VERSION"),
    (("--keys", "keys", "--counter", "-1"), "FL-UPGRADE-PAYLOAD")], ids=lambda value: None)
def test_what_cannot_be_built_is_refused_by_name(place: Path, options: tuple[str, ...], code: str) -> None:
    options = tuple(str(place / word) if word in {"keys", "more"} else word for word in options)
    built(place, *options, output="not").refused(code)
    assert not (place / "not").exists()


def test_a_wrong_time_in_the_environment_is_refused(place: Path) -> None:
    done = fairlead("upgrade", "build", "--version", "1.2.3", "--output", place / "not", "--keys", place / "keys",
                    place / "read.me", env={"SOURCE_DATE_EPOCH": "soon"})
    done.refused("FL-UPGRADE-TIME")


def test_new_keys_are_followed_by_the_next_bundle(place: Path, tmp_path: Path) -> None:
    fairlead("upgrade", "build", "--version", "1.0.0", "--output", tmp_path / "a", "--demo-keys", tmp_path / "keys",
             place / "read.me").done()
    pinned = tmp_path / "pinned.json"
    pinned.write_bytes((tmp_path / "keys" / "root.json").read_bytes())
    fairlead("upgrade", "rotate-keys", tmp_path / "keys").done()
    for old in (tmp_path / "keys").glob("*-1-*.pem"):
        old.unlink()
    fairlead("upgrade", "build", "--version", "1.0.1", "--output", tmp_path / "b", "--keys", tmp_path / "keys",
             place / "read.me").done()
    told = verified(tmp_path, "--root", pinned, "--json", file="b").done().json
    assert told["signed"]["root"]["version"] == 2
    assert json.loads((tmp_path / "keys" / "last.json").read_text())["number"] == 2
    verified(tmp_path, "--root", tmp_path / "keys" / "root.json", file="a").refused("FL-UPGRADE-ROOT")
