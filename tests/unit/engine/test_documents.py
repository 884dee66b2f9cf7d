"""An engine's documents: made so in order, refused without loss, kept over bad times, whoever tells of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from fairlead.base import files
from fairlead.base.errors import OperatorError, Refused
from fairlead.engine import telling
from fairlead.engine.documents import FOLDER, MOST_BROUGHT, Documents
from fairlead.link.documents import digest
from fairlead.link.messages import Assigned, Assignment, Held


class Driver:
    """Takes every body but those with *bad* in them, and remembers the order."""

    def __init__(self) -> None:
        self.force: dict[str, str] = {}
        self.log: list[str] = []
        self.broken = False
        self.hold = asyncio.Event()
        self.hold.set()
        self.begun = asyncio.Event()
        self.problems: list[str] = []

    async def apply(self, name: str, text: str, others: Mapping[str, str]) -> None:
        if "unfit" in text:
            raise Refused("FL-DOCUMENT", "unfit")
        self.log.append(f"apply {name} {text}")
        self.begun.set()
        assert others.keys() - {name} == self.force.keys() - {name}
        await self.hold.wait()
        if "bad" in text:
            raise Refused("FL-DRIVER-PROGRAM", "it says: bad", "mend it")
        self.force[name] = text

    async def remove(self, name: str, others: Mapping[str, str]) -> None:
        self.log.append(f"remove {name}")
        assert name in others
        if self.broken:
            raise Refused("FL-DRIVER-FILE", "it stays")
        self.force.pop(name)

    async def restore(self, held: Mapping[str, str]) -> None:
        if self.broken:
            raise Refused("FL-DRIVER-HAPROXY", "not now")
        self.log.append("restore")
        self.force = dict(held)

    async def close(self) -> None: ...


class Controller:
    def __init__(self, *bodies: str) -> None:
        self.bodies = {digest(body): body for body in bodies}
        self.asked: list[str] = []
        self.reports: asyncio.Queue[Sequence[Held]] = asyncio.Queue()
        self.silent = False
        self.reads = True
        self.hung_up: list[str] = []

    async def fetch(self, wanted: str) -> str:
        self.asked.append(wanted)
        if self.silent:
            raise Refused("FL-STREAM-LOST", "gone")
        return self.bodies.get(wanted, "")

    async def report(self, held: Sequence[Held]) -> None:
        if not self.reads:
            await asyncio.Event().wait()
        await self.reports.put(held)

    def hang_up(self, why: str) -> None:
        self.hung_up.append(why)


def wants(revision: int, *documents: tuple[str, int, str], keep: bool = False, generation: str = "g") -> Assignment:
    return Assignment(generation=generation, revision=revision, documents=[
        Assigned(kind="files", name=name, revision=number, digest=digest(body) if body else "", keep=keep)
        for name, number, body in documents])


class House:
    def __init__(self, state: Path) -> None:
        self.state = state
        self.driver = Driver()
        self.recorded: list[str] = []
        self.documents = Documents(state, {"files": self.driver}, now=lambda: 7, record=self._record)

    def _record(self, event: str, **_: str) -> None:
        self.recorded.append(event)

    async def until(self, controller: Controller, running: dict[str, int], tried: dict[str, int] | None = None) -> None:
        async with asyncio.timeout(10):
            while True:
                held = await controller.reports.get()
                if ({one.name: one.revision for one in held if one.revision} == running
                        and {one.name: one.tried for one in held if one.tried} == (tried or {})):
                    return


@contextlib.asynccontextmanager
async def house(state: Path) -> AsyncIterator[House]:
    made = House(state)
    await made.documents.restore()
    working = asyncio.get_running_loop().create_task(made.documents.work())
    try:
        yield made
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def test_documents_are_applied_in_order_changed_and_undone(tmp_path: Path) -> None:
    controller = Controller("1", "2", "3")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("b", 1, "1"), ("a", 2, "2")))
        await one.until(controller, {"a": 2, "b": 1})
        assert one.driver.log == ["restore", "apply b 1", "apply a 2"]
        one.documents.follow(controller, wants(2, ("a", 3, "3")))
        await one.until(controller, {"a": 3})
        assert one.driver.force == {"a": "3"}
        one.documents.follow(other := Controller(), wants(3, ("a", 3, "3")))
        await one.until(other, {"a": 3})
        assert one.driver.log[3:] == ["remove b", "apply a 3"], "the same again does nothing"
        assert one.recorded == ["document.applied", "document.applied", "document.removed", "document.applied"]


async def test_what_is_refused_changes_nothing_and_says_why(tmp_path: Path) -> None:
    controller = Controller("1", "bad", "unfit", "2")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("a", 1, "1")))
        await one.until(controller, {"a": 1})
        for number, body, code in ((2, "bad", "FL-DRIVER-PROGRAM"), (3, "unfit", "FL-DOCUMENT")):
            one.documents.follow(controller, wants(number, ("a", number, body)))
            await one.until(controller, {"a": 1}, {"a": number})
            assert (one.documents.held[0].code, one.driver.force) == (code, {"a": "1"})
        before = len(one.driver.log)
        one.documents.follow(other := Controller(), wants(9, ("a", 3, "unfit")))
        await one.until(other, {"a": 1}, {"a": 3})
        assert len(one.driver.log) == before, "it is not tried over and over"
        assert "unfit" in one.documents.problems[0]
        one.documents.follow(controller, wants(10, ("a", 4, "2")))
        await one.until(controller, {"a": 4})
        assert one.documents.problems == []


async def test_it_is_tried_again_when_the_settings_may_be_others(tmp_path: Path) -> None:
    controller = Controller("bad")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("a", 1, "bad")))
        await one.until(controller, {}, {"a": 1})
        one.driver.begun.clear()
        one.documents.again()
        await asyncio.wait_for(one.driver.begun.wait(), 10)
        assert one.driver.log.count("apply a bad") == 2


async def test_another_life_runs_what_was_in_force_without_any_controller(tmp_path: Path) -> None:
    controller = Controller("1", "2", "bad")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("a", 1, "1"), ("b", 2, "2"), ("c", 3, "bad")))
        await one.until(controller, {"a": 1, "b": 2}, {"c": 3})
    (tmp_path / FOLDER / "files.b.json").write_text((tmp_path / FOLDER / "files.b.json").read_text().replace(
        '"body": "2"', '"body": "9"'))
    async with house(tmp_path) as other:
        assert other.driver.force == {"a": "1"}, "a damaged one is not in force"
        other.documents.follow(controller, wants(4, ("a", 1, "1"), ("b", 2, "2")))
        await other.until(controller, {"a": 1, "b": 2})
        assert other.driver.log == ["restore", "apply b 2"], "what it has is not asked for again"


async def test_an_older_picture_is_passed_over(tmp_path: Path) -> None:
    late, controller = Controller("1"), Controller("1", "2")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(5, ("a", 2, "2")))
        await one.until(controller, {"a": 2})
        one.documents.follow(late, wants(4, ("a", 1, "1")))
        await one.until(late, {"a": 2})
        one.documents.follow(late, wants(1, ("a", 1, "1"), generation="restored"))
        await one.until(late, {"a": 1})


async def test_who_is_not_reached_yet_keeps_what_he_has(tmp_path: Path) -> None:
    controller = Controller("1", "2")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("a", 2, "2")))
        await one.until(controller, {"a": 2})
        one.documents.follow(controller, wants(2, ("a", 1, "1"), ("b", 1, "1"), ("c", 0, ""), keep=True))
        await one.until(controller, {"a": 2, "b": 1})


async def test_a_body_is_taken_from_who_has_it_and_only_as_announced(tmp_path: Path) -> None:
    liar, dead, honest = Controller(), Controller(), Controller("1")
    liar.bodies[digest("1")] = "another"
    dead.silent = True
    async with house(tmp_path) as one:
        for source in (honest, dead, liar):
            one.documents.follow(source, wants(1, ("a", 1, "1")))
        await one.until(honest, {"a": 1})
        assert one.driver.force == {"a": "1"}
        one.documents.left(honest)
        one.documents.follow(liar, wants(2, ("a", 1, "1"), ("b", 2, "2")))
        await one.until(liar, {"a": 1})
        assert "b" not in one.driver.force
        honest.bodies[digest("2")] = "2"
        one.documents.follow(honest, wants(2, ("a", 1, "1"), ("b", 2, "2")))
        await one.until(honest, {"a": 1, "b": 2})


async def test_a_body_that_came_along_is_not_asked_for_and_counts_by_its_digest(tmp_path: Path) -> None:
    controller = Controller("1", "2")
    async with house(tmp_path) as one:
        one.documents.brought(digest("1"), "1")
        one.documents.brought(digest("2"), "another")
        for number in range(MOST_BROUGHT - 2):
            one.documents.brought(digest(f"other {number}"), "x")
        one.documents.follow(controller, wants(1, ("a", 1, "1"), ("b", 2, "2")))
        await one.until(controller, {"a": 1, "b": 2})
        assert (controller.asked, one.driver.force) == ([digest("2")], {"a": "1", "b": "2"})


async def test_what_comes_while_one_is_applied_is_what_counts(tmp_path: Path) -> None:
    controller = Controller("1", "2", "3")
    async with house(tmp_path) as one:
        one.driver.hold.clear()
        one.documents.follow(controller, wants(1, ("a", 1, "1"), ("b", 2, "2")))
        await asyncio.wait_for(one.driver.begun.wait(), 10)
        one.documents.follow(controller, wants(2, ("a", 3, "3")))
        one.driver.hold.set()
        await one.until(controller, {"a": 3})
        assert "apply b 2" not in one.driver.log


async def test_when_the_disk_is_full_what_was_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller("1", "2")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("a", 1, "1")))
        await one.until(controller, {"a": 1})

        def full(path: Path, data: bytes) -> None:
            raise OperatorError("FL-DISK", "no space")

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_private", full)
            one.documents.follow(controller, wants(2, ("a", 2, "2"), ("b", 3, "1")))
            await one.until(controller, {"a": 1}, {"a": 2, "b": 3})
        assert one.driver.force == {"a": "1"}


async def test_what_cannot_be_undone_or_restored_is_said_and_tried_again(tmp_path: Path) -> None:
    controller = Controller("1")
    async with house(tmp_path) as one:
        one.documents.follow(controller, wants(1, ("a", 1, "1")))
        await one.until(controller, {"a": 1})
        one.driver.broken = True
        one.documents.follow(controller, wants(2))
        await one.until(controller, {"a": 1}, {"a": 1})
    async with house(tmp_path) as other:
        other.driver.broken = True
        other.documents.again()
        other.documents.follow(controller, wants(2, ("a", 1, "1")))
        await other.until(controller, {"a": 1})
        assert "not in force" in other.documents.problems[0]
        other.driver.broken = False
        other.documents.follow(controller, wants(3))
        await other.until(controller, {})
        assert other.documents.problems == []


async def test_each_controller_is_told_once_what_is_held(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        first, second = Controller("a", "b"), Controller("a", "b")
        one.documents.follow(first, wants(1, ("motd", 1, "a")))
        await one.until(first, {"motd": 1})
        one.documents.follow(second, wants(1, ("motd", 1, "a")))
        await one.until(second, {"motd": 1})
        one.documents.follow(first, wants(2, ("motd", 1, "a")))  # nothing new to it
        one.documents.follow(first, wants(3, ("motd", 2, "b")))
        for controller in (first, second):
            await one.until(controller, {"motd": 2})
            assert controller.reports.empty()
        one.documents.left(first)
        one.documents.follow(first, wants(4, ("motd", 2, "b")))  # it has come back, and knows nothing
        await one.until(first, {"motd": 2})
        assert (first.reports.qsize(), second.reports.qsize()) == (0, 0)


async def test_attack_a_controller_that_does_not_read_keeps_no_document_waiting(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "SAY_S", 0.05)
    async with house(tmp_path) as one:
        deaf, other = Controller("a"), Controller("a", "b")
        deaf.reads = False
        one.documents.follow(other, wants(1, ("motd", 1, "a")))
        one.documents.follow(deaf, wants(1, ("motd", 1, "a")))
        await one.until(other, {"motd": 1})
        one.documents.follow(other, wants(2, ("motd", 2, "b")))
        await one.until(other, {"motd": 2})
        assert set(deaf.hung_up) == {"the Controller does not read"}
        assert other.hung_up == []


async def test_a_file_that_cannot_be_removed_is_said_and_ends_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as one:
        controller = Controller("a", "b")
        one.documents.follow(controller, wants(1, ("motd", 1, "a")))
        await one.until(controller, {"motd": 1})

        def refuses(path: Path) -> None:
            raise PermissionError(1, "Operation not permitted", str(path))

        with monkeypatch.context() as disk:
            disk.setattr(Path, "unlink", refuses)
            one.documents.follow(controller, wants(2))
            await one.until(controller, {"motd": 1}, {"motd": 1})
            assert one.documents.held[0].code == "FL-DISK"
