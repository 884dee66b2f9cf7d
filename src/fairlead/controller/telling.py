"""What each Controller says of itself while something rotates: what it presents, and which trust statement it follows.

It is kept in the store under the Controller's id, written by itself alone, and counts for what is waited for. A
Controller follows trust statements as every node does: by the root that it knows, not because they stand in the store.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from fairlead.base.errors import FairleadError
from fairlead.enrol.trust import Trust
from fairlead.link.trust import MOST_CHAIN
from fairlead.nodes.directory import Directory
from fairlead.nodes.records import TOLD
from fairlead.store.protocol import Compare, Operation, Outcome, Put, StoreUnavailable

LOOK_S = 2.0

log = structlog.get_logger("fairlead.controller")
Facts = Callable[[], Mapping[str, str]]


class Writing(Protocol):
    """What is needed of the store."""

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then*."""
        ...


class Trusting(Protocol):
    """Who has this Controller's trust, and keeps it."""

    @property
    def trust(self) -> Trust:
        """As it is now."""
        ...

    def keep(self, trust: Trust) -> None:
        """From now on this. Raises OperatorError."""
        ...


def read(value: bytes) -> Mapping[str, str]:
    """What a Controller has said. Raises ValueError, TypeError."""
    fields = json.loads(value)
    if not isinstance(fields, dict):
        raise ValueError("no object")  # noqa: TRY004 - as whatever else it may be
    int(fields.get("statement", "0"))
    return {str(name): str(fact) for name, fact in fields.items()}


@dataclass(slots=True)
class Telling:
    """This Controller's word, and those of the others."""

    store: Writing
    directory: Directory
    me: str
    """Its id."""
    holder: Trusting
    statements: Mapping[str, str]
    """Texts by number, as the store has them."""
    told: Mapping[str, Mapping[str, str]]
    """By id, as the store has them."""
    facts: list[Facts] = field(default_factory=list)
    """What else is said; whoever knows adds to it."""
    problem: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, node_id: str) -> Mapping[str, str]:
        """What a Controller has said last; this one itself, what holds now: it may have been started anew since."""
        return self._now() if node_id == self.me else self.told.get(node_id, {})

    def behind(self, wanted: Mapping[str, str], why: str) -> Mapping[str, str]:
        """By name: the Controllers that have not said what is *wanted*."""
        return {node.name: why for node in self.directory.controllers()
                if any(self.of(node.id).get(name) != fact for name, fact in wanted.items())}

    def behind_statement(self, number: int) -> Mapping[str, str]:
        """By name: the Controllers that do not follow the statement of that number yet."""
        return {node.name: self.of(node.id).get("refuses") or "it has not acknowledged the trust statement"
                for node in self.directory.controllers() if int(self.of(node.id).get("statement", "0")) < number}

    async def run(self) -> None:
        """Say what is new, until cancelled."""
        said: Mapping[str, str] = {}
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.changed.wait()
            self.changed.clear()
            self._follow()
            now = self._now()
            if now == said and now == self.told.get(self.me):
                continue
            try:
                await self.store.transact([], [Put(TOLD + self.me, json.dumps(now, sort_keys=True).encode())])
                said = now
            except StoreUnavailable:
                continue

    def _now(self) -> Mapping[str, str]:
        found = {"statement": str(self.holder.trust.statement)}
        if self.problem:
            found["refuses"] = self.problem
        for facts in self.facts:
            found |= facts()
        return found

    def _follow(self) -> None:
        trust = self.holder.trust
        texts = [text for number, text in sorted(self.statements.items()) if int(number) > trust.statement][:MOST_CHAIN]
        if not texts:
            self.problem = ""
            return
        try:
            after = trust.after(texts)
            self.holder.keep(trust.but(statement=after.statement, roots=after.roots))
            self.problem = ""
        except FairleadError as error:
            if self.problem != error.line():
                log.error("trust.refused", code=error.code, reason=error.message)
            self.problem = error.line()
