"""Engines that are connected to any Controller, and how they stand with trust statements.

Rules, and what each stops:

1. An engine that cannot reach the leader, but another Controller, is waited for like any other: it would be cut off
   from that Controller by what it was not given the time to learn.
2. Only those that are not connected here are asked for: a fleet that is whole costs no question.
3. It follows when one Controller has heard so: its trust is one, whoever brought it. What a Controller says of its
   engines counts for what is waited for, and for nothing else; of engines that are connected here it counts nothing.
4. A Controller that does not say how its engines stand is waited for in their place: silence is no acknowledgement.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fairlead.base.clock import SECOND
from fairlead.fleet.others import Others
from fairlead.fleet.trusting import TOO_OLD
from fairlead.link.attached import MOST_NODES, STANDING, Standing, StandingAsked
from fairlead.link.engines import parse
from fairlead.nodes.node import Node


class Following(Protocol):
    """What engines that are connected here have said of trust statements."""

    def behind(self, number: int) -> Mapping[str, str]:
        """By id: those that do not follow it yet, and why."""
        ...

    def too_old(self) -> frozenset[str]:
        """Ids of those that follow none."""
        ...


class Health(Protocol):
    """How an engine is doing."""

    @property
    def skew_s(self) -> float:
        """Its clock minus store time, seconds."""
        ...


class Sessions(Protocol):
    """Engines that are connected here."""

    def linked(self, ability: str) -> list[str]:
        """Their ids, of those with that ability; all, of an empty one."""
        ...

    def standing(self, node: Node) -> Health:
        """How one is doing."""
        ...


class Nodes(Protocol):
    """The directory."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By id."""
        ...


@dataclass(slots=True)
class Whereabouts:
    """Of all engines, by name."""

    behind: dict[str, str] = field(default_factory=dict)
    """Those that are connected and do not follow the statement that was asked for, and why."""
    too_old: dict[str, str] = field(default_factory=dict)
    """Those that are connected and follow none."""
    skews: dict[str, int] = field(default_factory=dict)
    """Of those that are connected: their clocks minus store time, microseconds."""
    away: list[str] = field(default_factory=list)
    """Those that are connected nowhere, as far as Controllers have answered."""
    silent: list[str] = field(default_factory=list)
    """Controllers that did not say how the rest of the engines stands with them."""


@dataclass(frozen=True, slots=True)
class Attached:
    """See the module."""

    trusting: Following
    sessions: Sessions
    directory: Nodes
    others: Others

    async def look(self, number: int = 0) -> Whereabouts:
        """Where all engines are, and who does not follow the statement of that number."""
        engines = {node.id: node for node in list(self.directory.nodes.values())
                   if node.role == "engine" and node.state == "up"}
        stand = self._here(number, engines)
        absent = [node_id for node_id in engines if node_id not in stand.here]
        silent = set[str]()
        for start in range(0, len(absent), MOST_NODES):
            asked = StandingAsked(number=number, nodes=absent[start:start + MOST_NODES])
            heard = await self.others.all(STANDING, asked, Standing)
            silent.update(heard.silent)
            for one in heard.answers.values():
                stand.take(one, asked.nodes)
        return replace(stand.named(engines), silent=sorted(silent))

    async def answer(self, asking: Node, op: str, fields: dict[str, Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """What another Controller is answered; None: it is no question about this. Raises Refused."""
        if op != STANDING:
            return None
        asked = parse(StandingAsked, fields)
        nodes = {node_id: node for node_id in asked.nodes if (node := self.directory.nodes.get(node_id)) is not None}
        stand = self._here(asked.number, nodes)
        return Standing(here=list(stand.here), behind=stand.behind, old=list(stand.old),
                        skews=stand.skews).model_dump()

    def _here(self, number: int, nodes: Mapping[str, Node]) -> "_Stand":
        here = {node_id: nodes[node_id] for node_id in self.sessions.linked("") if node_id in nodes}
        behind = self.trusting.behind(number) if number else {}
        return _Stand(set(here), {one: why for one, why in behind.items() if one in here},
                      {one for one in self.trusting.too_old() if one in here},
                      {one: int(self.sessions.standing(node).skew_s * SECOND) for one, node in here.items()})


@dataclass(slots=True)
class _Stand:
    """By id, of all Controllers that have been heard."""

    here: set[str]
    behind: dict[str, str]
    old: set[str]
    skews: dict[str, int]

    def take(self, one: Standing, asked: Collection[str]) -> None:
        """What another Controller says of those that were asked for."""
        here = set(one.here).intersection(asked)
        follows = self.here - self.behind.keys() | here - one.behind.keys()
        behind = self.behind | {node: why for node, why in one.behind.items() if node in here}
        self.behind = {node: why for node, why in behind.items() if node not in follows}
        self.here |= here
        self.old |= here.intersection(one.old)
        self.skews = {node: skew for node, skew in one.skews.items() if node in here} | self.skews

    def named(self, nodes: Mapping[str, Node]) -> Whereabouts:
        """By name, of these nodes."""
        return Whereabouts(
            {nodes[one].name: why for one, why in self.behind.items() if one in nodes},
            {nodes[one].name: TOO_OLD for one in sorted(self.old) if one in nodes},
            {nodes[one].name: skew for one, skew in self.skews.items() if one in nodes},
            sorted(node.name for one, node in nodes.items() if one not in self.here))
