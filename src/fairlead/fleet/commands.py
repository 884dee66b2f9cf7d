"""Commands to engines, out of a fixed catalogue: asked with a deadline, answered or given up, and on record.

Rules, and what each stops:

1. A command is a word of the catalogue; it takes nothing else from whoever asks. There is no way to a shell.
2. It is on record before it is sent, and its outcome afterwards: who asks an engine for something leaves a trace, also
   when the engine never answers.
3. An answer counts when it comes over the engine's own link, to the number that was asked there. What it nests is
   bounded: the engine does not choose at what depth we stop.
4. Where the engine has no link, one other Controller that has it is asked, once: nothing is done twice for an answer
   that was lost. Both have it on record, who wants it and who let him in.
"""

import asyncio
import itertools
from typing import Any, Literal, Protocol, get_args

from fairlead.audit.record import Entry
from fairlead.base import strict
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.fleet.others import Others
from fairlead.link import engines as questions
from fairlead.link.engines import CommandAsked, CommandDone, Linked, OfEngine
from fairlead.link.messages import TAKES_COMMANDS, AnyFromController, AnyFromEngine, Command, Outcome
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node, engine_named
from fairlead.store.protocol import StoreUnavailable

Word = Literal["status", "reload", "rotate-logs", "diagnostics"]
"""How it is; read the settings again; begin a new part of its logs; everything that helps to find a fault."""
WORDS: tuple[str, ...] = get_args(Word)
MOST_WAITING = 256
"""Commands at once."""
MOST_DEPTH = 32
"""Of lists and objects in each other, in an answer."""
ANSWER_S = 3.0
"""For another Controller's answer, beyond what its engine has."""


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

    def __init__(self, audit: Journal, directory: Directory, engines: Engines, others: Others) -> None:
        self._audit = audit
        self._directory = directory
        self._engines = engines
        self._others = others
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[str, int], asyncio.Future[Outcome]] = {}
        self._passed: set[asyncio.Task[str]] = set()

    async def run(self, name: str, word: str, deadline_s: float, by: str) -> dict[str, Any]:
        """What the engine *name*, wherever its link is, answers to *word*.

        Raises Refused, OperatorError FL-COMMAND-LATE.
        """
        node = engine_named(self._directory.named(name), name)
        _check(word)
        work = self._do(node, word, deadline_s, by) if self.has(node) else self._pass_on(node, word, deadline_s, by)
        return {"engine": name, "command": word, "result": _value(await work, name)}

    def has(self, node: Node) -> bool:
        """Whether that engine is connected here, and takes commands."""
        return node.id in self._engines.linked(self.ability)

    async def answer(self, node: Node, asked: CommandAsked, via: str) -> CommandDone:
        """The same for the Controller *via*, which let *asked.by* in; only where the engine's link is. Raises likewise.

        What has begun goes on to its end, and its record, also when that Controller goes away meanwhile.
        """
        _check(asked.word)
        task = asyncio.get_running_loop().create_task(self._do(node, asked.word, asked.deadline_s, asked.by, via))
        self._passed.add(task)
        task.add_done_callback(self._over_there)
        return CommandDone(result=await asyncio.shield(task))

    def _over_there(self, task: asyncio.Task[str]) -> None:
        self._passed.discard(task)
        if not task.cancelled():
            task.exception()  # whoever has asked was told, if he is still there

    async def _pass_on(self, node: Node, word: str, deadline_s: float, by: str) -> str:
        heard = await self._others.all(questions.LINKED, OfEngine(engine=node.id), Linked)
        where = next((name for name, answer in heard.answers.items() if answer.linked), None)
        if where is None:
            silent = f" that answers; {', '.join(heard.silent)} does not" if heard.silent else ""
            raise Refused("FL-COMMAND-AWAY", f"{node.name} is connected to no Controller{silent}",
                          "wait until the engine is back")
        await self._audit.append(Entry("engine.command-passed", node.name, by, {"command": word, "controller": where}))
        try:
            done = await self._others.ask(where, questions.COMMAND, CommandAsked(
                engine=node.id, word=word, deadline_s=deadline_s, by=by), CommandDone, deadline_s + ANSWER_S)
        except StoreUnavailable:
            raise OperatorError("FL-COMMAND-LATE", f"{where}, to which {node.name} is connected, does not say what "
                                "came of it", "it may have been done all the same") from None
        return done.result

    async def _do(self, node: Node, word: str, deadline_s: float, by: str, via: str = "") -> str:
        """The engine's answer, JSON."""
        name = node.name
        if not self.has(node):
            raise Refused("FL-COMMAND-AWAY", f"{name} is not connected to this Controller",
                          "wait until the engine is back")
        if len(self._waiting) >= MOST_WAITING:
            raise OperatorError("FL-COMMAND-MANY", f"{MOST_WAITING} commands wait for their answers", "try again")
        place = node.id, next(self._numbers)
        passed = {"via": via} if via else {}
        await self._audit.append(Entry("engine.command", name, by, {"command": word, "number": place[1], **passed}))
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
        return str(outcome.result)

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


def _check(word: str) -> None:
    if word not in WORDS:
        raise Refused("FL-COMMAND-UNKNOWN", f"there is no command {printable(word, 24)!r}",
                      f"use one of {', '.join(WORDS)}")


def _value(result: str, name: str) -> Any:
    """What the engine's answer says."""
    try:
        value = strict.loads((result or "null").encode())
    except ValueError:
        raise Refused("FL-COMMAND-ANSWER", f"the answer of {name} is not JSON", "upgrade the engine") from None
    if not _shallow(value, MOST_DEPTH):
        raise Refused("FL-COMMAND-ANSWER", f"the answer of {name} nests too deeply", "upgrade the engine")
    return value


def _shallow(value: Any, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(depth > 0 and _shallow(one, depth - 1) for one in inside)
