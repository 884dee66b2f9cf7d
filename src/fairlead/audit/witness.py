"""What a node has seen of the audit chains of others: their newest heads, in a file of its own.

It is not in the store: whoever edits the store would edit it as well.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fairlead.audit.head import SignedHead, Verdict, judge
from fairlead.base import files
from fairlead.base.errors import OperatorError

FILE = "audit-heads.json"
MOST_PAST = 64
"""Generations of a node that are remembered to have ended."""


class Seen(BaseModel):
    """Of one node."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    head: SignedHead
    past: list[str] = []
    contradicted: str = ""
    """``cut`` or ``fork``, once it was."""
    against: SignedHead | None = None
    """The head that contradicts it, signed as well: the two together are the evidence."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid")
    nodes: dict[str, Seen] = {}


class Witness:
    """Blocks for a sync of the disk per new head."""

    def __init__(self, file: Path) -> None:
        """Begin with what is in *file*. Raises OperatorError FL-STATE-DAMAGED."""
        self._file = file
        try:
            self._kept = _Kept.model_validate_json(files.read_private(file))
        except FileNotFoundError:
            self._kept = _Kept()
        except ValidationError:
            raise OperatorError("FL-STATE-DAMAGED", f"{file} is damaged",
                                "keep a copy, find out who could write to it, then take it away") from None

    def held(self, node_id: str) -> SignedHead | None:
        """The newest head of a node that it has not contradicted."""
        seen = self._kept.nodes.get(node_id)
        return seen.head if seen is not None else None

    def take(self, head: SignedHead, *, follows: bool) -> Verdict:
        """Judge *head*, which was checked, and keep it, or the contradiction. Raises OperatorError FL-DISK."""
        seen = self._kept.nodes.get(head.node_id)
        verdict = judge(seen.head if seen else None, frozenset(seen.past if seen else ()), head, follows=follows)
        if seen is not None and seen.contradicted and verdict != "anew":
            return "cut" if seen.contradicted == "cut" else "fork"
        match verdict:
            case "same":
                return verdict
            case "cut" | "fork":
                assert seen is not None
                now = seen.model_copy(update={"contradicted": verdict, "against": head})
            case "anew":
                assert seen is not None
                now = Seen(head=head, past=[*seen.past, seen.head.generation][-MOST_PAST:])
            case _:
                now = Seen(head=head, past=seen.past if seen else [])
        nodes = self._kept.nodes | {head.node_id: now}
        files.write_private(self._file, _Kept(nodes=nodes).model_dump_json(indent=1).encode())
        self._kept.nodes = nodes
        return verdict

    @property
    def problems(self) -> list[str]:
        """Who has contradicted itself, one line each."""
        return [f"the audit chain of {s.head.node} " + (
            f"was cut: it had {s.head.seq} records" if s.contradicted == "cut"
            else f"is not the one of which record {s.head.seq} was seen") + " [FL-AUDIT-"
            + s.contradicted.upper() + "]" for s in self._kept.nodes.values() if s.contradicted]
