"""Ed25519 keys as SSH writes them, and the signatures (SSHSIG) that prove their possession.

Rules, and the attack each stops:

1. Only ``ssh-ed25519`` blobs of 51 bytes are keys. Anything else is refused by name, so no weaker type creeps in.
2. A public key of small order, or not in canonical form, is refused: the library's verification accepts signatures for
   such keys that nobody's private key made (an attacker would register a key that everybody "holds").
3. A proof is a signature under one namespace that its verifier names. A proof of the host key is none of the user key,
   and neither is one of the token: no signing oracle in one protocol serves another.

The signed form is OpenSSH's PROTOCOL.sshsig with SHA-512; armoured it is what ``ssh-keygen -Y verify`` accepts.
"""

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fairlead.keys.wire import b64, from_b64, sha256, string, u32

KEY_TYPE = "ssh-ed25519"
BLOB_BYTES = 51
SIGNATURE_BYTES = 64

_FIELD_PRIME = 2**255 - 19
_SMALL_ORDER_Y = frozenset((  # the y of every point whose order divides 8; with either sign of x
    0,
    1,
    _FIELD_PRIME - 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
))


class KeyRefused(ValueError):
    """The text or the bytes are not a key that fairlead accepts; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key. Made by `from_blob` and `from_line`, which refuse what must not be used."""

    blob: bytes
    """SSH wire form, 51 bytes."""

    @classmethod
    def from_blob(cls, blob: bytes) -> "PublicKey":
        """The key of an SSH wire form. Raises KeyRefused."""
        if len(blob) != BLOB_BYTES or not blob.startswith(string(KEY_TYPE) + u32(32)):
            raise KeyRefused("not an ssh-ed25519 key")
        y = int.from_bytes(blob[-32:], "little") & (2**255 - 1)
        if y >= _FIELD_PRIME:
            raise KeyRefused("the key is not in canonical form")
        if y in _SMALL_ORDER_Y:
            raise KeyRefused("the key is of small order: signatures under it prove nothing")
        return cls(blob)

    @classmethod
    def from_line(cls, text: str) -> "PublicKey":
        """The key of ``ssh-ed25519 <base64>``, without comment. Raises KeyRefused."""
        kind, _, encoded = text.partition(" ")
        if kind != KEY_TYPE:
            raise KeyRefused("not an ssh-ed25519 key")
        try:
            return cls.from_blob(from_b64(encoded))
        except KeyRefused:
            raise
        except ValueError as error:
            raise KeyRefused(f"the key is {error}") from error

    @property
    def line(self) -> str:
        """``ssh-ed25519 <base64>``."""
        return f"{KEY_TYPE} {b64(self.blob)}"

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and unpadded base64, as ``ssh-keygen -l`` prints it."""
        return fingerprint(self.blob)

    @property
    def raw(self) -> bytes:
        """The 32 bytes of RFC 8032."""
        return self.blob[-32:]

    def verifies(self, namespace: str, message: bytes, signature: bytes) -> bool:
        """Whether *signature* (64 bytes) is this key's over *message* under *namespace*."""
        return verifies(self.raw, signed_form(namespace, message), signature)


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """An Ed25519 private key. Its representation shows the fingerprint only."""

    key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "PrivateKey":
        """A new key from the system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> "PrivateKey":
        """The key of a 32-byte seed."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_openssh(cls, pem: bytes) -> "PrivateKey":
        """The key of an unencrypted OpenSSH private key file. Raises KeyRefused."""
        try:
            key = serialization.load_ssh_private_key(pem, password=None)
        except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as error:  # a passphrase, a rare type
            raise KeyRefused("not an OpenSSH private key without a passphrase") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyRefused("not an ed25519 key")
        return cls(key)

    def openssh(self) -> bytes:
        """An OpenSSH private key file, as ``ssh -i`` reads it."""
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH,
                                      serialization.NoEncryption())

    @property
    def public(self) -> PublicKey:
        """The public half."""
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return PublicKey(string(KEY_TYPE) + string(raw))

    def sign(self, namespace: str, message: bytes) -> bytes:
        """64 bytes that `PublicKey.verifies` accepts under the same namespace."""
        return self.key.sign(signed_form(namespace, message))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.fingerprint})"


def fingerprint(blob: bytes) -> str:
    """``SHA256:`` and unpadded base64 of the hash of an SSH wire form."""
    return "SHA256:" + base64.b64encode(sha256(blob)).rstrip(b"=").decode("ascii")


def signed_form(namespace: str, message: bytes) -> bytes:
    """The bytes that an SSHSIG signature covers (OpenSSH PROTOCOL.sshsig)."""
    return (b"SSHSIG" + string(namespace) + string("") + string("sha512") + string(hashlib.sha512(message).digest()))


def verifies(raw_public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether *signature* is one of the Ed25519 key *raw_public* (32 bytes) over exactly *data*."""
    try:
        Ed25519PublicKey.from_public_bytes(raw_public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def armoured(public: PublicKey, namespace: str, signature: bytes) -> str:
    """*signature* as the file that ``ssh-keygen -Y verify`` reads."""
    body = b64(b"SSHSIG" + u32(1) + string(public.blob) + string(namespace) + string("") + string("sha512")
               + string(string(KEY_TYPE) + string(signature)))
    lines = "\n".join(body[i:i + 70] for i in range(0, len(body), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n"
