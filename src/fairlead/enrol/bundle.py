"""The credential bundle: the CA certificate, the one-time token and where the Controllers are, in one file. Pure.

Rules, and the attack each stops:

1. The anchor is rebuilt from the bundle's own fields and must have the hash that the token pins: a bundle in which
   anything was exchanged is refused before a connection is made.
2. Unknown fields, repeated fields and newer formats are refused: a bundle is understood in full or not at all.
3. A sealed bundle is opened by the machine that asked for it only. Sealing does not name the sender; the anchor does.

Join protocol, sections 2 and 8.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base import strict
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.token import Token
from fairlead.keys.seal import hpke_open, hpke_seal
from fairlead.keys.ssh import KeyRefused, PublicKey
from fairlead.keys.wire import b64, from_b64, sha256, string
from fairlead.nodes.name import check_name

FORMAT = 1
MOST_BYTES = 64 * 1024
SEAL_LABEL = "fairlead-bundle-seal-v1"

Role = Literal["controller", "engine"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Controller(_Strict):
    name: str
    address: str
    portal_port: int
    tls_name: str
    host_key: str


class _File(_Strict):
    fairlead_bundle: int
    cluster_uuid: str
    role: Role
    node: str | None
    join_versions: list[int]
    controllers: list[_Controller]
    ca_certificate: str
    token: str = Field(repr=False)
    expires_at: str
    lifetime_s: int = Field(ge=1, le=600)


class _Sealed(_Strict):
    fairlead_sealed_bundle: int
    request: str
    sealed: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `bundle export` writes and `join` reads."""

    role: Role
    node: str | None
    anchor: Anchor
    token: Token
    expires_at: str
    """RFC 3339; shown to people, decides nothing."""
    lifetime_s: int

    def encode(self) -> bytes:
        """The file. It holds the token's secret."""
        file = _File(
            fairlead_bundle=FORMAT, cluster_uuid=str(self.anchor.cluster_uuid), role=self.role, node=self.node,
            join_versions=list(self.anchor.join_versions),
            controllers=[_Controller(name=c.name, address=c.address, portal_port=c.portal_port, tls_name=c.tls_name,
                                     host_key=c.host_key.line) for c in self.anchor.controllers],
            ca_certificate="".join(_pem(der) for der in self.anchor.ca_certificates),
            token=self.token.encode(), expires_at=self.expires_at, lifetime_s=self.lifetime_s)
        return json.dumps(file.model_dump(), indent=1).encode() + b"\n"


def issue(anchor: Anchor, role: Role, node: str | None, token: Token, expires_at: int, lifetime_s: int) -> Bundle:
    """The bundle that carries *token*; *expires_at* in microseconds of store time."""
    return Bundle(role, node, anchor, token, rfc3339(expires_at), lifetime_s)


def decode(data: bytes) -> Bundle:
    """The bundle of a file. Raises Refused: FL-BUNDLE-FORMAT, -VERSION, -SEALED, -DAMAGED, or a token's code."""
    fields = _fields(data)
    if "fairlead_sealed_bundle" in fields:
        raise Refused("FL-BUNDLE-SEALED", "this bundle is sealed to the machine that requested it",
                      "import it on the machine where `fairlead bundle request` ran, with the same --state")
    version = fields.get("fairlead_bundle")
    if isinstance(version, int) and version > FORMAT:
        raise Refused("FL-BUNDLE-VERSION", f"this bundle has format {version}, made by a newer fairlead",
                      "upgrade fairlead on this machine")
    try:
        file = _File.model_validate(fields)
        if file.fairlead_bundle != FORMAT:
            raise ValueError("unknown format")
        if file.node is not None:
            check_name(file.node)
        cluster_uuid = UUID(file.cluster_uuid)
        if str(cluster_uuid) != file.cluster_uuid:  # UUID takes braces, underscores and other digits too
            raise ValueError("cluster_uuid is not in its usual form")
        anchor = Anchor(
            cluster_uuid, tuple(file.join_versions),
            tuple(c.public_bytes(Encoding.DER) for c in
                  x509.load_pem_x509_certificates(file.ca_certificate.encode())),
            tuple(AnchorController(c.name, c.address, c.portal_port, c.tls_name, PublicKey.from_line(c.host_key))
                  for c in file.controllers)).checked()
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Refused("FL-BUNDLE-FORMAT", f"this is not a credential bundle: {where}: {error.errors()[0]['msg']}",
                      "export it again with `fairlead bundle export`") from None
    except (KeyRefused, ValueError, x509.InvalidVersion, Refused) as error:
        raise Refused("FL-BUNDLE-DAMAGED", f"the bundle is damaged: {error}", "export it again") from None
    token = Token.decode(file.token)
    if anchor.hash != token.pin:
        raise Refused("FL-BUNDLE-DAMAGED", "the bundle was changed after it was exported: its Controllers and "
                      "certificates are not the ones that its token pins", "export it again; do not edit a bundle")
    return Bundle(file.role, file.node, anchor, token, file.expires_at, file.lifetime_s)


