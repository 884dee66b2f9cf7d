"""The one-time token: its string, and the key that proves its possession. Pure.

Rules, and the attack each stops:

1. The string carries the pin of an anchor: whoever holds it needs no trust on first use to find the right cluster.
2. 84 bytes fill the alphabet without spare bits and the checksum covers the prefix: one spelling per token, and a
   mistyped one is found out before anything is sent.
3. What proves the token is a signature by a key derived from its secret. The leader keeps the public half only: a
   snapshot of the store, however fresh, joins nothing.

Join protocol, sections 3 and 4. What a token may do is decided in `redeem`.
"""

import base64
import re
import secrets
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fairlead.base.errors import Refused
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64url, sha256

PREFIX = "flj1_"
BODY_CHARACTERS = 112
ID_BYTES = 16
SECRET_BYTES = 32
KEY_INFO = b"fairlead/join/v1 token key"
NAMESPACE = "fairlead-join-v1/token"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its holder has it. The secret is in neither its representation nor any log."""

    id: bytes
    """16 bytes; public."""
    secret: bytes = field(repr=False)
    """32 bytes."""
    pin: bytes
    """SHA-256 of the anchor, 32 bytes; public."""

    @classmethod
    def new(cls, pin: bytes) -> "Token":
        """A token for the anchor with hash *pin*, from the system's generator."""
        return cls(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES), pin)

    @classmethod
    def decode(cls, text: str) -> "Token":
        """The token of its string. Raises Refused; the code's end is the reason that the specification names."""
        text = text.strip(" \t\r\n")
        start = re.match(r"flj([0-9]{1,4})_", text)
        if not start:
            raise Refused("FL-TOKEN-PREFIX", "this is not a fairlead token", "a token starts with flj1_")
        if start[1] != "1":
            raise Refused("FL-TOKEN-VERSION", "this token was made by a newer fairlead",
                          "upgrade fairlead on this machine")
        body = text[len(PREFIX):]
        if not re.fullmatch(r"[A-Za-z0-9_-]*", body):
            raise Refused("FL-TOKEN-ALPHABET", "the token has a character that no token has", "copy it again")
        if len(body) != BODY_CHARACTERS:
            raise Refused("FL-TOKEN-LENGTH", f"the token was cut or extended: {len(body)} characters follow flj1_, "
                          f"a token has {BODY_CHARACTERS}", "copy the whole of it")
        data = base64.urlsafe_b64decode(body)
        payload, check = data[:-4], data[-4:]
        if _check(payload) != check:
            raise Refused("FL-TOKEN-CHECKSUM", "the token was mistyped or damaged", "copy it again")
        token = cls(payload[:16], payload[16:48], payload[48:])
        token.key(UUID(int=0))  # a secret that nobody may use is refused at the door
        return token

    def encode(self) -> str:
        """The string. It is a secret."""
        payload = self.id + self.secret + self.pin
        return PREFIX + b64url(payload + _check(payload))

    def key(self, cluster_uuid: UUID) -> PrivateKey:
        """The key that proves this token in the cluster *cluster_uuid*. Raises Refused for a secret that is none."""
        if len(self.secret) != SECRET_BYTES or not any(self.secret):
            raise Refused("FL-TOKEN-SECRET", "the token's secret is empty", "export a new bundle")
        seed = HKDF(hashes.SHA256(), 32, salt=cluster_uuid.bytes + self.id, info=KEY_INFO).derive(self.secret)
        return PrivateKey.from_seed(seed)


def _check(payload: bytes) -> bytes:
    return sha256(b"fairlead-token" + PREFIX.encode() + payload)[:4]
