"""An engine's logs as one, wherever their parts came up: by offset, each byte once, and nothing left out in silence.

Rules, and what each stops:

1. A byte of a spool is the same at every Controller that has it: where two have it, it is read once. What goes on
   where the last page ended needs nobody else's word; any other page is made when all Controllers have said what they
   have.
2. When one of those is silent, what it has may belong in between: that is refused, with its name. Whoever wants what
   the others have all the same says so, and is told at which page somebody was not heard.
3. Each page has a deadline and a size; few are read for others at once.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Protocol

from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.fleet.others import Heard, Others
from fairlead.keys.wire import b64, from_b64
from fairlead.link import engines as questions
from fairlead.link.engines import MOST_READ, LogsAsked, Part, Parts, Read, ReadAsked
from fairlead.nodes.node import Node, engine_named

MOST_PAGE = 512 * 1024
WITHIN_S = 15.0
READ_S = 5.0
TRIES = 3
"""What was there a moment ago may have gone for the bound."""
READERS = 4
"""Pages that are read for other Controllers at once."""
_PLACE = re.compile(r"([0-9a-f]{32})\.([0-9]{1,19})")


class Nodes(Protocol):
    """The directory."""

    def named(self, name: str) -> Node | None:
        """The node of that name."""
        ...


class Shelf(Protocol):
    """What has come up here."""

    async def parts(self, node_id: str, spool: str, offset: int) -> list[Part]:
        """See `fleet.logs.Logs.parts`."""
        ...

    async def read(self, node_id: str, spool: str, offset: int, most: int) -> bytes:
        """See `fleet.logs.Logs.read`."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A part of an engine's logs: whole lines, where the next ones begin, and who may have something before them."""

    text: str
    place: str
    unheard: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Next:
    spool: str
    offset: int
    at: str
    """The Controller that has it; empty: this one."""
    goes_on: bool
    """Right where the last page ended."""


class Reading:
    """Reads them."""

    def __init__(self, nodes: Nodes, shelf: Shelf, others: Others) -> None:
        self._nodes = nodes
        self._shelf = shelf
        self._others = others
        self._places = asyncio.Semaphore(READERS)

    async def page(self, name: str, place: str, *, partial: bool = False) -> Page:
        """The lines of the engine *name* from *place* on; empty: from the oldest that is somewhere.

        *partial*: also when a Controller is silent. Raises Refused, OperatorError FL-LOGS-AWAY.
        """
        node = engine_named(self._nodes.named(name), name)
        found = _PLACE.fullmatch(place)
        if place and found is None:
            raise Refused("FL-LOGS-PLACE", "that is no place in a log", "take it from the page before")
        spool, offset = (found[1], int(found[2])) if found else ("", 0)
        try:
            async with asyncio.timeout(WITHIN_S):
                return await self._page(node, spool, offset, partial=partial)
        except TimeoutError:
            raise OperatorError("FL-LOGS-AWAY", f"the logs of {name} could not be read within {WITHIN_S:g} seconds",
                                "try again") from None

    async def _page(self, node: Node, spool: str, offset: int, *, partial: bool) -> Page:
        if spool and (data := await self._shelf.read(node.id, spool, offset, MOST_PAGE)):
            return _whole(data, spool, offset)
        at = ""
        for _ in range(TRIES):
            heard = await self._others.all(questions.LOGS, LogsAsked(engine=node.id, spool=spool, offset=offset), Parts)
            own = await self._shelf.parts(node.id, spool, offset)
            found = _after(spool, offset, {"": own, **{at: one.parts for at, one in heard.answers.items()}})
            unheard = () if found and found.goes_on else heard.silent
            if unheard and (not partial or _lost(spool, own, heard)):
                raise OperatorError("FL-LOGS-AWAY", f"{', '.join(unheard)} does not answer, and may have a part of the "
                                    f"logs of {node.name} that belongs here",
                                    "wait until it is back; `--partial` shows what the others have")
            if found is None:
                return Page("", f"{spool}.{offset}" if spool else "", unheard)
            at = found.at
            if data := await self._read(node, found):
                return _whole(data, found.spool, found.offset, unheard)
        raise OperatorError("FL-LOGS-AWAY", f"what {at or 'this Controller'} had of the logs of {node.name} is gone, "
                            "or cannot be read", "try again")

    async def _read(self, node: Node, found: _Next) -> bytes:
        if not found.at:
            return await self._shelf.read(node.id, found.spool, found.offset, MOST_PAGE)
        try:
            read = await self._others.ask(found.at, questions.READ, ReadAsked(
                engine=node.id, spool=found.spool, offset=found.offset), Read, READ_S)
            return from_b64(read.data)[:MOST_READ]
        except (FairleadError, ValueError):
            return b""  # it is asked once more what it has; if it has gone, it is silent then

    # -- what others ask ----------------------------------------------------------------------------------------------

    async def parts(self, node: Node, asked: LogsAsked) -> Parts:
        """What is here of that engine's logs. Raises OperatorError FL-DISK."""
        return Parts(parts=await self._shelf.parts(node.id, asked.spool, asked.offset))

    async def read(self, node: Node, asked: ReadAsked) -> Read:
        """Bytes of them. Raises OperatorError FL-DISK."""
        async with self._places:
            return Read(data=b64(await self._shelf.read(node.id, asked.spool, asked.offset, MOST_READ)))


def _after(spool: str, offset: int, parts: dict[str, list[Part]]) -> _Next | None:
    """What comes next after *offset* of *spool*, of all that Controllers have."""
    since: dict[str, float] = {}
    for part in (part for theirs in parts.values() for part in theirs):
        since[part.spool] = min(part.since, since.get(part.spool, part.since))
    order = sorted(since, key=lambda one: (since[one], one))
    for name in order[order.index(spool):] if spool in order else order:
        after = offset if name == spool else -1
        ahead = [(max(part.begin, after, 0), at) for at, theirs in parts.items() for part in theirs
                 if part.spool == name and part.begin < part.end > after]
        if ahead:
            begin, at = min(ahead)
            return _Next(name, begin, at, goes_on=begin == after)
    return None


def _lost(spool: str, own: list[Part], heard: Heard[Parts]) -> bool:
    """Whether nobody who answers knows *spool*: to begin again with the oldest one would double everything."""
    known = [*own, *(part for answer in heard.answers.values() for part in answer.parts)]
    return bool(spool) and not any(part.spool == spool for part in known)


def _whole(data: bytes, spool: str, offset: int, unheard: tuple[str, ...] = ()) -> Page:
    """Whole lines, where there are any."""
    data = data[:data.rfind(b"\n") + 1] or data
    return Page(data.decode(errors="replace"), f"{spool}.{offset + len(data)}", unheard)
