"""How documents stand with their engines, counted as it changes: a fleet is too many to be counted at every look.

What an engine says it holds is its own word. It counts for that engine alone, and is kept for as long as the engine is
in the cluster: what it said last is what it runs, as far as anybody knows, also while it is away.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fairlead.fleet.documents import Document
from fairlead.fleet.rollout import Score, Standing, Verdict, verdict
from fairlead.link.messages import Held
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node


class _Row(NamedTuple):
    """An engine of a document."""

    verdict: Verdict
    connected: bool
    reached: bool
    """This revision has come to it by now."""


@dataclass(slots=True)
class _Count:
    """Of one document at one stage."""

    of: Document
    rows: dict[str, _Row] = field(default_factory=dict)
    """By the id of the engine."""
    numbers: Counter[_Row] = field(default_factory=Counter)
    """How many rows of each kind there are."""
    stale: set[str] = field(default_factory=set)
    """Engines of which something has changed since."""


class Tally:
    """What engines hold, and how many of a document's engines have it."""

    def __init__(self, directory: Directory, documents: Mapping[str, Document]) -> None:
        """*documents*: those that there are, by their keys."""
        self._directory = directory
        self._documents = documents
        self._held: dict[str, dict[str, Held]] = {}
        """By the id of an engine and the key of a document: what it last said."""
        self._connected: set[str] = set()
        self._counts: dict[str, _Count] = {}
        """By the key of the document; of those that somebody has looked at."""
        directory.listen(self._changed)

    def says(self, node_id: str, documents: Iterable[Held]) -> None:
        """What an engine holds now."""
        before, now = self._held.get(node_id, {}), {f"{one.kind}/{one.name}": one for one in documents}
        self._held[node_id] = now
        for key in before.keys() | now.keys():
            if key in self._counts and before.get(key) != now.get(key):
                self._counts[key].stale.add(node_id)

    def came(self, node_id: str) -> None:
        """An engine is connected."""
        self._connected.add(node_id)
        self._touch({node_id})

    def left(self, node_id: str) -> None:
        """It is so no longer."""
        self._connected.discard(node_id)
        self._touch({node_id})

    def holds(self, node_id: str) -> Mapping[str, Held]:
        """What an engine last said, by the documents' keys."""
        return self._held.get(node_id, {})

    def meant(self, document: Document) -> list[Node]:
        """The engines of *document*."""
        return [node for node in self._directory.nodes.values() if document.meant_for(node)]

    def numbers(self, document: Document) -> Counter[Verdict]:
        """How many of its engines have what to say of *document*."""
        found: Counter[Verdict] = Counter()
        for row, number in self._count(document).numbers.items():
            found[row.verdict] += number
        return found

    def score(self, document: Document) -> Score:
        """The same of those that are connected, and that this revision has come to."""
        numbers = self._count(document).numbers
        asked: dict[Verdict, int] = {said: numbers[_Row(said, connected=True, reached=True)]
                                     for said in ("applied", "refused", "behind")}
        return Score(sum(asked.values()), asked["refused"], asked["behind"])

    def standings(self, document: Document) -> Sequence[Standing]:
        """Each of its engines that is connected."""
        found = []
        for node_id, row in self._count(document).rows.items():
            if row.connected:
                held = self.holds(node_id).get(document.key)
                found.append(Standing(self._directory.nodes[node_id], row.verdict, held.words if held else ""))
        return found

    def _count(self, document: Document) -> _Count:
        count = self._counts.get(document.key)
        if count is None or count.of is not document:
            for gone in self._counts.keys() - self._documents.keys():
                del self._counts[gone]
            count = self._counts[document.key] = _Count(document, stale=set(self._directory.nodes))
        for node_id in count.stale:
            self._look(count, node_id)
        count.stale.clear()
        return count

    def _look(self, count: _Count, node_id: str) -> None:
        before, node = count.rows.pop(node_id, None), self._directory.nodes.get(node_id)
        if before is not None:
            count.numbers[before] -= 1
        if node is not None and count.of.meant_for(node):
            row = _Row(verdict(count.of, self.holds(node_id).get(count.of.key)), node_id in self._connected,
                       count.of.reaches(node))
            count.rows[node_id] = row
            count.numbers[row] += 1

    def _changed(self) -> None:
        touched = self._directory.touched
        if touched is None:
            self._counts.clear()
        else:
            self._touch(touched)
        for gone in (self._held.keys() if touched is None else self._held.keys() & touched) \
                - self._directory.nodes.keys():
            del self._held[gone]

    def _touch(self, nodes: set[str]) -> None:
        for count in self._counts.values():
            count.stale |= nodes
