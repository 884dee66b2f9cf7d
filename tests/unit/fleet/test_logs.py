"""Logs on their way up: once and in order, over cut connections, restarts and dropped parts; bounded; read in pages."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from fairlead.base.errors import Refused
from fairlead.engine import upload as uploading
from fairlead.engine.spool import Spool
from fairlead.engine.upload import Upload
from fairlead.fleet import logs as shelf
from fairlead.fleet.logs import Logs, _Appending
from fairlead.fleet.others import Others
from fairlead.fleet.reading import Reading
from fairlead.link import frames
from fairlead.link.logs import VERSION, Have, Settlements, chunk
from fairlead.nodes.node import Node
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer
from tests.disk import fills_up
from tests.unit.nodes.test_policy import CTL_1, SE_1, SE_2
from tests.world import refusal

HELLO = frames.encode(Have(v=VERSION, spool="a" * 32, begin=0, end=9).model_dump())


class End:
    """One end of a channel; *most*: after so many bytes it is cut."""

    def __init__(self, most: int = 2**60) -> None:
        self.other: End = self
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.left = most

    async def receive(self) -> bytes:
        return await self.came.get()

    async def send(self, data: bytes) -> None:
        if self.closed.is_set():
            raise Refused("FL-STREAM-LOST", "cut")
        self.other.came.put_nowait(data[:self.left])
        self.left -= len(data)
        await asyncio.sleep(0)
        if self.left <= 0:
            self.close()

    def close(self) -> None:
        for end in (self, self.other):
            if not end.closed.is_set():
                end.closed.set()
                end.came.put_nowait(b"")

    async def wait_closed(self) -> None:
        await self.closed.wait()


def pair(most: int = 2**60) -> tuple[End, End]:
    one, other = End(most), End()
    one.other, other.other = other, one
    return one, other


@dataclass
class House:
    """A Controller's shelf of logs and an engine's way to it, which is cut now and then."""

    logs: Logs
    cut_after: int = 2**60
    serving: list[asyncio.Task[None]] = field(default_factory=list)
    opened: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)

    def streams(self) -> list[str]:
        return ["ctl-1"]

    def controllers(self) -> list[str]:
        return ["ctl-1"]

    async def stream_to(self, name: str) -> Any:
        return self

    async def subsystem(self, name: str) -> Any:
        ours, theirs = pair(self.cut_after)
        self.opened += 1
        self.began.set()
        self.serving.append(asyncio.get_running_loop().create_task(serve(self.logs, theirs)))
        return ours


async def serve(logs: Logs, channel: End, node: Node = SE_1) -> None:
    peer = Peer(node_id=node.id, node=node.name, role="engine", user="aviseuser", standing="active", fingerprint="f")
    try:
        await logs.serve(peer, cast("Channel", channel))
    finally:
        channel.close()


@dataclass
class Nodes:
    nodes: dict[str, Node] = field(default_factory=lambda: {SE_1.id: SE_1, CTL_1.id: CTL_1})

    def controllers(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.role == "controller"]

    def named(self, name: str) -> Node | None:
        return next((node for node in self.nodes.values() if node.name == name), None)


@contextlib.asynccontextmanager
async def house(path: Path, **limits: int) -> AsyncIterator[House]:
    made = House(Logs(path / "ctl", Nodes(), rate=2**39, **limits))
    (path / "ctl").mkdir(exist_ok=True, mode=0o700, parents=True)
    yield made
    for task in made.serving:
        task.cancel()
    await asyncio.gather(*made.serving, return_exceptions=True)


async def flush(house: House, spool: Spool) -> None:
    upload = Upload(spool, house)
    running = asyncio.get_running_loop().create_task(upload.run())
    try:
        await asyncio.wait_for(upload.flush(), 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def reading(logs: Logs) -> Reading:
    """As the only Controller reads them."""
    nodes = cast("Any", logs._nodes)
    return Reading(nodes, logs, Others(nodes, cast("Any", None), CTL_1.id))


async def every_line(logs: Logs) -> list[str]:
    place, text = "", ""
    while (page := await reading(logs).page("se-1", place)).text:
        place, text = page.place, text + page.text
    return text.splitlines()


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"line {number} " + "x" * 80 for number in range(first, first + count)]


async def test_lines_come_up_once_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", part_bytes=10_000)
    async with house(tmp_path, file_bytes=30_000) as one:
        for line in numbered(2000):
            spool.append(line)
        await flush(one, spool)
        assert await every_line(one.logs) == numbered(2000)
        for line in numbered(10, 2000):
            spool.append(line)
        await flush(one, spool)
        assert await every_line(one.logs) == numbered(2010)
        begun = list((tmp_path / "ctl" / "logs" / SE_1.id).iterdir())
        assert not [path for path in (tmp_path / "ctl").rglob("*") if path.stat().st_mode & 0o077]
        spool.append("more")
        await flush(one, spool)
        assert list((tmp_path / "ctl" / "logs" / SE_1.id).iterdir()) == begun, "what goes on goes on in its file"


async def test_connections_that_are_cut_double_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "FullJitter", lambda *_: Soon())
    spool = Spool(tmp_path / "spool", part_bytes=10_000)
    for line in numbered(3000):
        spool.append(line)
    async with house(tmp_path) as one:
        one.cut_after = 33_333
        await flush(one, spool)
        assert one.opened > 8
        assert await every_line(one.logs) == numbered(3000)


async def test_a_disk_that_fills_up_in_the_middle_of_a_chunk_settles_nothing_of_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as one:
        channel = cast("End", await one.subsystem("x"))
        await channel.send(HELLO)
        await channel.receive()
        with monkeypatch.context() as patch:
            fills_up(patch, 400)
            await channel.send(chunk(0, b"x" * 299 + b"\n"))
            assert Settlements().feed(await channel.receive()) == 300
            await channel.send(chunk(300, b"y" * 299 + b"\n"))
            assert await asyncio.wait_for(channel.receive(), 10) == b"", "that is not settled"
        again = cast("End", await one.subsystem("x"))
        await again.send(HELLO)
        assert frames.Decoder().feed(await again.receive())[0]["offset"] == 300
        await again.send(chunk(300, b"y" * 299 + b"\n"))
        await again.receive()
        assert await every_line(one.logs) == ["x" * 299, "y" * 299]
        again.close()


class Soon:
    def next(self) -> float:
        return 0.0

    def reset(self) -> None: ...


async def test_an_engine_that_forgot_what_was_settled_doubles_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    async with house(tmp_path) as one:
        for line in numbered(100):
            spool.append(line)
        (tmp_path / "copy").mkdir(mode=0o700)
        for file in (tmp_path / "spool").iterdir():
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
            (tmp_path / "copy" / file.name).chmod(0o600)
        await flush(one, spool)
        back = Spool(tmp_path / "copy")
        for line in numbered(5, 100):
            back.append(line)
        await flush(one, back)
        assert await every_line(one.logs) == numbered(105)


async def test_an_engine_whose_disk_was_set_back_loses_no_new_line_and_doubles_none(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "FullJitter", lambda *_: Soon())
    spool, part = Spool(tmp_path / "spool"), tmp_path / "spool" / f"{0:020d}.log"
    async with house(tmp_path) as one:
        for line in numbered(100):
            spool.append(line)
        saved = part.read_bytes()
        await flush(one, spool)
        part.write_bytes(saved[:saved.index(b"line 40")])
        (tmp_path / "spool" / "settled").unlink()
        back = Spool(tmp_path / "spool")
        assert back.end < spool.end
        for first in (100, 105):
            for line in numbered(5, first):
                back.append(line)
            await flush(one, back)
        back.close()
        assert back.id != spool.id
        again = Spool(tmp_path / "spool")
        assert (again.id, again.end) == (back.id, back.end)
        for line in numbered(5, 110):
            again.append(line)
        await flush(one, again)
        assert await every_line(one.logs) == numbered(115)


async def test_only_what_outlives_a_power_cut_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    sync, calls = spool.sync, list[int]()

    def synced() -> int:
        calls.append(sync())
        spool.append("a line that comes meanwhile")
        return calls[-1]

    monkeypatch.setattr(spool, "sync", synced)
    async with house(tmp_path) as one:
        for line in numbered(100):
            spool.append(line)
        await flush(one, spool)
        assert calls == [sum(len(line) + 1 for line in numbered(100))]
        assert await every_line(one.logs) == numbered(100)
        monkeypatch.undo()
        await flush(one, spool)
        assert await every_line(one.logs) == [*numbered(100), "a line that comes meanwhile"]


async def test_what_was_dropped_leaves_a_gap_that_is_said(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", part_bytes=2000, most_bytes=10_000)
    async with house(tmp_path) as one:
        for line in numbered(10):
            spool.append(line)
        await flush(one, spool)
        for line in numbered(1000, 10):
            spool.append(line)
        await flush(one, spool)
        found = await every_line(one.logs)
        assert found[:10] == numbered(10)
        assert found[-1] == numbered(1, 1009)[0]
        assert any("spool.dropped" in line for line in found)
        lines = [line for line in found if line.startswith("line")]
        assert len(lines) == len(set(lines)) < 1010


async def test_another_controller_goes_on_where_the_first_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    async with house(tmp_path / "a") as one, house(tmp_path / "b") as two:
        for line in numbered(100):
            spool.append(line)
        await flush(one, spool)
        for line in numbered(100, 100):
            spool.append(line)
        await flush(two, spool)
        assert await every_line(two.logs) == numbered(100, 100)


@dataclass
class Two(House):
    """The same Controller, behind one that takes no logs."""

    open_already: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def streams(self) -> list[str]:
        return list(self.open_already)

    def controllers(self) -> list[str]:
        return ["ctl-1", "ctl-2"]

    async def stream_to(self, name: str) -> Any:
        self.asked.append(name)
        if name == "ctl-1":
            raise Refused("FL-STREAM-LOST", "its disk is full")
        return self


@pytest.mark.parametrize("open_already", [(), ("ctl-1",), ("ctl-1", "ctl-2")])
async def test_a_controller_that_takes_no_logs_keeps_them_from_nobody_else(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_already: tuple[str, ...]) -> None:
    monkeypatch.setattr(uploading, "FullJitter", lambda *_: Soon())
    spool = Spool(tmp_path / "spool")
    async with house(tmp_path) as one:
        two = Two(one.logs, serving=one.serving, open_already=open_already)
        upload = Upload(spool, two)
        with structlog.testing.capture_logs() as said:
            running = asyncio.get_running_loop().create_task(upload.run())
            for number in range(3):
                spool.append(numbered(1, number)[0])
                await asyncio.wait_for(upload.flush(), 20)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert two.asked == ["ctl-1", "ctl-2", "ctl-2", "ctl-2"]
        assert [line["controller"] for line in said if line["event"] == "logs.refused"] == ["ctl-1"]
        assert await every_line(one.logs) == numbered(3)


async def test_one_engine_fills_no_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    async with house(tmp_path, file_bytes=20_000, most_bytes=100_000) as one:
        for line in numbered(5000):
            spool.append(line)
        await flush(one, spool)
        total = sum(path.stat().st_size for path in (tmp_path / "ctl" / "logs" / SE_1.id).iterdir())
        assert total < 100_000 + 64 * 1024 + 20_000
        assert (await every_line(one.logs))[-1] == numbered(1, 4999)[0]


async def test_attack_a_file_for_each_byte_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk with a gap before it, and each greeting with another spool, begins a file."""
    monkeypatch.setattr(shelf, "MOST_FILES", 20)
    async with house(tmp_path) as one:
        for spool in "abc":
            channel = cast("End", await one.subsystem("x"))
            await channel.send(frames.encode(Have(v=VERSION, spool=spool * 32, begin=0, end=9).model_dump()))
            await channel.receive()
            for number in range(40):
                await channel.send(chunk(number * 10, b"x\n"))
                await channel.receive()
                assert len(list((tmp_path / "ctl" / "logs" / SE_1.id).iterdir())) <= 20
            channel.close()
        assert (await every_line(one.logs))[-1] == "x"


