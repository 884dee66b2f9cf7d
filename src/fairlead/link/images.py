"""How a bundle file comes to a node: the subsystem ``fairlead-image`` of a stream connection, never of a link. Pure.

The node that wants it says which file, by its hash, and from which offset on. Who has it says how large the whole file
is, and then sends its bytes, raw, as the channel takes them. It may end before the last one: others want some, too.
Whoever was cut off asks again from where it is. Nothing that is said here is believed: the file is what its hash says.
"""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.errors import Refused
from fairlead.link import frames

SUBSYSTEM = "fairlead-image"
VERSION = 1
MOST_SIZE = 2 * 1024 * 1024 * 1024
"""Of one image, bytes."""
MOST_HELLO = frames.MOST_COMMIT_BYTES


class Want(BaseModel):
    """Who wants it, first, as a frame of the link."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    v: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    offset: int = Field(ge=0, le=MOST_SIZE)


class Have(BaseModel):
    """Who has it, first, likewise. With a *code*, it is a refusal, and nothing follows."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    v: int
    size: int = Field(ge=0, le=MOST_SIZE)
    code: str = Field(default="", max_length=64)
    words: str = Field(default="", max_length=1000)


def want(fields: object) -> Want:
    """Raises Refused FL-LINK-MESSAGE."""
    try:
        return Want.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


class Incoming:
    """What comes in answer: a `Have`, then bytes of the file, out of bytes of any size."""

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self.have: Have | None = None
        """Once it has come."""

    def feed(self, data: bytes) -> bytes:
        """The bytes of the file in *data*. Raises Refused FL-LINK-FRAME, FL-LINK-MESSAGE."""
        if self._head is None:
            return data
        self._head += data
        if len(self._head) < 4:
            return b""
        size = 4 + int.from_bytes(self._head[:4])
        if size - 4 > MOST_HELLO:
            raise Refused("FL-LINK-FRAME", f"a frame of {size - 4} bytes, {MOST_HELLO} are allowed")
        if len(self._head) < size:
            return b""
        (fields,) = frames.Decoder(MOST_HELLO).feed(bytes(self._head[:size]))
        try:
            self.have = Have.model_validate(fields)
        except ValidationError:
            raise _unknown() from None
        rest, self._head = bytes(self._head[size:]), None
        return rest


def _unknown() -> Refused:
    return Refused("FL-LINK-MESSAGE", "a message about an image that cannot be understood",
                   "both sides must run versions of fairlead that fit")
