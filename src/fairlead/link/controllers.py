"""What Controllers ask one another, over the subsystem ``fairlead-controller`` of a connection that one dialled. Pure.

Who asks is known from the connection's key; no message carries an identity. The side that dialled asks, the other
answers; answers may come in another order. Frames are those of the link.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.errors import FairleadError, Refused
from fairlead.link.spoken import OURS

SUBSYSTEM = "fairlead-controller"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Question(_Message):
    """Do *op* with *fields*."""

    v: int = OURS.lowest
    id: int = Field(ge=0, lt=2**63)
    op: str = Field(max_length=32)
    fields: dict[str, Any] = Field(default_factory=dict, repr=False)


class Reply(_Message):
    """To the question *id*: its result, or the refusal with its code."""

    id: int = Field(ge=0, lt=2**63)
    result: dict[str, Any] | None = Field(default=None, repr=False)
    code: str = Field(default="", max_length=64)
    message: str = Field(default="", max_length=2000)
    remedy: str = Field(default="", max_length=2000)

    @classmethod
    def refusing(cls, question: int, refusal: FairleadError) -> "Reply":
        """That the question was refused, and why."""
        return cls(id=question, code=refusal.code, message=refusal.message[:2000], remedy=refusal.remedy[:2000])


def question_from(fields: dict[str, Any]) -> Question:
    """The question of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return Question.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


def reply_from(fields: dict[str, Any]) -> Reply:
    """The reply of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return Reply.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


def _unknown() -> Refused:
    return Refused("FL-LINK-MESSAGE", "a message that cannot be understood",
                   "both sides must run versions of fairlead that fit")
