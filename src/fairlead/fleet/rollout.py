"""How a new revision of a document comes to a fleet: by stages, and no further than it is well received. Pure.

One engine has it first: what breaks everywhere breaks once. Then a tenth of those that are connected, then all. In each
stage everybody is waited for, but not for ever; too many that refuse, or say nothing, halt it. An engine that is not
connected is not waited for.
"""

from collections.abc import Sequence
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


def verdict(document: Document, held: Held | None) -> Verdict:
    """What an engine that holds *held* has made of *document*."""
    if held is None:
        return "behind"
    if held.revision == document.revision and held.digest == document.digest:
        return "applied"
    return "refused" if held.tried == document.revision else "behind"


def step(document: Document, connected: Sequence[Standing], now: int) -> Document | None:
    """What *document* becomes next; None: nothing changes for now."""
    if document.stage in ("done", "halted"):
        return None
    if document.stage == "first":
        return _first(document, connected, now)
    asked = [one for one in connected if document.reaches(one.node)]
    refused = [one for one in asked if one.verdict == "refused"]
    silent = [one for one in asked if one.verdict == "behind"]
    late = now - document.since > PATIENCE
    bad = [*refused, *silent] if late else refused
    if 100 * len(bad) > document.most_failures * len(asked):
        return _halted(document, bad, len(asked), now)
    if silent and not late:
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
        return _halted(document, [chosen], 1, now)
    return None


def _halted(document: Document, bad: Sequence[Standing], asked: int, now: int) -> Document:
    worst = min(bad, key=lambda one: (one.verdict != "refused", one.node.name))
    said = f"refused it: {worst.words}" if worst.verdict == "refused" else "did not answer"
    return replace(document, stage="halted", since=now,
                   why=f"{len(bad)} of {asked} failed; {worst.node.name} {said}"[:600])
