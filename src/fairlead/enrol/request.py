"""The join request: keys made before the bundle, so that the bundle is worth nothing to anybody else. Pure.

The request needs no secrecy, only integrity: who swaps it gets a bundle for his keys. That is what the fingerprint is
for, compared by people on both machines. Join protocol, section 8.
"""

import base64
import json
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base import strict
from fairlead.base.errors import Refused
from fairlead.enrol.exchange import keys_hash
from fairlead.keys.ssh import PublicKey
from fairlead.keys.wire import b64, from_b64, sha256, string
from fairlead.nodes.name import check_name

FORMAT = 1
MOST_BYTES = 8192


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    fairlead_join_request: int = Field(ge=FORMAT, le=FORMAT)
    role: Literal["controller", "engine"]
    node: str
    host_key: str
    user_key: str
    recipient: str


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Who asks for a bundle, with which keys."""

    role: Literal["controller", "engine"]
    node: str
    host_key: PublicKey
    user_key: PublicKey
    recipient: bytes
    """X25519 public key, 32 bytes."""

    def encoded(self) -> bytes:
        """The bytes that the fingerprint and the seal cover."""
        return b"".join((string("fairlead-join-request-v1"), string(self.role), string(self.node),
                         string(self.host_key.blob), string(self.user_key.blob), string(self.recipient)))

    @property
    def fingerprint(self) -> str:
        """24 characters of base32 in groups of four, to be compared by people."""
        text = base64.b32encode(sha256(self.encoded())).decode().lower()[:24]
        return "-".join(re.findall("....", text))

    @property
    def keys_hash(self) -> bytes:
        """What a token for this request is bound to."""
        return keys_hash(self.role, self.host_key, self.user_key)

    def file(self) -> bytes:
        """The JSON file; nothing in it is secret."""
        return json.dumps({
            "fairlead_join_request": FORMAT, "role": self.role, "node": self.node, "host_key": self.host_key.line,
            "user_key": self.user_key.line, "recipient": b64(self.recipient)}, indent=1).encode() + b"\n"


def decode(data: bytes) -> JoinRequest:
    """The request of its file. Raises Refused FL-REQUEST."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("too large")
        file = _File.model_validate(strict.loads(data))
        recipient = from_b64(file.recipient)
        if len(recipient) != 32:
            raise ValueError("recipient is not an X25519 key")
        request = JoinRequest(file.role, check_name(file.node), PublicKey.from_line(file.host_key),
                              PublicKey.from_line(file.user_key), recipient)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Refused("FL-REQUEST", f"this is not a join request: {where}: {error.errors()[0]['msg']}",
                      "make it with `fairlead bundle request`") from None
    except ValueError as error:
        raise Refused("FL-REQUEST", f"this is not a join request: {error}",
                      "make it with `fairlead bundle request`") from None
    if request.host_key == request.user_key:
        raise Refused("FL-REQUEST", "host key and user key are the same", "make it with `fairlead bundle request`")
    return request
