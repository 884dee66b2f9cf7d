"""How much work a passphrase costs, by what an encrypted file says of itself before it is decrypted. Pure.

A key or a PKCS #12 file names the rounds of its key derivation, up to billions: whoever opens it as it asks is busy for
minutes. They stand in a sequence behind its salt (PBKDF2, RFC 8018; PKCS #12, RFC 7292; scrypt, RFC 7914), so every
such sequence is looked at, whatever it is for. What is itself encrypted is not seen: a key within an encrypted part.
"""

import base64
import binascii
import re
from collections.abc import Iterator

MOST_ROUNDS = 2_000_000
"""A quarter of a second of PBKDF2."""
MOST_SCRYPT = 2**21
"""The product of scrypt's three costs: 256 MB."""

_DEEPEST = 24
_INTEGER, _OCTETS, _CONSTRUCTED = 0x02, 0x04, 0x20
_BLOCK = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----(.*?)-----END ", re.DOTALL)


def too_much_work(data: bytes) -> bool:
    """Whether a private key (PEM) or a PKCS #12 file (DER) asks for more than is allowed."""
    if b"-----BEGIN " not in data:
        return _asks_much(data, 0)
    for block in _BLOCK.findall(data):
        try:
            if _asks_much(base64.b64decode(block), 0):
                return True
        except binascii.Error:
            continue  # no reader of PEM takes it either
    return False


def _asks_much(der: bytes, depth: int) -> bool:
    salted, costs = False, list[int]()
    for tag, value in _elements(der):
        if tag == _INTEGER and salted:
            costs.append(int.from_bytes(value, "big"))
        salted = salted or tag == _OCTETS
        if depth < _DEEPEST and (tag & _CONSTRUCTED or tag == _OCTETS) and _asks_much(value, depth + 1):
            return True
    if len(costs) < 3:  # rounds, and perhaps the length of the key
        return bool(costs) and costs[0] > MOST_ROUNDS
    return costs[0] * costs[1] * costs[2] > MOST_SCRYPT


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents one after the other, up to what is no such thing; lengths may be indefinite."""
    at = 0
    while at + 2 <= len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size == 0x80:  # up to an end that its reader finds: looked at as if it went on for good
            yield tag, der[at:]
            return
        if size > 0x80:
            size, at = int.from_bytes(der[at:at + size - 0x80], "big"), at + size - 0x80
        yield tag, der[at:at + size]
        at += size