def seal(bundle: Bundle, request: bytes, recipient: bytes) -> bytes:
    """The sealed file for the machine whose join request encodes as *request*; *recipient*: X25519, 32 bytes."""
    digest = sha256(request)
    sealed = hpke_seal(recipient, _seal_info(digest), bundle.encode())
    return json.dumps({"fairlead_sealed_bundle": FORMAT, "request": b64(digest), "sealed": b64(sealed)}).encode()


def is_sealed(data: bytes) -> bool:
    """Whether the file is a sealed bundle. Raises Refused FL-BUNDLE-FORMAT."""
    return "fairlead_sealed_bundle" in _fields(data)


def unseal(data: bytes, request: bytes, recipient_private: bytes) -> Bundle:
    """The bundle inside a sealed file. Raises Refused."""
    try:
        file = _Sealed.model_validate(_fields(data))
        digest, sealed = from_b64(file.request), from_b64(file.sealed)
    except ValueError:
        raise Refused("FL-BUNDLE-FORMAT", "this is not a sealed bundle", "export it again") from None
    if file.fairlead_sealed_bundle != FORMAT:
        raise Refused("FL-BUNDLE-VERSION", "this sealed bundle was made by a newer fairlead",
                      "upgrade fairlead on this machine")
    if digest != sha256(request):
        raise Refused("FL-BUNDLE-OTHER", "this bundle was sealed for another request",
                      "import it on the machine that asked for it, or export it again with --for")
    try:
        opened = hpke_open(recipient_private, _seal_info(digest), sealed)
    except Refused:
        raise Refused("FL-BUNDLE-DAMAGED", "the sealed bundle does not open: it was changed, or it is not for this "
                      "machine", "export it again with --for") from None
    return decode(opened)


def summary(bundle: Bundle) -> dict[str, Any]:
    """What `bundle show` prints: everything but the secret."""
    return {
        "role": bundle.role, "node": bundle.node, "cluster_uuid": str(bundle.anchor.cluster_uuid),
        "token_id": bundle.token.id.hex(), "anchor": bundle.anchor.hash.hex(), "expires_at": bundle.expires_at,
        "lifetime_s": bundle.lifetime_s, "join_versions": list(bundle.anchor.join_versions),
        "controllers": [{"name": c.name, "address": f"{c.address}:{c.portal_port}", "tls_name": c.tls_name,
                         "host_key": c.host_key.fingerprint} for c in bundle.anchor.controllers],
        "ca_certificates": [sha256(der).hex() for der in bundle.anchor.ca_certificates],
    }


def _fields(data: bytes) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise Refused("FL-BUNDLE-FORMAT", f"this is not a credential bundle: larger than {MOST_BYTES} bytes")
    try:
        fields = strict.loads(data)
    except ValueError:
        raise Refused("FL-BUNDLE-FORMAT", "this is not a credential bundle, or it was cut off",
                      "copy the whole file, or export it again") from None
    if not isinstance(fields, dict):
        raise Refused("FL-BUNDLE-FORMAT", "this is not a credential bundle")
    return fields


def _pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def _seal_info(request_hash: bytes) -> bytes:
    return string(SEAL_LABEL) + string(request_hash)
