"""Images are given to few at once, in turns that end, and nothing that is not on record."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.fleet.images import Giving
from fairlead.link import frames
from fairlead.link.images import VERSION, Incoming, Want
from fairlead.transport.peer import Peer
from fairlead.upgrade.images import Images
from tests.unit.fleet.test_logs import End, pair

SHA, UPLOADED = "a" * 64, "b" * 64
DATA = bytes(range(256)) * 4000


class Recorded:
    def size_of(self, sha256: str) -> int | None:
        return len(DATA) if sha256 == SHA else None


@pytest.fixture
def images(tmp_path: Path) -> Images:
    tmp_path.chmod(0o700)
    made = Images(tmp_path, space=lambda _: 2**50)
    for name in (SHA, UPLOADED):
        made.begin(name, len(DATA))
        made.path(name).write_bytes(DATA)
    return made


def ask(giving: Giving, node: str, sha256: str = SHA, offset: int = 0) -> tuple[End, "asyncio.Task[None]"]:
    ours, theirs = pair()
    hello = frames.encode(Want(v=VERSION, sha256=sha256, offset=offset).model_dump())
    theirs.came.put_nowait(hello)
    peer = Peer(node_id=node, node=node, role="engine", user="u", standing="active", fingerprint="f")
    cast("Any", theirs).send_now = ours.came.put_nowait

    async def serve() -> None:
        await giving.serve(peer, cast("Any", theirs))
        theirs.close()

    return ours, asyncio.get_running_loop().create_task(serve())


async def all_of(end: End) -> tuple[Incoming, bytes]:
    incoming, found = Incoming(), b""
    while data := await asyncio.wait_for(end.receive(), 10):
        found += incoming.feed(data)
    return incoming, found


async def test_a_file_on_record_is_given_from_where_it_is_wanted_in_turns(images: Images) -> None:
    giving = Giving(images, Recorded(), rate=2**40, turn_bytes=400_000)
    place, turns = 0, 0
    while place < len(DATA):
        incoming, found = await all_of(ask(giving, "se-1", offset=place)[0])
        assert incoming.have is not None
        assert incoming.have.size == len(DATA)
        assert found == DATA[place:place + 400_000]
        place, turns = place + len(found), turns + 1
    assert (turns, giving.given) == (3, len(DATA))


async def test_an_upload_that_nobody_has_verified_leaves_this_controller_nowhere(images: Images) -> None:
    incoming, found = await all_of(ask(Giving(images, Recorded()), "se-1", UPLOADED)[0])
    assert incoming.have is not None
    assert (incoming.have.code, found) == ("FL-IMAGE-UNKNOWN", b"")


async def test_few_are_served_at_once_and_who_is_slow_loses_the_turn(images: Images) -> None:
    giving = Giving(images, Recorded(), rate=1, at_once=2, turn_s=0.2)  # nobody gets further than one piece
    asked = [ask(giving, f"se-{number}") for number in range(4)]
    await asyncio.sleep(0.1)
    assert sum(not end.came.empty() for end, _ in asked) == 2
    await asyncio.wait_for(asyncio.gather(*(task for _, task in asked)), 10)
    assert all([(await all_of(end))[1] for end, _ in asked])


async def test_a_node_has_one_turn(images: Images) -> None:
    giving = Giving(images, Recorded(), rate=1, at_once=8, turn_s=5.0)
    _, first = ask(giving, "se-1")
    await asyncio.sleep(0.05)
    second, serving = ask(giving, "se-1")
    await asyncio.wait_for(second.receive(), 5)
    assert len(giving._newest) == 1
    for task in (first, serving):
        task.cancel()
    await asyncio.gather(first, serving, return_exceptions=True)
    assert giving._newest == {}


async def test_attack_many_questions_of_one_node_are_one_task(images: Images) -> None:
    giving = Giving(images, Recorded(), rate=1, at_once=1, turn_s=60.0)
    _, serving = ask(giving, "se-1")  # it has the only place
    waiting = [ask(giving, "thief")[1] for _ in range(500)]
    async with asyncio.timeout(10):
        await asyncio.wait(waiting[:-1])
    assert not waiting[-1].done()
    assert not serving.done()
    serving.cancel()
    end, last = ask(giving, "thief")
    assert await asyncio.wait_for(end.receive(), 10), "who asks again is served"
    last.cancel()
    await asyncio.gather(serving, last, *waiting, return_exceptions=True)
    assert giving._newest == {}


async def test_attack_questions_that_end_one_another_leave_no_file_open(images: Images) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    giving, before = Giving(images, Recorded(), rate=1), opened()
    asked = []
    for number in range(200):
        asked.append(ask(giving, "thief")[1])
        for _ in range(number % 8):  # the next one comes at any moment of this one
            await asyncio.sleep(0)
    asked[-1].cancel()
    await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert opened() <= before


@pytest.mark.parametrize("hello", [b"\x00\x00\x00\x02{}", b"\xff\xff\xff\xff", b"", frames.encode(
    {"v": 1, "sha256": "../" + "a" * 61, "offset": 0}), frames.encode({"v": 1, "sha256": SHA, "offset": -1})],
    ids=["empty", "long", "nothing", "path", "negative"])
async def test_what_is_no_question_gets_no_bytes(images: Images, hello: bytes) -> None:
    ours, theirs = pair()
    theirs.came.put_nowait(hello)
    cast("Any", theirs).send_now = ours.came.put_nowait
    giving = Giving(images, Recorded())
    await giving.serve(cast("Any", None) or Peer(node_id="n", node="n", role="engine", user="u", standing="active",
                                                 fingerprint="f"), cast("Any", theirs))
    theirs.close()
    _, found = await all_of(ours)
    assert found == b""
    assert giving.given == 0
