"""Closing bytes so that only the holder of a key reads them, or changes them without being noticed.

`seal` is for keys at rest: AES-256-GCM, with the *purpose* bound in, so that what was sealed for one place does not
open in another (a sealed key copied over another record). It also wraps the cluster key to a Controller's ``node.key``.
`hpke_seal` is for the bundle made for one machine: HPKE (RFC 9180), base mode, X25519, HKDF-SHA256, AES-256-GCM; join
protocol, sections 4 and 8.

Nonces are random, 96 bits: a key may seal 2**32 times before that matters (NIST SP 800-38D, section 8.3); ours seal a
few thousand.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fairlead.base.errors import Refused

KEY_BYTES = 32

_VERSION = b"\x01"
_NONCE_BYTES = 12


def new_key() -> bytes:
    """32 bytes from the system's generator."""
    return os.urandom(KEY_BYTES)


def seal(key: bytes, plaintext: bytes, purpose: str) -> bytes:
    """Version (1 byte), nonce (12), ciphertext and tag. *key*: 32 bytes; *purpose*: where it belongs, not secret."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(key).encrypt(nonce, plaintext, _bound(purpose))


def unseal(key: bytes, sealed: bytes, purpose: str) -> bytes:
    """What `seal` closed with the same key for the same purpose. Raises Refused FL-SEAL-BROKEN."""
    if sealed[:1] != _VERSION or len(key) != KEY_BYTES:
        raise _broken()
    nonce, closed = sealed[1:1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES:]
    try:
        return _cipher(key).decrypt(nonce, closed, _bound(purpose))
    except (InvalidTag, ValueError):  # ValueError: cut short within the nonce
        raise _broken() from None


def new_recipient() -> bytes:
    """A new X25519 private key, 32 bytes (RFC 7748)."""
    return X25519PrivateKey.generate().private_bytes_raw()


def recipient_public(private: bytes) -> bytes:
    """The public half, 32 bytes, of a key that `new_recipient` made."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def hpke_seal(recipient: bytes, info: bytes, plaintext: bytes) -> bytes:
    """``enc || ciphertext`` for the holder of the X25519 key *recipient* (32 bytes, public).

    It says nothing about who sealed it. Raises Refused FL-SEAL-BROKEN for bytes that are no such key.
    """
    try:
        return _suite().encrypt(plaintext, X25519PublicKey.from_public_bytes(recipient), info)
    except ValueError:  # also a key of small order, for which everybody knows the shared secret
        raise _broken("the recipient's key is not an X25519 key") from None


def hpke_open(recipient_private: bytes, info: bytes, sealed: bytes) -> bytes:
    """What `hpke_seal` closed for this key and *info*. Raises Refused FL-SEAL-BROKEN."""
    try:
        return _suite().decrypt(sealed, X25519PrivateKey.from_private_bytes(recipient_private), info)
    except (InvalidTag, ValueError):
        raise _broken() from None


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:  # the library would take a shorter one as AES-128
        raise ValueError("a sealing key has 32 bytes")
    return AESGCM(key)


def _bound(purpose: str) -> bytes:
    return _VERSION + purpose.encode()


def _broken(why: str = "it was changed, or sealed with another key or for another purpose") -> Refused:
    return Refused("FL-SEAL-BROKEN", f"a sealed secret does not open: {why}",
                   "restore it from a backup, with the node.key that it was sealed under")
