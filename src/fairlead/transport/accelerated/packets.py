"""The encrypted packets of one direction, sealed and opened in buffers that their user owns. No input or output.

AES-GCM as RFC 5647 section 7 and OpenSSH's PROTOCOL have it: the four bytes of the length are authenticated but not
encrypted, the nonce is a fixed part and a counter, a packet is a multiple of the cipher's block.

Rules, and the attack each stops:

1. A length is believed only up to what the connection expects: it allocates nothing and reserves nothing.
2. Nothing of a packet is looked at before its tag is verified; what fails ends the connection.
3. A nonce is used once: the counter moves before the result is handed out, and lives where the key lives.
4. Padding is random, and no byte of it is used twice (RFC 4253 section 6).
"""

import os
import struct

import asyncssh
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 16
TAG = 16
HEAD = 4
LEAST_PADDING = 4
OVERHEAD = HEAD + 1 + LEAST_PADDING + BLOCK + TAG
"""The most bytes that a packet has beyond its payload."""
DATA_AT = 10
"""Where the data of CHANNEL_DATA begins in a packet without its length: padding length, type, channel, data length."""
MSG_CHANNEL_DATA = 94

_DATA = struct.Struct(">BBII").pack_into
_HEAD = struct.Struct(">I")
_NONCE = struct.Struct(">4sQ").pack
_POOL = 4096


class Padding:
    """Random bytes, fetched by the page."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """*count* bytes, at most 255, that nobody had before."""
        at = self._at
        if at + count > len(self._pool):
            self._pool = os.urandom(_POOL)
            at = 0
        self._at = at + count
        return self._pool[at:at + count]


def padding_length(payload: int) -> int:
    """How much padding a payload of so many bytes needs (RFC 4253 section 6, RFC 5647 section 7.2)."""
    length = -(1 + payload) % BLOCK
    return length if length >= LEAST_PADDING else length + BLOCK


class _Direction:
    __slots__ = ("_aead", "_counter", "_fixed")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")

    def _nonce(self) -> bytes:
        counter = self._counter
        self._counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
        return _NONCE(self._fixed, counter)


class Sealer(_Direction):
    """Seals what we send."""

    __slots__ = ("_padding",)

    def __init__(self, key: bytes, iv: bytes, padding: Padding) -> None:
        super().__init__(key, iv)
        self._padding = padding

    def seal(self, head: bytes, packet: bytes) -> bytes:
        """A whole packet for the wire, of one that is padded already."""
        return head + self._aead.encrypt(self._nonce(), packet, head)

    def seal_payload(self, payload: bytes) -> bytes:
        """A whole packet for the wire."""
        length = padding_length(len(payload))
        packet = b"%c%b%b" % (length, payload, self._padding.take(length))
        head = _HEAD.pack(len(packet))
        return head + self._aead.encrypt(self._nonce(), packet, head)

    def seal_data(self, channel: int, plain: memoryview, size: int, out: memoryview, at: int) -> int:
        """Seal CHANNEL_DATA into *out* from *at* on; where it ends. Its *size* bytes lie in *plain* from `DATA_AT` on.

        *plain* has room for the padding behind the data, *out* for `OVERHEAD` beyond payload.
        """
        padding = padding_length(DATA_AT - 1 + size)
        length = DATA_AT + size + padding
        _DATA(plain, 0, padding, MSG_CHANNEL_DATA, channel, size)
        plain[DATA_AT + size:length] = self._padding.take(padding)
        head = _HEAD.pack(length)
        end = at + HEAD + length + TAG
        out[at:at + HEAD] = head
        self._aead.encrypt_into(self._nonce(), plain[:length], head, out[at + HEAD:end])
        return end


class Opener(_Direction):
    """Opens what comes from the peer."""

    __slots__ = ()

    def open(self, wire: memoryview, start: int, end: int, plain: memoryview, most: int) -> int:
        """Open the packet from *start* in *wire*, which is filled up to *end*, into *plain*.

        Its length without head and tag; 0 when more is needed.

        *plain* holds then the padding length, the payload and the padding. *most* is the longest that is expected, and
        *plain* holds that. Raises ProtocolError, MACError.
        """
        sealed = start + HEAD
        if end < sealed:
            return 0
        length: int = _HEAD.unpack_from(wire, start)[0]
        if length > most or length % BLOCK or not length:
            raise asyncssh.ProtocolError("a packet of a forbidden length")
        after = sealed + length + TAG
        if end < after:
            return 0
        try:
            self._aead.decrypt_into(self._nonce(), wire[sealed:after], wire[start:sealed], plain[:length])
        except InvalidTag:
            raise asyncssh.MACError("MAC verification failed") from None
        if not LEAST_PADDING <= plain[0] <= length - 2:
            raise asyncssh.ProtocolError("a packet with forbidden padding")
        return length

    def open_packet(self, head: bytes, sealed: bytes) -> bytes | None:
        """What `open` leaves in *plain*, of a whole packet; None when it is not authentic."""
        try:
            return self._aead.decrypt(self._nonce(), sealed, head)
        except InvalidTag:
            return None
