"""Configuration documents as the cluster keeps them, and which of them an engine should have. Pure.

Rules, and what each stops:

1. Which engines have a new revision already is decided by its stage and by the engine's id, alike on every Controller:
   nothing is stored per engine, and two Controllers tell an engine the same.
2. While a revision is on its way, whoever it has not come to stays with what he has: nobody goes back and forth.
3. A roll-out that was halted goes no further, also to engines that come back later.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fairlead.base import strict
from fairlead.base.errors import Refused, printable
from fairlead.link.documents import digest
from fairlead.link.messages import Assigned
from fairlead.nodes.name import QUOTED, is_name
from fairlead.nodes.node import Node
from fairlead.nodes.policy import means

Stage = Literal["first", "some", "all", "done", "halted"]
"""A new revision goes to one engine, then to a tenth of them, then to all; when all that are there have answered, it is
done."""
SHARE: dict[Stage, int] = {"first": 0, "some": 1000, "all": 10_000, "done": 10_000, "halted": 0}
"""Of ten thousand engines, how many."""


@dataclass(frozen=True, slots=True)
class Former:
    """What was in force before."""

    revision: int
    target: str
    body: str = field(repr=False)

    @property
    def digest(self) -> str:
        """Of its body."""
        return digest(self.body)


@dataclass(frozen=True, slots=True)
class Document:
    """One document, and how far it has come."""

    kind: str
    name: str
    target: str
    """``engines``, a label ``key=value``, or an engine's name."""
    revision: int
    """Counts the document's bodies and targets, from 1; it never goes back, also over a deletion."""
    body: str = field(repr=False)
    """The text that `link.documents.check` has made."""
    at: int
    """When it was put, microseconds of store time."""
    by: str
    stage: Stage = "done"
    first: str = ""
    """The id of the engine that has it first."""
    since: int = 0
    """When the stage began."""
    why: str = ""
    """It was halted."""
    most_failures: int = 10
    """Percent of the engines of a stage that may refuse."""
    former: Former | None = None
    digest: str = ""
    """Of the body; made here."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest(self.body))

    @property
    def key(self) -> str:
        """``kind/name``."""
        return f"{self.kind}/{self.name}"

    def meant_for(self, node: Node) -> bool:
        """Whether *node* is one of its engines."""
        return node.role == "engine" and node.state == "up" and means(self.target, node)

    def reaches(self, node: Node) -> bool:
        """Whether this revision has come to *node*, one of its engines, by now."""
        return node.id == self.first or (self.stage != "halted" and self._place(node) < SHARE[self.stage])

    def _place(self, node: Node) -> int:
        """Where *node* stands in the order of this revision, 0 to 9999: another one each time."""
        seed = f"{node.id}/{self.key}/{self.revision}".encode()
        return int.from_bytes(hashlib.sha256(seed).digest()[:8]) % 10_000


def assigned(node: Node, documents: Iterable[Document]) -> list[Assigned]:
    """What *node* should have, in the order in which it was put."""
    found = []
    for one in sorted(documents, key=lambda document: document.revision):
        if not one.meant_for(node):
            continue
        if one.reaches(node):
            found.append(Assigned(kind=one.kind, name=one.name, revision=one.revision, digest=one.digest, keep=False))
        elif (former := one.former) is not None and means(former.target, node):
            found.append(Assigned(kind=one.kind, name=one.name, revision=former.revision, digest=former.digest,
                                  keep=True))
        else:
            found.append(Assigned(kind=one.kind, name=one.name, revision=0, digest="", keep=True))
    return found


def body_of(node: Node, documents: Iterable[Document], wanted: str) -> str:
    """The body of the digest *wanted*, if it is one that *node* should have; else nothing."""
    for one in documents:
        if one.meant_for(node):
            if one.digest == wanted and one.reaches(node):
                return one.body
            if one.former is not None and one.former.digest == wanted and means(one.former.target, node):
                return one.former.body
    return ""


def check_name(name: str) -> str:
    """*name* itself when it may name a document. Raises Refused FL-NAME."""
    if not is_name(name):
        raise Refused("FL-NAME", f"{printable(name, QUOTED)!r} is not a document's name",
                      "use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    return name


def encode(document: Document) -> bytes:
    """A document as the store keeps it."""
    fields = asdict(document)
    del fields["digest"]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode(value: bytes) -> Document:
    """The reverse. Raises ValueError, TypeError."""
    fields: Any = strict.loads(value)
    former = fields.pop("former")
    return Document(**fields, former=Former(**former) if former else None)
