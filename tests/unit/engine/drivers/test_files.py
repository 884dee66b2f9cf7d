"""Files of documents: where the settings say, whole or not at all, and nowhere a link leads."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import OperatorError
from fairlead.engine.drivers import files as driver
from fairlead.engine.drivers.files import MOST_KEPT, FilesDriver
from fairlead.engine.settings import Destination
from fairlead.link.documents import check
from tests.world import refusal


class House:
    def __init__(self, root: Path) -> None:
        self.state, self.folder, self.log = root / "state", root / "etc", root / "log"
        self.state.mkdir(mode=0o700)
        self.folder.mkdir()
        self.destinations = {"web": Destination(folder=str(self.folder))}
        self.driver = FilesDriver(self.state, lambda: self.destinations)
        self.held: dict[str, str] = {}

    def guarded(self, pattern: str) -> None:
        """The check insists on *pattern* in a.conf; the reload writes down what it found."""
        self.destinations["web"] = Destination(
            folder=str(self.folder), check=["grep", "-q", pattern, str(self.folder / "a.conf")],
            reload=["sh", "-c", f"cat {self.folder}/a.conf >> {self.log}"])

    async def put(self, name: str, destination: str = "web", **files: Any) -> None:
        text = body(destination, {path.replace("_", "/") + ".conf": content for path, content in files.items()})
        await self.driver.apply(name, text, self.held)
        self.held[name] = text

    def found(self) -> dict[str, str]:
        return {str(path.relative_to(self.folder)): path.read_text()
                for path in sorted(self.folder.rglob("*")) if path.is_file()}


def body(destination: str, files: dict[str, str]) -> str:
    return check("files", {"destination": destination,
                           "files": [{"path": path, "content": content} for path, content in files.items()]})


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_files_come_change_and_go(house: House) -> None:
    await house.put("one", a="1", sub_b="2")
    assert house.found() == {"a.conf": "1", "sub/b.conf": "2"}
    await house.put("one", a="3", c="4")
    assert house.found() == {"a.conf": "3", "c.conf": "4"}, "what the new revision does not have is gone"
    await house.driver.remove("one", house.held)
    assert house.found() == {}


async def test_without_a_destination_they_are_in_the_state_folder(house: House) -> None:
    await house.put("one", destination="state", a="1", sub_b="2")
    assert (house.state / "files" / "a.conf").read_text() == "1"
    assert not [path for path in house.state.rglob("*") if path.stat().st_mode & 0o077], "for its owner alone"


async def test_modes_and_bytes_are_as_said(house: House) -> None:
    text = check("files", {"destination": "web", "files": [
        {"path": "key", "content_base64": "AP8K", "mode": "0600"}, {"path": "run", "content": "", "mode": "0755"}]})
    await house.driver.apply("one", text, {})
    assert (house.folder / "key").read_bytes() == b"\x00\xff\n"
    assert [stat.S_IMODE((house.folder / name).stat().st_mode) for name in ("key", "run")] == [0o600, 0o755]


async def test_what_is_not_declared_is_refused(house: House) -> None:
    assert await refusal(house.put("one", destination="etc", a="1")) == "FL-DRIVER-UNDECLARED"


async def test_what_the_check_refuses_leaves_everything_as_it_was(house: House) -> None:
    (house.folder / "b.conf").write_text("theirs")
    house.guarded("good")
    await house.put("one", a="good 1")
    assert await refusal(house.put("one", a="bad", b="ours", new_c="x")) == "FL-DRIVER-PROGRAM"
    assert house.found() == {"a.conf": "good 1", "b.conf": "theirs"}
    assert house.log.read_text() == "good 1" * 2, "after it was put back, it was reloaded"


async def test_what_the_reload_refuses_is_put_back(house: House) -> None:
    house.destinations["web"] = Destination(folder=str(house.folder), reload=["grep", "-q", "1",
                                                                              str(house.folder / "a.conf")])
    await house.put("one", a="1")
    assert await refusal(house.put("one", a="2")) == "FL-DRIVER-PROGRAM"
    assert house.found() == {"a.conf": "1"}


async def test_the_same_again_runs_nothing(house: House) -> None:
    house.guarded("good")
    await house.put("one", a="good")
    await house.driver.restore(house.held)
    assert house.log.read_text() == "good"
    (house.folder / "a.conf").write_text("half written by who was killed")
    await house.driver.restore(house.held)
    assert house.log.read_text() == "good" * 2


async def test_a_file_belongs_to_one_document(house: House) -> None:
    await house.put("one", a="1")
    assert await refusal(house.put("two", a="2")) == "FL-DRIVER-TAKEN"
    assert house.found() == {"a.conf": "1"}


async def test_a_document_that_moves_leaves_nothing_behind(house: House) -> None:
    await house.put("one", a="1")
    await house.put("one", destination="state", a="1")
    assert house.found() == {}


@pytest.mark.parametrize("kind", ["folder", "file", "pipe"])
async def test_nothing_is_written_through_what_another_has_put_there(house: House, tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.conf").write_text("safe")
    if kind == "folder":
        (house.folder / "sub").symlink_to(elsewhere)
    elif kind == "file":
        (house.folder / "sub").mkdir()
        (house.folder / "sub" / "b.conf").symlink_to(elsewhere / "b.conf")
    else:
        (house.folder / "sub").mkdir()
        os.mkfifo(house.folder / "sub" / "b.conf")
    assert await refusal(house.put("one", sub_b="x")) == "FL-DRIVER-FILE"
    assert (elsewhere / "b.conf").read_text() == "safe"


async def test_what_is_too_large_to_be_put_back_is_left_alone(house: House) -> None:
    with (house.folder / "a.conf").open("wb") as file:
        file.truncate(MOST_KEPT + 1)
    assert await refusal(house.put("one", a="1")) == "FL-DRIVER-FILE"
    assert (house.folder / "a.conf").stat().st_size == MOST_KEPT + 1


async def test_what_a_full_disk_keeps_from_being_put_back_keeps_nothing_else_from_it(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.guarded("[12]")
    await house.put("one", a="1", b="1", c="1")
    write, names = driver._write, list[str]()

    def full(folder: int, name: str, content: Any) -> None:
        names.append(name)
        if names[2:] and name != "a.conf":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "_write", full)
        with pytest.raises(OperatorError, match=r"c\.conf cannot be.*1 of 2 changes.*b\.conf cannot") as refused:
            await house.put("one", a="2", b="2", c="2")
    assert refused.value.code == "FL-DRIVER-FILE"
    assert names == ["a.conf", "b.conf", "c.conf", "b.conf", "a.conf"]
    assert house.found() == {"a.conf": "1", "b.conf": "2", "c.conf": "1"}
    assert house.log.read_text() == "1" * 2, "after it was put back as far as it could be, it was reloaded"


async def test_a_refusal_in_the_middle_undoes_the_beginning(house: House) -> None:
    (house.folder / "z").write_text("a file where a folder should be")
    assert await refusal(house.put("one", a="1", z_b="2")) == "FL-DRIVER-FILE"
    assert house.found() == {"z": "a file where a folder should be"}
    assert json.loads(body("web", {"a": "1"}))["destination"] == "web"
