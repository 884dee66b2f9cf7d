"""When each engine came, was late and went, as this Controller saw it. In memory, and told to the log.

Rules, and what each stops:

1. One sweep looks at all engines: ten thousand have no timer of their own.
2. Each engine has its own few changes kept: one that comes and goes all the time pushes nobody else's out.
3. Nothing is written to the store: after a Controller's restart the whole fleet comes back at once. Changes that are
   seen together are one line of the log, too.
4. A sweep that comes late looks again before it calls anybody late: then this Controller stood still, not the fleet.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from fairlead.base.clock import SECOND, Clock, rfc3339
from fairlead.base.errors import Refused, printable
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node

SWEEP_S = 1.0
STOOD_STILL_S = 3 * SWEEP_S
MOST = 8
"""Changes of one engine that are kept."""
MOST_LINES = 10
"""Changes of one sweep that have a line of the log each."""
TOGETHER = 512
"""Engines that are looked at before others get a turn."""

log = structlog.get_logger("fairlead.fleet")


class Change(NamedTuple):
    """An engine became something else. *at*: microseconds, by this Controller's clock."""

    at: int
    state: str
    before: str
    """Empty: this Controller had just started."""


class Engines(Protocol):
    """Those that are connected here."""

    def state(self, node: Node) -> str:
        """How it is: up, late, down, …"""
        ...


class Changes:
    """The last changes of every engine."""

    def __init__(self, directory: Directory, engines: Engines, clock: Clock) -> None:
        self._directory = directory
        self._engines = engines
        self._clock = clock
        self._states: dict[str, str] = {}
        """By the id of an engine."""
        self._changes: dict[str, tuple[Change, ...]] = {}
        """The same; oldest first."""
        self._swept = float("inf")

    def of(self, name: str) -> list[dict[str, Any]]:
        """The last changes of the node *name*, newest first: time, state, before. Raises Refused FL-NODE-UNKNOWN."""
        node = self._directory.named(name)
        if node is None:
            raise Refused("FL-NODE-UNKNOWN", f"there is no node {printable(name, 80)!r}", "see `fairlead node list`")
        return [{"time": rfc3339(change.at // SECOND * SECOND), "state": change.state, "before": change.before or None}
                for change in reversed(self._changes.get(node.id, ()))]

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Look at every engine once."""
        now = self._clock.monotonic()
        stood_still, self._swept = now - self._swept > STOOD_STILL_S, now
        nodes = [node for node in self._directory.nodes.values() if node.role == "engine"]
        for gone in self._states.keys() - self._directory.nodes.keys():
            del self._states[gone]
            self._changes.pop(gone, None)
        seen: list[tuple[Node, Change]] = []
        for number, node in enumerate(nodes, 1):
            state, before = self._engines.state(node), self._states.get(node.id, "")
            if state != before and not (stood_still and state == "late"):
                self._states[node.id] = state
                if before or state != "down":  # that it is not here yet is no news of one that nobody has seen
                    change = Change(self._clock.now(), state, before)
                    self._changes[node.id] = (*self._changes.get(node.id, ()), change)[-MOST:]
                    seen.append((node, change))
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
        _tell(seen)


def _tell(seen: Sequence[tuple[Node, Change]]) -> None:
    if len(seen) > MOST_LINES:
        log.warning("engines.changed", **Counter(change.state for _, change in seen),
                    first=[node.name for node, _ in seen[:MOST_LINES]])
        return
    for node, change in seen:
        say = log.info if change.state == "up" else log.warning
        say(f"engine.{change.state}", engine=node.name, before=change.before or None)
