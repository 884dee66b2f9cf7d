"""The spool: nothing is lost over a restart, nothing grows without bound, and what is lost is said."""

import json
import os
from pathlib import Path

import pytest

from fairlead.base import files
from fairlead.base.errors import OperatorError
from fairlead.engine.spool import Spool
from tests.disk import Disk, fills_up


def opened(folder: Path, **limits: int) -> Spool:
    return Spool(folder / "spool", **limits)


def lines(spool: Spool) -> list[str]:
    place, found = spool.begin, b""
    while True:
        at, data = spool.read(place, 1000)
        if not data:
            return found.decode().splitlines()
        assert at == place
        assert data.endswith(b"\n")
        place, found = at + len(data), found + data


def test_lines_come_out_as_they_went_in_also_after_a_restart(tmp_path: Path) -> None:
    spool = opened(tmp_path, part_bytes=100)
    wanted = [f"line {number} é" for number in range(50)]
    for line in wanted[:25]:
        spool.append(line)
    spool.close()
    again = opened(tmp_path, part_bytes=100)
    assert (again.id, again.end) == (spool.id, spool.end)
    for line in wanted[25:]:
        again.append(line)
    assert lines(again) == wanted
    assert again.end == sum(len(line.encode()) + 1 for line in wanted)
    assert len(list((tmp_path / "spool").glob("*.log"))) > 5
    again.close()


def test_what_is_settled_goes_and_offsets_stay(tmp_path: Path) -> None:
    spool = opened(tmp_path, part_bytes=100)
    for number in range(50):
        spool.append(f"line {number}")
    end = spool.end
    spool.settle(end // 2)
    assert 0 < spool.begin <= end // 2
    assert spool.pending == end - end // 2
    spool.settle(end + 1000)
    assert (spool.begin, spool.end, spool.pending) == (end, end, 0)
    assert list((tmp_path / "spool").glob("*.log")) == []
    spool.append("more")
    assert (spool.begin, lines(spool)) == (end, ["more"])
    spool.close()
    again = opened(tmp_path)
    assert (again.begin, again.settled, again.pending) == (end, end, 5)
    again.settle(again.end)
    again.close()
    empty = opened(tmp_path)
    assert (empty.end, empty.pending) == (end + 5, 0), "an offset never comes again, not even of an empty spool"
    empty.close()


def test_when_it_is_full_the_oldest_goes_and_it_is_said(tmp_path: Path) -> None:
    spool = opened(tmp_path, part_bytes=100, most_bytes=500)
    for number in range(200):
        spool.append(f"line {number}")
    left = lines(spool)
    assert spool.end - spool.begin <= 600
    said = [json.loads(line)["bytes"] for line in left if "spool.dropped" in line]
    assert said
    assert "line 199" in left
    assert (spool.most, spool.dropped) == (500, spool.begin), "nobody had any of it"
    spool.close()


def test_what_was_settled_is_not_counted_as_dropped(tmp_path: Path) -> None:
    spool = opened(tmp_path, part_bytes=100, most_bytes=500)
    for number in range(60):
        spool.append(f"line {number}")
        spool.settle(spool.end - 20)
    assert not any("dropped" in line for line in lines(spool))
    spool.close()


def test_a_full_disk_costs_lines_and_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    spool.append("before")
    with monkeypatch.context() as patch:
        def full(*_: object) -> int:
            raise OSError(28, "no space")
        patch.setattr(os, "write", full)
        for _ in range(3):
            spool.append("lost")
    spool.append("after")
    found = lines(spool)
    assert (found[0], json.loads(found[1])["lines"], found[2]) == ("before", 3, "after")
    spool.close()


def test_a_disk_that_fills_up_in_the_middle_of_a_line_keeps_nothing_of_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, part_bytes=100)
    spool.append("before")
    with monkeypatch.context() as patch:
        fills_up(patch, 20)
        spool.append("a line that is longer than the room for it")
        assert spool.end == len("before\n")
    wanted = [f"after {number}" for number in range(20)]  # and more parts
    for line in wanted:
        spool.append(line)
    found = lines(spool)
    assert (found[0], json.loads(found[1])["lines"], found[2:]) == ("before", 1, wanted)
    spool.close()
    again = opened(tmp_path)
    assert (again.end, lines(again)) == (spool.end, found), "what it counted is what the disk has"
    again.close()


def test_after_a_power_cut_no_offset_that_was_offered_comes_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, monkeypatch)
    spool = opened(tmp_path, part_bytes=100)
    wanted = [f"line {number}" for number in range(30)]
    for line in wanted:
        spool.append(line)
    end = spool.sync()
    spool.append("not offered yet")
    spool.settle(end // 2)
    left = lines(spool)[:-1]
    disk.go_on(power_was_cut=True)
    again = opened(tmp_path, part_bytes=100)
    assert (again.id, again.end, lines(again)[-len(left):]) == (spool.id, end, left)
    again.settle(end)
    assert list((tmp_path / "spool").glob("*.log")) == []
    disk.go_on(power_was_cut=True)
    empty = opened(tmp_path)
    assert (empty.id, empty.end, empty.pending) == (spool.id, end, 0)


def test_a_disk_that_cannot_say_what_was_settled_keeps_the_part_that_says_where_it_ends(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, part_bytes=100)
    for number in range(30):
        spool.append(f"line {number}")
    with monkeypatch.context() as patch:
        def full(*_: object, **__: object) -> None:
            raise OperatorError("FL-DISK", "no space")
        patch.setattr(files, "write_private", full)
        spool.settle(spool.end)
    assert (spool.pending, len(list((tmp_path / "spool").glob("*.log")))) == (0, 1)
    spool.close()
    again = opened(tmp_path)
    assert again.end == spool.end
    again.close()
