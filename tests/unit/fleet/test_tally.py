"""What is counted as it changes is what counting anew would find, whatever changes, and in whatever order."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.fleet import documents
from fairlead.fleet.configuration import DOCUMENTS
from fairlead.fleet.documents import Document
from fairlead.fleet.rollout import Score, verdict
from fairlead.fleet.tally import Tally
from fairlead.link.messages import Held
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.records import NODES, encode
from fairlead.store.protocol import Delete, Operation, Put
from fairlead.store.sqlite import SQLiteStore
from tests.unit.fleet.test_documents import DOCUMENT, fleet
from tests.world import ManualClock

FLEET = fleet(30)


class Room:
    """A tally, and all that it is told, to count it once more."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        self.directory = Directory(store)
        self.documents: dict[str, Document] = self.directory.keep(DOCUMENTS, documents.decode)
        self.tally = Tally(self.directory, self.documents)
        self.held: dict[str, dict[str, Held]] = {}
        self.connected: set[str] = set()

    async def write(self, *operations: Operation) -> None:
        outcome = await self.store.transact([], list(operations))
        await self.directory.reached(outcome.revision)
        self.held = {node_id: held for node_id, held in self.held.items() if node_id in self.directory.nodes}

    async def put(self, document: Document) -> None:
        await self.write(Put(f"{DOCUMENTS}/{document.key}", documents.encode(document)))

    def says(self, node: Node, *held: Held) -> None:
        self.held[node.id] = {f"{one.kind}/{one.name}": one for one in held}
        self.tally.says(node.id, held)

    def comes(self, node: Node) -> None:
        self.connected.add(node.id)
        self.tally.came(node.id)

    def leaves(self, node: Node) -> None:
        self.connected.discard(node.id)
        self.tally.left(node.id)

    def check(self) -> None:
        for document in self.documents.values():
            rows = [(node, verdict(document, self.held.get(node.id, {}).get(document.key)))
                    for node in self.directory.nodes.values() if document.meant_for(node)]
            assert self.tally.numbers(document) == Counter(said for _, said in rows)
            asked = [said for node, said in rows if node.id in self.connected and document.reaches(node)]
            assert self.tally.score(document) == Score(len(asked), asked.count("refused"), asked.count("behind"))
            assert {(one.node.id, one.verdict) for one in self.tally.standings(document)} == {
                (node.id, said) for node, said in rows if node.id in self.connected}


@contextlib.asynccontextmanager
async def room(path: Path) -> AsyncIterator[Room]:
    store = SQLiteStore.open(path / "store", ManualClock())
    made = Room(store)
    await made.directory.load()
    following = asyncio.get_running_loop().create_task(made.directory.follow())
    try:
        await made.write(*(Put(NODES + node.id, encode(node)) for node in FLEET))
        yield made
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


def held(document: Document, draw: random.Random) -> Held:
    tried = draw.choice((0, document.revision))
    return Held(kind=document.kind, name=document.name, revision=draw.choice((0, document.revision)),
                digest=document.digest, since=1, tried=tried, words="no" if tried else "")


@pytest.mark.parametrize("seed", range(6))
async def test_it_is_what_counting_anew_would_find(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    async with room(tmp_path) as one:
        for revision in range(1, 120):
            node, name = draw.choice(FLEET), draw.choice(("motd", "issue"))
            now = one.documents.get(f"files/{name}")
            match draw.randrange(8):
                case 0:
                    await one.put(replace(DOCUMENT, name=name, revision=revision, target=draw.choice(
                        ("engines", "site=a", FLEET[0].name)), stage="first", first=node.id))
                case 1 if now is not None:
                    await one.put(replace(now, stage=draw.choice(("some", "all", "done", "halted"))))
                case 2:
                    await one.write(Put(NODES + node.id, encode(replace(node, labels=draw.choice(
                        ({}, {"site": "a"})), state=draw.choice(("up", "frozen"))))))
                case 3 if node.id in one.directory.nodes:
                    await one.write(Delete(NODES + node.id))
                case 4 if now is not None and draw.random() < 0.1:
                    await one.write(Delete(f"{DOCUMENTS}/{now.key}"))
                case 5:
                    one.leaves(node)
                case 6:
                    one.comes(node)
                case _ if node.id in one.directory.nodes:
                    one.says(node, *(held(document, draw) for document in one.documents.values()))
                case _:
                    pass
            if draw.random() < 0.5:  # else several changes come together
                one.check()
        await one.directory.load()  # after a gap in what was followed
        one.check()
        assert any(document.meant_for(node) for document in one.documents.values() for node in FLEET)


async def test_what_an_engine_held_goes_with_the_engine(tmp_path: Path) -> None:
    async with room(tmp_path) as one:
        await one.put(DOCUMENT)
        mine = Held(kind="files", name=DOCUMENT.name, revision=DOCUMENT.revision, digest=DOCUMENT.digest, since=1)
        one.says(FLEET[0], mine)
        assert one.tally.numbers(DOCUMENT)["applied"] == 1
        await one.write(Delete(NODES + FLEET[0].id))
        await one.write(Put(NODES + FLEET[0].id, encode(FLEET[0])))  # another engine, were it told by its id alone
        assert one.tally.holds(FLEET[0].id) == {}
        one.check()
