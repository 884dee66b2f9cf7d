"""Several Controllers that ask one another about engines; what they say goes through JSON, as on the wire."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fairlead.base.errors import FairleadError, Refused
from fairlead.fleet.others import Others
from fairlead.nodes.node import Node
from fairlead.store.protocol import StoreUnavailable
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1, SE_2, node

CTL_3 = node("ctl-3", "controller")
Answer = Callable[[Node, str, dict[str, Any]], Awaitable[dict[str, Any] | None]]


@dataclass
class Directory:
    """Three Controllers and two engines."""

    nodes: dict[str, Node] = field(default_factory=lambda: {
        one.id: one for one in (CTL_1, CTL_2, CTL_3, SE_1, SE_2)})

    def controllers(self) -> list[Node]:
        return [one for one in self.nodes.values() if one.role == "controller"]

    def named(self, name: str) -> Node | None:
        return next((one for one in self.nodes.values() if one.name == name), None)


@dataclass
class Ring:
    """Who answers, by name; others do not exist."""

    directory: Directory = field(default_factory=Directory)
    answers: dict[str, Answer] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Those that cannot be reached."""
    deaf: set[str] = field(default_factory=set)
    """Those that take a question and never answer."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Who asked whom what."""

    def others(self, me: Node) -> Others:
        """What that Controller has of the others."""
        return Others(self.directory, _Way(self, me), me.id)


@dataclass
class _Way:
    ring: Ring
    me: Node

    async def ask(self, name: str, op: str, /, *, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """As `cluster.peers.Peers.ask` does it."""
        self.ring.asked.append((self.me.name, name, op))
        if name in self.ring.silent or name not in self.ring.answers:
            raise StoreUnavailable(f"there is no connection to {name}")
        work = self.ring.answers[name](self.me, op, json.loads(json.dumps(fields)))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await work
                if name in self.ring.deaf:
                    await asyncio.Event().wait()
        except TimeoutError:
            raise StoreUnavailable(f"{name} does not answer") from None
        except FairleadError as refusal:
            raise Refused(refusal.code, refusal.message, refusal.remedy) from None
        if answer is None:
            raise Refused("FL-PEER-QUESTION", "nothing here answers that")
        return dict(json.loads(json.dumps(answer)))
