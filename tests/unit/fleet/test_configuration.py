"""Documents of the fleet: kept in one transaction, told to whom they concern, moved on by the leader alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.audit.log import AuditLog
from fairlead.fleet import configuration as module
from fairlead.fleet.configuration import SMALL, Configuration
from fairlead.fleet.documents import Document
from fairlead.link import frames
from fairlead.link.documents import digest
from fairlead.link.messages import AnyFromController, Assignment, Body, BodyWanted, Held, Holding, from_controller
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.records import NODES, encode
from fairlead.store.protocol import Put
from fairlead.store.sqlite import SQLiteStore
from tests.unit.nodes.test_policy import CTL_1, SE_1, SE_2
from tests.world import ManualClock, refusal

BODY = {"files": [{"path": "motd", "content": "hello"}]}


@dataclass
class Link:
    """Engines that are connected, and what they were told."""

    here: set[str] = field(default_factory=set)
    told: dict[str, asyncio.Queue[AnyFromController]] = field(default_factory=dict)
    along: dict[str, list[str]] = field(default_factory=dict)
    """Bodies that came before they were asked for."""

    def linked(self, ability: str) -> list[str]:
        assert ability == "documents/1"
        return sorted(self.here)

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        self.told.setdefault(node_id, asyncio.Queue()).put_nowait(message)

    async def send(self, node_id: str, frame: bytes) -> None:
        await self.tell(node_id, from_controller(frames.Decoder().feed(frame)[0]))

    def state(self, node: Node) -> str:
        return "up" if node.id in self.here else "down"

    async def assigned(self, node: Node) -> dict[str, int]:
        while True:
            message = await asyncio.wait_for(self.told.setdefault(node.id, asyncio.Queue()).get(), 10)
            if isinstance(message, Assignment):
                return {one.name: one.revision for one in message.documents}
            assert isinstance(message, Body)
            self.along.setdefault(node.id, []).append(message.body)


@dataclass
class House:
    store: SQLiteStore
    directory: Directory
    link: Link
    fleet: Configuration
    audit: AuditLog
    leading: bool = True

    async def put(self, name: str = "motd", **more: Any) -> Document:
        return await self.fleet.put("files", name, **{"target": "engines", "body": BODY, "by": "jane"} | more)

    async def come(self, *nodes: Node) -> None:
        for node in nodes:
            self.link.here.add(node.id)
            await self.fleet.greeted(node.id)

    async def hold(self, node: Node, document: Document, *, refused: str = "") -> None:
        held = Held(kind=document.kind, name=document.name, revision=0 if refused else document.revision,
                    digest="" if refused else document.digest, since=1, tried=document.revision if refused else 0,
                    code="FL-X" if refused else "", words=refused)
        await self.fleet.heard(node.id, Holding(documents=[held]))

    async def until(self, stage: str, name: str = "motd") -> Document:
        async with asyncio.timeout(10):
            while (found := self.fleet.one("files", name)).stage != stage:
                await self.directory.reached(self.directory.revision + 1)
        return found

    async def events(self) -> list[str]:
        return [record.event for record in await self.audit.records(100)]


@contextlib.asynccontextmanager
async def house(path: Path, *nodes: Node) -> AsyncIterator[House]:
    store = SQLiteStore.open(path / "store", ManualClock())
    await store.transact([], [Put(NODES + node.id, encode(node)) for node in (CTL_1, *nodes)])
    directory, link, audit = Directory(store), Link(), AuditLog(store, "ctl-1")
    fleet = Configuration(store, audit, directory, link, generation=lambda: "g", leading=lambda: made.leading)
    made = House(store, directory, link, fleet, audit)
    await directory.load()
    tasks = [asyncio.get_running_loop().create_task(work) for work in (directory.follow(), fleet.push(), fleet.drive())]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


async def test_a_document_comes_to_its_engines_stage_by_stage(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1, SE_2) as one:
        await one.come(SE_1, SE_2)
        assert [await one.link.assigned(node) for node in (SE_1, SE_2)] == [{}, {}]
        document = await one.put()
        assert await one.link.assigned(SE_2) == {"motd": 0}
        assert await one.link.assigned(SE_1) == {"motd": 0}
        assert await one.link.assigned(SE_1) == {"motd": document.revision}, "it has it first"
        await one.hold(SE_1, document)
        assert await one.link.assigned(SE_2) == {"motd": document.revision}
        assert one.fleet.describe(one.fleet.one("files", "motd"))["behind"] == 1
        await one.hold(SE_2, document)
        done = await one.until("done")
        shown = one.fleet.describe(done)
        assert (shown["applied"], shown["refused"], shown["behind"]) == (2, 0, 0)
        assert await one.events() == ["document.put", "document.first", "document.some", "document.all",
                                      "document.done"]
        assert not any("hello" in str(record) for record in await one.audit.records(100))


async def test_what_the_first_refuses_stays_with_it(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1, SE_2) as one:
        await one.come(SE_1, SE_2)
        document = await one.put()
        await one.hold(SE_1, document, refused="line 3: no")
        halted = await one.until("halted")
        assert "line 3: no" in halted.why
        record = (await one.audit.records(1))[0]
        assert (record.event, record.details["why"]) == ("document.halted", "1 of 1 failed; se-1 refused it")
        rows = {row["engine"]: row for row in one.fleet.status(halted)["rows"]}
        assert (rows["se-1"]["verdict"], rows["se-1"]["words"]) == ("refused", "line 3: no")
        assert rows["se-2"]["verdict"] == "behind"
        again = await one.put()
        assert again.revision > document.revision, "the same once more is another try"


async def test_an_engine_that_takes_nothing_holds_up_nobodys_document(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, SE_1, SE_2) as one:
        await one.come(SE_1, SE_2)
        assert await one.link.assigned(SE_2) == {}
        send = one.link.send

        async def deaf(node_id: str, frame: bytes) -> None:
            await (asyncio.Event().wait() if node_id == SE_1.id else send(node_id, frame))

        monkeypatch.setattr(one.link, "send", deaf)
        for number in (1, 2, 3):
            document = await one.put(body={"files": [{"path": "motd", "content": str(number)}]}, at_once=True)
            async with asyncio.timeout(5):
                while (await one.link.assigned(SE_2))["motd"] != document.revision:
                    pass


async def test_a_body_is_given_to_whom_it_is_assigned(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1, SE_2) as one:
        document = await one.put(target="se-1", at_once=True)
        for node, body in ((SE_1, document.body), (SE_2, "")):
            await one.fleet.heard(node.id, BodyWanted(digest=document.digest))
            message = await asyncio.wait_for(one.link.told[node.id].get(), 10)
            assert message == Body(digest=document.digest, body=body)
        await one.fleet.heard("nobody", BodyWanted(digest=document.digest))
        assert "nobody" not in one.link.told


async def test_a_small_body_is_sent_along_to_whom_it_comes_and_to_nobody_else(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1, SE_2) as one:
        await one.come(SE_1, SE_2)
        document = await one.put(target="se-1", at_once=True)
        large = {"files": [{"path": "large", "content": "x" * SMALL}]}
        other = await one.put("large", body=large, at_once=True)
        while "large" not in await one.link.assigned(SE_1):
            pass
        while "large" not in await one.link.assigned(SE_2):
            pass
        assert one.link.along == {SE_1.id: [document.body]}
        await one.hold(SE_1, document)
        one.fleet.left(SE_1.id)
        await one.come(SE_1)
        assert await one.link.assigned(SE_1) == {"motd": document.revision, "large": other.revision}
        assert one.link.along == {SE_1.id: [document.body]}, "it has it"


async def test_a_staged_body_is_sent_to_nobody_before_its_turn(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1, SE_2) as one:
        await one.come(SE_1, SE_2)
        document = await one.put()
        while (await one.link.assigned(SE_1)).get("motd") != document.revision:
            pass
        assert one.link.along == {SE_1.id: [document.body]}
        await one.hold(SE_1, document)
        while (await one.link.assigned(SE_2)).get("motd") != document.revision:
            pass
        assert one.link.along[SE_2.id] == [document.body]


async def test_who_comes_later_is_told_and_who_went_says_no_more(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1) as one:
        document = await one.put(at_once=True)
        await one.come(SE_1)
        assert await one.link.assigned(SE_1) == {"motd": document.revision}
        await one.hold(SE_1, document)
        await one.until("done")
        one.link.here.clear()
        one.fleet.left(SE_1.id)
        row = one.fleet.status(one.fleet.one("files", "motd"))["rows"][0]
        assert (row["state"], row["running"]) == ("down", document.revision)
        await one.come(SE_1)
        assert await one.link.assigned(SE_1) == {"motd": document.revision}, "a new connection is told anew"


async def test_only_the_leader_moves_it_on(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1) as one:
        one.leading = False
        await one.come(SE_1)
        document = await one.put()
        await one.hold(SE_1, document)
        await asyncio.sleep(0.1)
        assert one.fleet.one("files", "motd").stage == "first"
        assert not one.fleet.one("files", "motd").first
        one.leading = True
        await one.hold(SE_1, document)
        await one.until("done")


async def test_two_people_never_overwrite_each_other_unseen(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        first = await one.put(revision=0)
        assert await refusal(one.put(revision=0)) == "FL-DOCUMENT-STALE"
        assert await one.put(revision=first.revision) == first, "the same again is the same"
        other = {"files": [{"path": "motd", "content": "bye"}]}
        made = await asyncio.gather(*(one.put(body=other, target=f"se-{n}") for n in range(8)))
        assert len({document.revision for document in made}) == 8
        await one.fleet.delete("files", "motd", "jane")
        assert await refusal(one.fleet.delete("files", "motd", "jane")) == "FL-DOCUMENT-UNKNOWN"
        assert (await one.put()).revision > max(document.revision for document in made), "revisions never come again"


@pytest.mark.parametrize(("more", "code"), [
    ({"target": "controllers"}, "FL-DOCUMENT-TARGET"), ({"target": "a b"}, "FL-SERVICE"),
    ({"name": "A"}, "FL-NAME"), ({"name": "a/../b"}, "FL-NAME"), ({"body": {}}, "FL-DOCUMENT")])
async def test_what_is_no_document_is_refused(tmp_path: Path, more: dict[str, Any], code: str) -> None:
    async with house(tmp_path) as one:
        assert await refusal(one.put(**more)) == code
        assert one.fleet.all() == []


async def test_there_is_a_bound_to_all_of_them_and_to_those_of_an_engine(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, SE_1) as one:
        monkeypatch.setattr(module, "MOST_DOCUMENTS", 2)
        monkeypatch.setattr(module, "MOST", 4)
        for name, target in (("a", "engines"), ("b", "se-1"), ("c", "se-9")):
            await one.put(name, target=target)
        assert await refusal(one.put("d", target="site=lab")) == "FL-DOCUMENT-MANY"
        await one.put("a", target="se-1")
        await one.put("d", target="se-9")
        assert await refusal(one.put("e", target="se-9")) == "FL-DOCUMENT-MANY"


async def test_another_label_is_another_target(tmp_path: Path) -> None:
    async with house(tmp_path, SE_1) as one:
        await one.come(SE_1)
        assert await one.link.assigned(SE_1) == {}
        document = await one.put(target="site=lab", at_once=True)
        assert await one.link.assigned(SE_1) == {"motd": document.revision}
        await one.store.transact([], [Put(NODES + SE_1.id, encode(replace(SE_1, labels={})))])
        assert await one.link.assigned(SE_1) == {}
        assert document.digest == digest(document.body)
