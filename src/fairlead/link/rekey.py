"""How a connection that lives proves another key of its node: the subsystem ``fairlead-rekey``. Pure.

The side that dialled opens it; the Controller says a nonce, the node signs it, the Controller says how it went. What is
signed, and why nobody in between can use it, is `enrol.next_key`'s to say.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.errors import Refused

SUBSYSTEM = "fairlead-rekey"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Challenge(_Message):
    """Controller, first: sign this nonce, base64."""

    nonce: str = Field(max_length=64)


class Proof(_Message):
    """The node: *key*, ``ssh-ed25519 <base64>``, has signed."""

    key: str = Field(max_length=128)
    proof: str = Field(max_length=128)


class Verdict(_Message):
    """Controller: an empty code, and from now on the connection is that key's."""

    code: str = Field(default="", max_length=64)
    words: str = Field(default="", max_length=500)


M = TypeVar("M", bound=_Message)


def parse(form: type[M], fields: dict[str, Any]) -> M:
    """The message of a frame. Raises Refused FL-LINK-MESSAGE."""
    try:
        return form.model_validate(fields)
    except ValidationError:
        raise Refused("FL-LINK-MESSAGE", "a message about keys that cannot be understood",
                      "both sides must run versions of fairlead that fit") from None
