"""How an engine's logs go up: the subsystem ``fairlead-logs`` of a stream connection, never of the link. Pure.

The engine says which spool it has and which part of it is still there; the Controller, from where on it wants it. Then
chunks, each with the offset at which it belongs, and now and then, back, the offset up to which all is on disk. An
offset counts the bytes of a spool from its beginning for ever: whatever is sent twice is known by it, and kept once.
"""

import struct

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.errors import Refused

SUBSYSTEM = "fairlead-logs"
VERSION = 1
MOST_CHUNK = 32 * 1024
LAST_OFFSET = 2**62
_CHUNK = struct.Struct(">QI")
_OFFSET = struct.Struct(">Q")


class Have(BaseModel):
    """Engine, first, as a frame of the link: the spool's id, where it begins by now, and where it ends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    v: int
    spool: str = Field(pattern="^[0-9a-f]{32}$")
    begin: int = Field(ge=0, lt=LAST_OFFSET)
    end: int = Field(ge=0, lt=LAST_OFFSET)


class Want(BaseModel):
    """Controller, first: from *offset*, no faster than *rate* bytes a second."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    v: int
    offset: int = Field(ge=0, lt=LAST_OFFSET)
    rate: int = Field(gt=0, lt=2**40)


def have(fields: object) -> Have:
    """Raises Refused FL-LINK-MESSAGE."""
    try:
        return Have.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


def want(fields: object) -> Want:
    """Raises Refused FL-LINK-MESSAGE."""
    try:
        return Want.model_validate(fields)
    except ValidationError:
        raise _unknown() from None


def chunk(offset: int, data: bytes) -> bytes:
    """*data* as it belongs at *offset*."""
    return _CHUNK.pack(offset, len(data)) + data


def settled(offset: int) -> bytes:
    """All below *offset* is on disk."""
    return _OFFSET.pack(offset)


class Chunks:
    """Chunks out of bytes of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The chunks that *data* completes. Raises Refused FL-LINK-FRAME."""
        self._buffer += data
        found = []
        while len(self._buffer) >= _CHUNK.size:
            offset, size = _CHUNK.unpack_from(self._buffer)
            if not 0 < size <= MOST_CHUNK or offset >= LAST_OFFSET:
                raise Refused("FL-LINK-FRAME", f"a chunk of {size} bytes, {MOST_CHUNK} are allowed")
            if len(self._buffer) < _CHUNK.size + size:
                break
            found.append((offset, bytes(self._buffer[_CHUNK.size:_CHUNK.size + size])))
            del self._buffer[:_CHUNK.size + size]
        return found


class Settlements:
    """What a Controller has settled, out of bytes of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> int | None:
        """The last offset that *data* completes."""
        self._buffer += data
        whole = len(self._buffer) // _OFFSET.size * _OFFSET.size
        if not whole:
            return None
        (offset,) = _OFFSET.unpack_from(self._buffer, whole - _OFFSET.size)
        del self._buffer[:whole]
        return int(offset)


def _unknown() -> Refused:
    return Refused("FL-LINK-MESSAGE", "a message about logs that cannot be understood",
                   "both sides must run versions of fairlead that fit")
