"""Frames of the link: a 32-bit big-endian length and one JSON object. Pure.

The length is limited before anything is kept: a peer cannot make the other side wait for, or hold, more than a frame.
"""

import json
import struct
from typing import Any

from fairlead.base import strict
from fairlead.base.errors import Refused

MOST_BYTES = 4 * 1024 * 1024
"""A plan that names every node of a large cluster fits; nothing else comes near."""
MOST_COMMIT_BYTES = 4 * 1024
"""Frames of the subsystem ``fairlead-join`` (join protocol, section 7), and the first ones of others."""

_ENCODER = json.JSONEncoder(separators=(",", ":"))


def encode(message: dict[str, Any]) -> bytes:
    """The frame of *message*."""
    body = _ENCODER.encode(message).encode()
    return struct.pack(">I", len(body)) + body


class Decoder:
    """Frames out of chunks of any size."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        """Bytes of a frame; may become more."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that *data* completes. Raises Refused FL-LINK-FRAME: nothing after it can be understood."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= 4:
            (size,) = struct.unpack_from(">I", self._buffer)
            if size > self.most:
                raise Refused("FL-LINK-FRAME", f"a frame of {size} bytes, {self.most} are allowed")
            if len(self._buffer) < 4 + size:
                break
            messages.append(_object(bytes(self._buffer[4:4 + size])))
            del self._buffer[:4 + size]
        return messages


def _object(body: bytes) -> dict[str, Any]:
    try:
        message = strict.loads(body)
    except ValueError:
        raise Refused("FL-LINK-FRAME", "a frame that is not JSON") from None
    if not isinstance(message, dict):
        raise Refused("FL-LINK-FRAME", "a frame that is not an object")
    return message