async def test_attack_more_gaps_at_once_than_there_can_be_make_no_file(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        for _ in range(2):
            channel = cast("End", await one.subsystem("x"))
            await channel.send(HELLO)
            await channel.receive()
            await channel.send(b"".join(chunk(number * 10, b"x\n") for number in range(2000)))
            assert await asyncio.wait_for(channel.receive(), 10) == b""
            assert list((tmp_path / "ctl" / "logs" / SE_1.id).iterdir()) == []
        channel = cast("End", await one.subsystem("x"))
        await channel.send(HELLO)
        await channel.receive()
        await channel.send(b"".join(chunk(number * 10, b"x\n") for number in range(shelf.MOST_GAPS + 1)))
        assert Settlements().feed(await channel.receive()) == shelf.MOST_GAPS * 10 + 2
        channel.close()


async def test_attack_who_keeps_no_pace_is_read_at_it(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        one.logs._rate = 100_000
        channel = cast("End", await one.subsystem("x"))
        await channel.send(HELLO)
        await channel.receive()
        began = asyncio.get_running_loop().time()
        for number in range(3):
            await channel.send(chunk(number * 20_000, b"x" * 20_000))
            await channel.receive()
        assert asyncio.get_running_loop().time() - began > 0.35
        channel.close()


@pytest.mark.parametrize("said", [b"", b"\x00\x00\x00\x02[]", b"\xff" * 100, frames.encode({"v": 1}), HELLO])
async def test_attack_what_cannot_be_understood_ends_it_and_leaves_nothing(tmp_path: Path, said: bytes) -> None:
    async with house(tmp_path) as one:
        channel = cast("End", await one.subsystem("x"))
        await channel.send(said)
        if said.endswith(b"\xff" * 12) and said.startswith(b"\x00"):
            await channel.receive()
            await channel.send(b"\xff" * 12)
        else:
            channel.close()
        await asyncio.wait_for(asyncio.gather(*one.serving), 10)
        assert await every_line(one.logs) == []


async def test_attack_offsets_that_lie_make_files_and_no_holes(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        channel = cast("End", await one.subsystem("x"))
        await channel.send(frames.encode(Have(v=VERSION, spool="a" * 32, begin=2**61, end=0).model_dump()))
        await channel.receive()
        await channel.send(chunk(5, b"before all\n") + chunk(2**61, b"here\n") + chunk(2**61 + 2**40, b"far\n"))
        await channel.receive()
        channel.close()
        await asyncio.gather(*one.serving)
        assert await every_line(one.logs) == ["here", "far"]
        assert sum(path.stat().st_size for path in (tmp_path / "ctl" / "logs" / SE_1.id).iterdir()) == 9


async def test_a_newer_connection_takes_the_place_of_the_older(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        first, second = [cast("End", await one.subsystem("x")) for _ in range(2)]
        await first.send(HELLO)
        await first.receive()
        await second.send(HELLO)
        assert await asyncio.wait_for(first.receive(), 10) == b""
        assert await asyncio.wait_for(second.receive(), 10)
        second.close()


async def test_the_newer_one_waits_for_the_last_write_of_the_older(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    take = _Appending.take

    def slow(self: _Appending, chunks: list[tuple[int, bytes]]) -> None:
        begun.set()
        assert go_on.wait(20)
        take(self, chunks)

    monkeypatch.setattr(_Appending, "take", slow)
    async with house(tmp_path) as one:
        first, second = [cast("End", await one.subsystem("x")) for _ in range(2)]
        await first.send(HELLO)
        await first.receive()
        await first.send(chunk(0, b"line\n"))
        await asyncio.to_thread(begun.wait, 10)
        await second.send(HELLO)
        asked = asyncio.get_running_loop().create_task(second.receive())
        await asyncio.wait([asked], timeout=0.2)
        assert not asked.done()
        go_on.set()
        found = frames.Decoder().feed(await asyncio.wait_for(asked, 10))
        assert found[0]["offset"] == 5
        second.close()


async def test_it_comes_no_faster_than_the_controller_says(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for line in numbered(2000):
        spool.append(line)
    async with house(tmp_path) as one:
        one.logs._rate = 2 * spool.end
        began = asyncio.get_running_loop().time()
        await flush(one, spool)
        assert asyncio.get_running_loop().time() - began > 0.4


async def test_few_engines_upload_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "AT_ONCE", 1)
    async with house(tmp_path) as one:
        first = cast("End", await one.subsystem("x"))
        await first.send(HELLO)
        await first.receive()
        ours, theirs = pair()
        one.serving.append(asyncio.get_running_loop().create_task(serve(one.logs, theirs, SE_2)))
        await ours.send(HELLO)
        asked = asyncio.get_running_loop().create_task(ours.receive())
        await asyncio.wait([asked], timeout=0.2)
        assert not asked.done(), "it waits for its turn"
        first.close()
        assert await asyncio.wait_for(asked, 10)
        ours.close()


@pytest.mark.parametrize(("open_already", "much", "comes"), [(True, 2**30, True), (False, 2**30, False),
                                                             (False, 10, True)])
async def test_a_connection_is_opened_for_logs_when_there_is_much_or_one_is_open(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_already: bool, much: int, comes: bool) -> None:
    monkeypatch.setattr(uploading, "SOON_S", 0.05)
    monkeypatch.setattr(uploading, "MUCH", much)
    spool = Spool(tmp_path / "spool")
    async with house(tmp_path) as one:
        one.streams = lambda: ["ctl-1"] if open_already else []  # type: ignore[method-assign]
        running = asyncio.get_running_loop().create_task(Upload(spool, one).run())
        spool.append("one line that is longer than ten bytes")
        if comes:
            await asyncio.wait_for(one.began.wait(), 10)
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.began.wait(), 0.4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_who_may_not_be_read(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        for name, place, code in (("ctl-1", "", "FL-NODE-UNKNOWN"), ("../se-1", "", "FL-NODE-UNKNOWN"),
                                  ("se-1", "../../etc", "FL-LOGS-PLACE"), ("se-1", "a" * 32 + ".-1", "FL-LOGS-PLACE")):
            assert await refusal(reading(one.logs).page(name, place)) == code
        assert (await reading(one.logs).page("se-1", "a" * 32 + ".7")).text == ""


async def test_what_is_left_of_a_removed_engine_goes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    async with house(tmp_path) as one:
        spool.append("line")
        await flush(one, spool)
        await one.logs.forget()
        assert await every_line(one.logs) == ["line"]
        cast("Nodes", one.logs._nodes).nodes[SE_1.id] = replace(SE_1, id="another")
        cast("Nodes", one.logs._nodes).nodes["another"] = cast("Nodes", one.logs._nodes).nodes.pop(SE_1.id)
        await one.logs.forget()
        assert list((tmp_path / "ctl" / "logs").iterdir()) == []
