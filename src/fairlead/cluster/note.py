"""``cluster.json``: how far this Controller has come into the cluster. Without it, it is the only one.

It is what makes a step last: the store counts as moved, the member as admitted, when the note says so.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.errors import OperatorError
from fairlead.base.files import read_private, write_private

FILE = "cluster.json"

Stage = Literal["committed", "learning", "member", "recovering"]


class Note(BaseModel):
    """What a Controller knows of the cluster's store before it can read it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fairlead_cluster: Literal[1] = 1
    stage: Stage
    """``committed``: its join is, and it has to ask for admission. ``learning``: its member of the store follows and
    does not vote. ``member``: it votes. ``recovering``: `cluster recover` was stopped, and has to be repeated."""
    base: int = Field(default=0, ge=0)
    """The last revision of the store that was moved."""
    members: dict[str, str] = Field(default_factory=dict)
    """The members that the store began with, or that were there when this one came: names and internal addresses."""
    member: str = ""
    """While it is learning: which member of the store is its own, as the leader has named it."""

    def save(self, state: Path) -> None:
        """Write it, for good. Raises OperatorError."""
        write_private(state / FILE, self.model_dump_json(indent=1).encode() + b"\n")


def load(state: Path) -> Note | None:
    """The note in *state*, or None. Raises OperatorError FL-STATE-DAMAGED."""
    try:
        return Note.model_validate_json(read_private(state / FILE))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise OperatorError("FL-STATE-DAMAGED", f"{state / FILE} is damaged",
                            "restore it, or remove this Controller on another one and join it anew") from None
