"""The one encoding of everything that is hashed or signed: SSH's ``string`` and ``uint32`` (RFC 4251 section 5).

It is injective without canonicalisation rules: a field cannot run into its neighbour.
"""

import base64
import binascii
import hashlib
import struct


def string(value: bytes | str) -> bytes:
    """A 32-bit big-endian length and the bytes; text is UTF-8."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def u32(value: int) -> bytes:
    """A 32-bit big-endian number."""
    return struct.pack(">I", value)


class Reader:
    """What `string` and `u32` have written, field by field. Each raises ValueError where it is cut off."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        """A number."""
        return int.from_bytes(self._take(4), "big")

    def few(self, most: int) -> range:
        """As many turns as the number says that stands next, at most *most*. Raises ValueError."""
        count = self.u32()
        if count > most:
            raise ValueError(f"{count} entries, {most} are allowed")
        return range(count)

    def string(self) -> bytes:
        """Bytes."""
        return self._take(self.u32())

    def text(self) -> str:
        """UTF-8."""
        return self.string().decode("utf-8")

    def end(self) -> None:
        """Nothing more may follow. Raises ValueError."""
        if self._at != len(self._data):
            raise ValueError("bytes after its end")

    def _take(self, size: int) -> bytes:
        piece = self._data[self._at:self._at + size]
        if len(piece) != size:
            raise ValueError("cut off")
        self._at += size
        return piece


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def b64(data: bytes) -> str:
    """Base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def from_b64(text: str) -> bytes:
    """Strict base64: one spelling per value. Raises ValueError for foreign characters or loose trailing bits."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64") from error
    if b64(data) != text:
        raise ValueError("not canonical base64")
    return data


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
