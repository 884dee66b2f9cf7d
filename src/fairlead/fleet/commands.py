"""Commands to engines, out of a fixed catalogue: asked with a deadline, answered or given up, and on record.

Rules, and what each stops:

1. A command is a word of the catalogue; it takes nothing else from whoever asks. There is no way to a shell.
2. It is on record before it is sent, and its outcome afterwards: who asks an engine for something leaves a trace, also
   when the engine never answers.
3. An answer counts when it comes over the engine's own link, to the number that was asked there.
"""

import asyncio
import itertools
import json
from typing import Any, Literal, Protocol, get_args

from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.link.messages import TAKES_COMMANDS, AnyFromController, AnyFromEngine, Command, Outcome
from fairlead.nodes.directory import Directory

Word = Literal["status", "reload", "rotate-logs", "diagnostics"]
"""How it is; read the settings again; begin a new part of its logs; everything that helps to find a fault."""
WORDS: tuple[str, ...] = get_args(Word)
MOST_WAITING = 256
"""Commands at once."""


class Journal(Protocol):
    """The audit log."""

    async def append(self, *entries: Entry) -> None:
        """Record *entries*."""
        ...


class Engines(Protocol):
    """Those that are connected here."""

    def linked(self, ability: str) -> list[str]:
        """The ids of those that have the *ability*."""
        ...

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...


class Commands:
    """Asks engines. A subject of the link."""

    ability = TAKES_COMMANDS

    def __init__(self, audit: Journal, directory: Directory, engines: Engines) -> None:
        self._audit = audit
        self._directory = directory
        self._engines = engines
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[str, int], asyncio.Future[Outcome]] = {}

    async def run(self, name: str, word: str, deadline_s: float, by: str) -> dict[str, Any]:
        """What the engine *name* answers to *word*. Raises Refused, OperatorError FL-COMMAND-LATE."""
        node = self._directory.named(name)
        if node is None or node.role != "engine":
            raise Refused("FL-NODE-UNKNOWN", f"there is no engine {printable(name, 80)!r}", "see `fairlead node list`")
        if word not in WORDS:
            raise Refused("FL-COMMAND-UNKNOWN", f"there is no command {printable(word, 24)!r}",
                          f"use one of {', '.join(WORDS)}")
        if node.id not in self._engines.linked(self.ability):
            raise Refused("FL-COMMAND-AWAY", f"{name} is not connected to this Controller",
                          "ask another Controller, or wait until the engine is back")
        if len(self._waiting) >= MOST_WAITING:
            raise OperatorError("FL-COMMAND-MANY", f"{MOST_WAITING} commands wait for their answers", "try again")
        place = node.id, next(self._numbers)
        await self._audit.append(Entry("engine.command", name, by, {"command": word, "number": place[1]}))
        answer = self._waiting[place] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(deadline_s):
                await self._engines.tell(node.id, Command(number=place[1], command=word, deadline_s=deadline_s))
                outcome = await answer
        except TimeoutError:
            await self._over(name, by, place[1], "FL-COMMAND-LATE")
            raise OperatorError("FL-COMMAND-LATE", f"{name} did not answer within {deadline_s:g} seconds",
                                "it may have been done all the same") from None
        finally:
            del self._waiting[place]
        await self._over(name, by, place[1], outcome.code)
        if outcome.code:
            raise FairleadError(outcome.code, outcome.words or f"{name} refuses the command")
        try:
            return {"engine": name, "command": word, "result": json.loads(outcome.result or "null")}
        except ValueError:
            raise Refused("FL-COMMAND-ANSWER", f"the answer of {name} is not JSON", "upgrade the engine") from None

    async def _over(self, name: str, by: str, number: int, code: str) -> None:
        await self._audit.append(Entry("engine.command-over", name, by, {"number": number, "code": code or "done"}))

    async def greeted(self, node_id: str) -> None:
        """Nothing is said first."""

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """An engine answers."""
        if isinstance(message, Outcome):
            answer = self._waiting.get((node_id, message.number))
            if answer is not None and not answer.done():
                answer.set_result(message)

    def left(self, node_id: str) -> None:
        """Its answers do not come any more."""
        for (of, number), answer in self._waiting.items():
            if of == node_id and not answer.done():
                answer.set_result(Outcome(number=number, code="FL-COMMAND-AWAY", words="the engine's link ended",
                                          result=""))
