"""Configuration documents of the fleet: kept in the store, told to the engines they are meant for, and followed until
those have answered.

Rules, and what each stops:

1. A change is one transaction with its audit record, made from what was there: two people never overwrite each other
   unseen. The bodies' texts are in no record.
2. An engine is given a body only when that body is assigned to it: nobody reads what is meant for others.
3. What an engine says it holds is its own word, kept for that engine alone; nothing is written per engine.
4. Only the leader moves a roll-out on, fenced by its term.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from fairlead.audit.record import Entry
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused, printable
from fairlead.fleet.documents import Document, Former, assigned, body_of, check_name, decode, encode
from fairlead.fleet.rollout import step, verdict
from fairlead.fleet.tally import Tally
from fairlead.fleet.together import Together
from fairlead.link import frames
from fairlead.link.documents import MOST_DOCUMENTS, check, shown
from fairlead.link.messages import (
    TAKES_DOCUMENTS,
    AnyFromController,
    AnyFromEngine,
    Assigned,
    Assignment,
    Body,
    BodyWanted,
    Holding,
)
from fairlead.nodes.concerned import Concerned
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.service import check_who
from fairlead.store.fence import Fence, NotLeading, unfenced
from fairlead.store.protocol import (
    Absent,
    Compare,
    Delete,
    Equal,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
)

DOCUMENTS = "documents"
COUNT = "documents-count"
"""The last revision that was given to a document."""
MOST = 2000
"""Documents of a cluster."""
TRIES = 5
TOGETHER = 64
SMALL = 16 * 1024
"""A body of no more is sent along."""
GATHER_S = 0.01
"""Changes that come together are told, and judged, together."""
REST = 4.0
"""Between two looks at what is on its way: so many times as long as the last one took."""
TICK_S = 1.0
"""While something is on its way: patience ends by the clock."""

log = structlog.get_logger("fairlead.fleet")


class Records(Protocol):
    """What is needed of the store."""

    async def get(self, key: str) -> Record | None:
        """See `store.protocol.Store`."""
        ...

    async def now(self) -> int:
        """See `store.protocol.Store`."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


class Engines(Protocol):
    """Those that are connected here."""

    def linked(self, ability: str) -> Sequence[str]:
        """The ids of those that have the *ability*."""
        ...

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...

    async def send(self, node_id: str, frame: bytes) -> None:
        """The same of a message that is encoded already."""
        ...

    def state(self, node: Node) -> str:
        """How it is: up, late, down, …"""
        ...


