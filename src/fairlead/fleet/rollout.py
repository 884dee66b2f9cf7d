"""How a new revision of a document comes to a fleet: by stages, and no further than it is well received. Pure.

One engine has it first: what breaks everywhere breaks once. Then a tenth of those that are connected, then all. In each
stage everybody is waited for, but not for ever; too many that refuse, or say nothing, halt it. An engine that is not
connected is not waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fairlead.base.clock import SECOND
from fairlead.fleet.documents import Document
from fairlead.link.messages import Held
from fairlead.nodes.node import Node

PATIENCE = 60 * SECOND
"""With the engines of a stage. A driver's commands have less."""

Verdict = Literal["applied", "refused", "behind"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A connected engine of the document, and what it says of the document's revision."""

    node: Node
    verdict: Verdict
    words: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """How many connected engines a document has come to, and how many of these refuse it or have not answered."""

    asked: int
    refused: int
    silent: int


def verdict(document: Document, held: Held | None) -> Verdict:
    """What an engine that holds *held* has made of *document*."""
    if held is None:
        return "behind"
    if held.revision == document.revision and held.digest == document.digest:
        return "applied"
    return "refused" if held.tried == document.revision else "behind"


def step(document: Document, score: Score, connected: Callable[[], Sequence[Standing]],
         now: int) -> Document | None:
    """What *document* becomes next; None: nothing changes for now.

    *connected*: its engines that are connected, one by one; asked for only where one has to be named.
    """
    if document.stage in ("done", "halted"):
        return None
    if document.stage == "first":
        return _first(document, connected(), now)
    late = now - document.since > PATIENCE
    bad = score.refused + (score.silent if late else 0)
    if 100 * bad > document.most_failures * score.asked:
        return _halted(document, [one for one in connected() if one.verdict != "applied"
                                  and document.reaches(one.node)], bad, score.asked, now)
    if score.silent and not late:
        return None
    if document.stage == "some":
        return replace(document, stage="all", since=now)
    return replace(document, stage="done", since=now, former=None)


def _first(document: Document, connected: Sequence[Standing], now: int) -> Document | None:
    chosen = next((one for one in connected if one.node.id == document.first), None)
    if chosen is None:
        if not connected:
            return None
        best = min(connected, key=lambda one: (one.verdict == "behind", one.node.name))
        return replace(document, first=best.node.id, since=now)
    if chosen.verdict == "applied":
        return replace(document, stage="some", since=now)
    if chosen.verdict == "refused" or now - document.since > PATIENCE:
        return _halted(document, [chosen], 1, 1, now)
    return None


def _halted(document: Document, failed: Sequence[Standing], bad: int, asked: int, now: int) -> Document:
    worst = min(failed, key=lambda one: (one.verdict != "refused", one.node.name))
    said = f"refused it: {worst.words}" if worst.verdict == "refused" else "did not answer"
    return replace(document, stage="halted", since=now,
                   why=f"{bad} of {asked} failed; {worst.node.name} {said}"[:600])
