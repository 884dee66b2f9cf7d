"""Where engines' own journals end: this Controller keeps what each says of its own, and tells it that again.

Rules, and what each stops:

1. A head counts by the host key that the directory has pinned for the engine whose link it is: nobody says where
   another's journal ends.
2. An engine is told the heads of its own journal only, and told all of them: whoever writes a stopped engine's journal
   anew would have to make every Controller forget.
3. What was kept outlasts what contradicts it, and a contradiction is an alarm (`audit.witness`).
"""

from collections.abc import Mapping
from typing import Protocol

import structlog

from fairlead.audit.record import Entry
from fairlead.audit.witness import News
from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import PublicKey
from fairlead.link.messages import (
    MOST_HEADS,
    SHOWS_JOURNAL,
    AnyFromController,
    AnyFromEngine,
    JournalHead,
    JournalHeads,
    JournalHeadsWanted,
    JournalWanted,
)
from fairlead.nodes.node import Node

log = structlog.get_logger("fairlead.audit")


class Kept(Protocol):
    """What was shown of each chain."""

    async def take(self, text: str, node: str, *host_keys: PublicKey) -> News:
        """Keep a head. Raises FairleadError."""
        ...

    def told(self, node: str) -> list[str]:
        """The texts of the heads of *node* that are kept."""
        ...


class Log(Protocol):
    """The audit log."""

    async def append(self, *entries: Entry) -> None:
        """Record *entries*."""
        ...


class Nodes(Protocol):
    """The directory."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By id."""
        ...


class Engines(Protocol):
    """Those that are connected here."""

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...


class Journals:
    """A subject of the link."""

    ability = SHOWS_JOURNAL

    def __init__(self, kept: Kept, audit: Log, nodes: Nodes, engines: Engines, me: str) -> None:
        self._kept = kept
        self._audit = audit
        self._nodes = nodes
        self._engines = engines
        self._me = me

    async def greeted(self, node_id: str) -> None:
        """An engine has come: it may show its journal."""
        await self._engines.tell(node_id, JournalWanted())

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """An engine shows, or asks."""
        node = self._nodes.nodes.get(node_id)
        match message:
            case JournalHead(head=head) if node is not None:
                await self._take(node, head)
            case JournalHeadsWanted(number=number) if node is not None:
                heads = self._kept.told(node.name)[-MOST_HEADS:]
                await self._engines.tell(node_id, JournalHeads(number=number, heads=heads))
            case _:
                pass

    def left(self, node_id: str) -> None:
        """Nothing hangs on it."""

    async def _take(self, node: Node, head: str) -> None:
        try:
            news = await self._kept.take(head, node.name, PublicKey.from_line(node.host_key))
        except FairleadError as error:
            log.warning("audit.head-refused", about=node.name, code=error.code, reason=error.message)
            return
        if news == "contradiction":
            log.warning("alarm", alarm="audit.contradiction", about=node.name)
            await self._audit.append(Entry("audit.contradiction", node.name, self._me))