class Configuration:
    """The documents, and who has which of them. A subject of the link."""

    ability = TAKES_DOCUMENTS

    def __init__(self, store: Records, audit: Journal, directory: Directory, engines: Engines, *,
                 generation: Callable[[], str], leading: Callable[[], bool], fence: Fence = unfenced) -> None:
        self._store = store
        self._audit = audit
        self._directory = directory
        self._engines = engines
        self._generation = generation
        self._leading = leading
        self._fence = fence
        self._documents = directory.keep(DOCUMENTS, decode)
        self._told: dict[str, tuple[Node, int, tuple[Assigned, ...]]] = {}
        """By the id of an engine: what it was last told, and what that was made from: the node, and all documents."""
        self._known: dict[tuple[Assigned, ...], tuple[Assigned, ...]] = {}
        """Engines of one kind are told the same: it is kept once."""
        self._frames: dict[tuple[Assigned, ...] | str, bytes] = {}
        """And encoded once: what is assigned, and bodies by their digests. For one round of telling."""
        self._turn = asyncio.Lock()
        self._concerned = Concerned(directory, lambda: directory.changes[DOCUMENTS])
        self._dirty = asyncio.Event()
        self._together = Together()
        self._moved = asyncio.Event()
        """An engine has said something, or a document has changed."""
        directory.listen(self._changed)
        self._tally = Tally(directory, self._documents)

    def _changed(self) -> None:
        self._concerned.note()
        self._dirty.set()
        self._moved.set()

    # -- what people ask ----------------------------------------------------------------------------------------------

    def all(self) -> Sequence[Document]:
        """The documents, by kind and name."""
        return [document for _, document in sorted(self._documents.items())]

    def one(self, kind: str, name: str) -> Document:
        """Raises Refused FL-DOCUMENT-UNKNOWN."""
        found = self._documents.get(f"{kind}/{name}")
        if found is None:
            raise _unknown(kind, name)
        return found

    async def put(self, kind: str, name: str, *, target: str, body: Any, by: str, at_once: bool = False,
                  most_failures: int = 10, revision: int | None = None) -> Document:
        """Keep a document, in place of the one of that kind and name; the one that is there, if it is the same.

        *at_once*: to all engines, without stages. *most_failures*: percent. *revision*: the one that it was made from;
        0: there was none. Raises Refused FL-DOCUMENT…, FL-NAME, FL-SERVICE.
        """
        check_name(name)
        if check_who(target) == "controllers":
            raise Refused("FL-DOCUMENT-TARGET", "Controllers take no documents", "use engines, a label or a name")
        text = check(kind, body)
        async with self._turn:  # so that we do not race ourselves for the count
            return await self._put(kind, name, target=target, text=text, by=by, at_once=at_once,
                                   most_failures=most_failures, revision=revision)

    async def _put(self, kind: str, name: str, *, target: str, text: str, by: str, at_once: bool, most_failures: int,
                   revision: int | None) -> Document:
        key = f"{DOCUMENTS}/{kind}/{name}"
        for _ in range(TRIES):
            count, stored = await self._store.get(COUNT), await self._store.get(key)
            old = decode(stored.value) if stored is not None else None
            if revision is not None and revision != (old.revision if old else 0):
                raise Refused("FL-DOCUMENT-STALE", f"{kind}/{name} has revision {old.revision if old else 0} by now",
                              "look at it, then put yours again")
            if old is not None and (old.body, old.target) == (text, target) and old.stage != "halted":
                return old
            self._check_room(kind, name, target)
            now, number = await self._store.now(), 1 + (int(count.value) if count is not None else 0)
            new = Document(kind, name, target, number, text, now, by, "all" if at_once else "first", since=now,
                           most_failures=most_failures, former=_former(old))
            outcome = await self._audit.append_with(
                [_as_it_was(COUNT, count), _as_it_was(key, stored)],
                [Put(key, encode(new)), Put(COUNT, b"%d" % number)],
                [Entry("document.put", new.key, by, {"revision": number, "target": target, "sha256": new.digest})])
            if outcome.succeeded:
                await self._directory.reached(outcome.revision)
                return new
        raise StoreUnavailable(f"the documents changed {TRIES} times meanwhile")

    async def delete(self, kind: str, name: str, by: str) -> Document:
        """Take a document back; its engines undo it at once. Raises Refused FL-DOCUMENT-UNKNOWN."""
        key = f"{DOCUMENTS}/{kind}/{name}"
        for _ in range(TRIES):
            stored = await self._store.get(key)
            if stored is None:
                raise _unknown(kind, name)
            old = decode(stored.value)
            outcome = await self._audit.append_with(
                [_as_it_was(key, stored)], [Delete(key)],
                [Entry("document.deleted", old.key, by, {"revision": old.revision})])
            if outcome.succeeded:
                await self._directory.reached(outcome.revision)
                return old
        raise StoreUnavailable(f"the document changed {TRIES} times meanwhile")

    def describe(self, document: Document) -> dict[str, Any]:
        """It as listings show it, with how many of its engines have it."""
        numbers = self._tally.numbers(document)
        return {"kind": document.kind, "name": document.name, "target": document.target,
                "revision": document.revision, "sha256": document.digest, "put_at": rfc3339(document.at),
                "put_by": document.by, "stage": document.stage, "why": document.why or None,
                "engines": numbers.total(), "applied": numbers["applied"], "refused": numbers["refused"],
                "behind": numbers["behind"]}

    def read(self, document: Document) -> dict[str, Any]:
        """The same with its body."""
        return self.describe(document) | {"body": shown(document.body)}

    def status(self, document: Document) -> dict[str, Any]:
        """The same with its engines, by name: what runs there, since when, and what it said to this revision."""
        return self.describe(document) | {"rows": [
            self._row(node, document) for node in sorted(self._tally.meant(document), key=lambda node: node.name)]}

    def _row(self, node: Node, document: Document) -> dict[str, Any]:
        held = self._tally.holds(node.id).get(document.key)
        said = verdict(document, held)
        running = held is not None and held.revision > 0
        return {"engine": node.name, "state": self._engines.state(node), "document": document.key,
                "wanted": document.revision, "running": held.revision if held and running else None,
                "since": rfc3339(held.since) if held and running else None, "verdict": said,
                "code": held.code if held and said == "refused" else None,
                "words": held.words if held and said == "refused" else None}

    # -- what the link says -------------------------------------------------------------------------------------------

    async def greeted(self, node_id: str) -> None:
        """An engine has come: it is told what it should have."""
        self._told.pop(node_id, None)
        self._tally.came(node_id)
        self._frames.clear()  # they say up to which revision the picture is
        await self._tell(node_id)

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """An engine asks, or says what it holds."""
        node = self._directory.nodes.get(node_id)
        match message:
            case BodyWanted(digest=wanted) if node is not None:
                text = body_of(node, self._documents.values(), wanted)
                await self._engines.tell(node_id, Body(digest=wanted, body=text))
            case Holding(documents=held) if node is not None:
                self._tally.says(node_id, held)
                self._moved.set()
            case _:
                pass

    def left(self, node_id: str) -> None:
        """An engine's link has ended. What it said last is still what it runs, as far as anybody knows."""
        self._told.pop(node_id, None)
        self._tally.left(node_id)
        self._moved.set()

    async def push(self) -> None:
        """Tell whom it concerns, at every change, until cancelled."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(GATHER_S)
            self._dirty.clear()
            concerned = self._concerned.take()
            self._known.clear()
            self._frames.clear()
            linked = self._engines.linked(self.ability) if concerned is None else list(self._told.keys() & concerned)
            for start in range(0, len(linked), TOGETHER):
                await self._together.do(map(self._tell, linked[start:start + TOGETHER]))

    async def _tell(self, node_id: str) -> None:
        node = self._directory.nodes.get(node_id)
        if node is None:
            return
        told = self._told.get(node_id)
        version = self._directory.changes[DOCUMENTS]
        if told is not None and told[0] is node and told[1] == version:
            return
        documents = tuple(assigned(node, self._documents.values()))
        if len(documents) > MOST_DOCUMENTS:
            log.error("documents.many", code="FL-DOCUMENT-MANY", about=node.name, documents=len(documents))
            documents = documents[:MOST_DOCUMENTS]
        documents = self._known.setdefault(documents, documents)
        self._told[node_id] = node, version, documents
        if told is not None and told[2] == documents:
            return
        known = {one.digest for one in (told[2] if told else ())} | {
            one.digest for one in self._tally.holds(node_id).values()}
        for one in documents:
            if one.digest and not one.keep and one.digest not in known and (frame := self._small(node, one.digest)):
                await self._engines.send(node_id, frame)  # before it is asked for
        if documents not in self._frames:
            self._frames[documents] = frames.encode(Assignment(
                generation=self._generation(), revision=self._directory.revision,
                documents=list(documents)).model_dump())
        await self._engines.send(node_id, self._frames[documents])

    def _small(self, node: Node, digest: str) -> bytes:
        """The message with a body that is small; nothing for a large one, for which engines ask."""
        if digest not in self._frames:
            body = body_of(node, self._documents.values(), digest)
            self._frames[digest] = b"" if len(body) > SMALL else frames.encode(
                Body(digest=digest, body=body).model_dump())
        return self._frames[digest]

    # -- roll-outs ----------------------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """As the leader, move on what is on its way, until cancelled."""
        took = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S if self._on_its_way() else None):
                    await self._moved.wait()
            await asyncio.sleep(max(GATHER_S, min(REST * took, TICK_S)))
            self._moved.clear()
            began, took = asyncio.get_running_loop().time(), 0.0
            if self._leading():
                for document in self._on_its_way():
                    with contextlib.suppress(StoreUnavailable, NotLeading):  # the next tick tries again
                        await self._move(document)
                took = asyncio.get_running_loop().time() - began

    def _on_its_way(self) -> list[Document]:
        return [document for document in self._documents.values() if document.stage not in ("done", "halted")]

    async def _move(self, document: Document) -> None:
        now = await self._store.now()
        new = step(document, self._tally.score(document), lambda: self._tally.standings(document), now)
        if new is None:
            return
        if new.stage == document.stage:
            entry = Entry("document.first", new.key, "leader", {
                "revision": new.revision, "engine": self._directory.nodes[new.first].name})
        else:
            entry = Entry(f"document.{new.stage}", new.key, "leader", {
                "revision": new.revision, **({"why": _whose(new.why)} if new.why else {})})
        key = f"{DOCUMENTS}/{document.key}"
        outcome = await self._audit.append_with([*self._fence(), Equal(key, encode(document))], [Put(key, encode(new))],
                                                [entry])
        if outcome.succeeded:
            await self._directory.reached(outcome.revision)
            if new.stage == "halted":
                log.warning("alarm", alarm="document.halted", about=new.key, code="FL-DOCUMENT-HALTED",
                            reason=_whose(new.why))

    def _check_room(self, kind: str, name: str, target: str) -> None:
        others = [one for one in self._documents.values() if one.key != f"{kind}/{name}"]
        if len(others) >= MOST:
            raise Refused("FL-DOCUMENT-MANY", f"there are {MOST} documents", "delete some, or put several into one")
        for node in self._tally.meant(Document(kind, name, target, 0, "", 0, "")):
            if sum(one.meant_for(node) for one in others) >= MOST_DOCUMENTS:
                raise Refused("FL-DOCUMENT-MANY", f"{node.name} has {MOST_DOCUMENTS} documents",
                              "delete some, or put several into one")


def _whose(why: str) -> str:
    """Who failed, without a driver's words: they may quote the body, which is in no record."""
    return why.partition(": ")[0]


def _former(old: Document | None) -> Former | None:
    """What stays in force where a new revision has not come to yet."""
    if old is None:
        return None
    return Former(old.revision, old.target, old.body) if old.stage in ("all", "done") else old.former


def _unknown(kind: str, name: str) -> Refused:
    return Refused("FL-DOCUMENT-UNKNOWN", f"there is no document {printable(f'{kind}/{name}', 80)}",
                   "`fairlead config list` shows those that there are")


def _as_it_was(key: str, found: Record | None) -> Compare:
    return Absent(key) if found is None else Unchanged(key, found.revision)
