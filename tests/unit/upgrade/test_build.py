"""Bundles are made from keys in a folder, the same from the same, with numbers that rise."""

import io
import json
import os
import stat
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import FairleadError
from fairlead.upgrade.build import Plan, build, gather
from fairlead.upgrade.container import header
from fairlead.upgrade.keys import Keys, demo
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import Verified, verify

TIME = datetime(2026, 12, 1, tzinfo=UTC)
NOW = int(TIME.timestamp()) * SECOND


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    demo(tmp_path / "keys", TIME)
    return tmp_path / "keys"


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    made = tmp_path / "payload"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "a.cfg").write_bytes(b"a")
    (made / "b.cfg").write_bytes(b"b" * 3_000_000)
    return made


def plan(payload: Path, version: str = "1.0.0", counter: int | None = None) -> Plan:
    return Plan(version, "0.0.0", ("engine", "controller"), counter, TIME + timedelta(days=9), gather([payload]))


def made(folder: Path, plan: Plan, root: bytes | None = None) -> tuple[bytes, Verified]:
    output = folder.parent / "bundle"
    build(output, Keys(folder), plan)
    fd = os.open(output, os.O_RDONLY)
    try:
        return output.read_bytes(), verify(fd, root or (folder / "root.json").read_bytes(), Seen(), NOW)
    finally:
        os.close(fd)


def refused(code: str, keys: Path, plan: Plan) -> None:
    with pytest.raises(FairleadError) as caught:
        made(keys, plan)
    assert caught.value.code == code, caught.value.message


def test_keys_are_private(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert len(list(folder.glob("*.pem"))) == 12
    for path in (next(folder.glob("*.pem")), folder):
        path.chmod(0o755)
        with pytest.raises(FairleadError):
            Keys(folder)
        path.chmod(0o700 if path.is_dir() else 0o600)
    with pytest.raises(FairleadError, match="not empty"):
        demo(folder, TIME)


def test_the_same_gives_the_same_bytes_and_something_else_the_next_number(folder: Path, payload: Path) -> None:
    first, found = made(folder, plan(payload))
    assert found.seen == Seen(1, 1, 1, 1, 0)
    assert made(folder, plan(payload)) == (first, found)
    (payload / "b.cfg").touch()
    assert made(folder, plan(payload))[0] == first
    assert made(folder, plan(payload, "1.0.1"))[1].seen == Seen(1, 2, 2, 2, 0)
    assert made(folder, plan(payload, counter=5))[1].seen == Seen(1, 3, 3, 3, 5)
    assert made(folder, plan(payload, "1.0.2"))[1].seen == Seen(1, 4, 4, 4, 5), "the counter stays"
    refused("FL-UPGRADE-PAYLOAD", folder, plan(payload, counter=4))


def test_new_keys_are_followed_by_who_knows_the_old_root(folder: Path, payload: Path) -> None:
    pinned = (folder / "root.json").read_bytes()
    assert Keys(folder).rotate(TIME) == 2
    assert Keys(folder).rotate(TIME) == 3
    for old in (*folder.glob("*-1-*.pem"), *folder.glob("*-2-*.pem")):
        old.unlink()
    found = made(folder, plan(payload), pinned)[1]
    assert (found.seen.root, found.root) == (3, (folder / "root.json").read_bytes())


def test_a_threshold_of_keys_is_enough_and_fewer_are_not(folder: Path, payload: Path) -> None:
    for path in (*folder.glob("root-*.pem"), folder / "targets-1-1.pem"):
        path.unlink()
    made(folder, plan(payload))
    (folder / "targets-1-2.pem").unlink()
    refused("FL-UPGRADE-KEYS", folder, plan(payload))
    with pytest.raises(FairleadError, match="root keys"):
        Keys(folder).rotate(TIME)


def test_a_damaged_folder_of_keys_is_refused_by_name(folder: Path, payload: Path) -> None:
    (folder / "last.json").write_text('{"number": true, "content": "", "counter": 0}')
    (folder / "last.json").chmod(0o600)
    refused("FL-UPGRADE-KEYS", folder, plan(payload))
    (folder / "last.json").unlink()
    (folder / "targets-1-1.pem").write_text("no key")
    refused("FL-UPGRADE-KEYS", folder, plan(payload))
    refused("FL-UPGRADE-KEYS", folder / "none", plan(payload))


def test_what_cannot_be_in_a_bundle_is_refused_when_it_is_made(folder: Path, payload: Path, tmp_path: Path) -> None:
    (payload / "a name").touch()
    refused("FL-UPGRADE-PAYLOAD", folder, plan(payload))
    (payload / "a name").unlink()
    (payload / "link").symlink_to("/etc/passwd")
    (tmp_path / "empty").mkdir()
    for one in (payload, tmp_path / "none", tmp_path / "empty", tmp_path / ("x" * 300)):
        with pytest.raises(FairleadError) as caught:
            gather([one])
        assert caught.value.code == "FL-UPGRADE-PAYLOAD"
    (payload / "link").unlink()
    with pytest.raises(FairleadError) as caught:
        made(folder, plan(payload, "one"))
    assert caught.value.code == "FL-UPGRADE-VERSION"
    assert not list(tmp_path.glob(".bundle.*"))


def test_the_file_is_a_tar_to_everybody(folder: Path, payload: Path) -> None:
    (payload / ("x" * 90)).write_bytes(b"long")
    data, found = made(folder, plan(payload))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert names[:4] == ["metadata/1.root.json", "metadata/timestamp.json", "metadata/1.snapshot.json",
                             "metadata/1.targets.json"]
        assert all(member.isreg() and member.mode == 0o644 and member.uid == 0 for member in tar)
        last = tar.extractfile(names[-1])
        assert last is not None
        assert last.read() == b"long"
    assert json.loads((folder / "last.json").read_text())["number"] == found.seen.targets


@pytest.mark.parametrize("name", ["a", "a" * 100, "a" * 101, "d/" * 90 + "x", "a" * 511, "a" * 512, "a" * 700])
@pytest.mark.parametrize("size", [0, 1, (1 << 33) - 1])
def test_a_header_is_the_one_that_tar_writes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    with tarfile.open(fileobj=io.BytesIO(header(name, size) + bytes(1024))) as tar:
        member = tar.next()
        assert member is not None
        assert (member.name, member.size, member.type) == (name, size, tarfile.REGTYPE)
    if len(name) <= 100:
        assert header(name, size) == info.tobuf(tarfile.GNU_FORMAT)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fine", "locked"):
        (tmp_path / "payload" / name).mkdir(parents=True)
        (tmp_path / "payload" / name / "file").write_bytes(b"x")
    scan = os.scandir

    def scandir(path: "os.PathLike[str] | str") -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FairleadError, match="locked cannot be read: Permission denied") as refused:
        gather([tmp_path / "payload"])
    assert refused.value.code == "FL-UPGRADE-PAYLOAD"
