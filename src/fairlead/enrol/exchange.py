"""The secure key exchange: what is said, what is signed, and what is believed. Pure.

Rules, and the attack each stops:

1. All proofs and the reply cover one transcript, rebuilt by each side from the values it parsed itself: a field that
   was changed on the way makes every signature wrong.
2. The transcript holds the certificate of the TLS connection as each side sees it: a proof that is relayed through
   somebody else's TLS connection, even with a certificate of the same root, fails.
3. Token, host key and user key each sign under a namespace of their own: nobody registers keys that he does not hold,
   and a proof of one is none of the other.
4. The reply is signed by the answering Controller's SSH host key, which the bundle pins: who terminates TLS cannot
   answer in its place.
5. Requests are understood in full or refused: unknown and repeated fields, loose base64, deep nesting.

Join protocol, sections 4, 5 and 7.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fairlead.base import strict
from fairlead.base.errors import Refused
from fairlead.enrol.anchor import Anchor
from fairlead.enrol.token import NAMESPACE as TOKEN_NAMESPACE
from fairlead.keys.known import host_keys
from fairlead.keys.ssh import SIGNATURE_BYTES, KeyRefused, PrivateKey, PublicKey
from fairlead.keys.wire import b64, from_b64, sha256, string, u32
from fairlead.link.messages import InternalAddress, Port
from fairlead.nodes.name import is_name
from fairlead.nodes.node import USERS, Endpoint

VERSION = 1
PATH = "/api/securekeyexchange"
MOST_REQUEST_BYTES = 8 * 1024
MOST_REPLY_BYTES = 64 * 1024
HOST_NAMESPACE = "fairlead-join-v1/host"
USER_NAMESPACE = "fairlead-join-v1/user"
SERVER_NAMESPACE = "fairlead-join-v1/server"

Role = Literal["controller", "engine"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the joining node says of itself, on one connection."""

    cluster_uuid: UUID
    anchor_hash: bytes
    token_id: bytes
    certificate_hash: bytes
    """SHA-256 of the DER leaf of this very TLS connection."""
    role: Role
    node: str
    host_key: PublicKey
    user_key: PublicKey
    nonce: bytes
    endpoint: Endpoint | None
    software: str

    def transcript(self) -> bytes:
        """T of the specification."""
        return b"".join((
            string("fairlead-join-v1"), string(self.cluster_uuid.bytes), string(self.anchor_hash),
            string(self.token_id), string(self.certificate_hash), string(self.role), string(self.node),
            string(self.host_key.blob), string(self.user_key.blob), string(self.nonce),
            string(encode_endpoint(self.endpoint)), string(self.software)))

    @property
    def keys_hash(self) -> bytes:
        """What a token is bound to once it is used."""
        return keys_hash(self.role, self.host_key, self.user_key)


@dataclass(frozen=True, slots=True)
class Proofs:
    """Signatures over the transcript, 64 bytes each."""

    token: bytes
    host: bytes
    user: bytes


def keys_hash(role: str, host_key: PublicKey, user_key: PublicKey) -> bytes:
    """SHA-256 that stands for a pair of keys in a role."""
    return sha256(string("fairlead-join-keys-v1") + string(role) + string(host_key.blob) + string(user_key.blob))


def encode_endpoint(endpoint: Endpoint | None) -> bytes:
    """Empty for an engine. A Controller announces its first address here; others follow after it joined."""
    if endpoint is None:
        return b""
    return (string(endpoint.addresses[0]) + u32(endpoint.api_port) + u32(endpoint.portal_port)
            + u32(endpoint.ssh_port))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _Endpoint(_Strict):
    address: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")
    api_port: Port
    portal_port: Port
    ssh_port: Port


class _Request(_Strict):
    v: int
    token_id: str
    anchor: str
    certificate: str
    role: Role
    node: str
    host_key: str
    user_key: str
    nonce: str
    endpoint: _Endpoint | None = None
    software: str = Field(max_length=64, pattern=r"^[\x20-\x7e]*$")
    token_proof: str
    host_proof: str
    user_proof: str


def prove(claim: Claim, *, token: PrivateKey, host: PrivateKey, user: PrivateKey) -> bytes:
    """The request body for *claim*."""
    transcript = claim.transcript()
    body: dict[str, Any] = {
        "v": VERSION, "token_id": b64(claim.token_id), "anchor": b64(claim.anchor_hash),
        "certificate": b64(claim.certificate_hash), "role": claim.role, "node": claim.node,
        "host_key": claim.host_key.line, "user_key": claim.user_key.line, "nonce": b64(claim.nonce),
        "software": claim.software,
        "token_proof": b64(token.sign(TOKEN_NAMESPACE, transcript)),
        "host_proof": b64(host.sign(HOST_NAMESPACE, transcript)),
        "user_proof": b64(user.sign(USER_NAMESPACE, transcript))}
    if claim.endpoint is not None:
        body["endpoint"] = {"address": claim.endpoint.addresses[0], "api_port": claim.endpoint.api_port,
                            "portal_port": claim.endpoint.portal_port, "ssh_port": claim.endpoint.ssh_port}
    return json.dumps(body, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that has the right shape. Nothing in it is proven yet; its keys are not yet judged."""

    fields: _Request
    token_id: bytes
    anchor_hash: bytes
    certificate_hash: bytes
    nonce: bytes
    proofs: Proofs

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises Refused FL-JOIN-FORMAT or FL-JOIN-VERSION, decided without looking at any token."""
        fields = strict_object(body, MOST_REQUEST_BYTES)
        version = fields.get("v")
        if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
            raise Refused("FL-JOIN-VERSION", f"this cluster speaks join protocol {VERSION}, not {version}")
        try:
            request = _Request.model_validate(fields)
            if not is_name(request.node):
                raise ValueError("node is not a node name")
            if (request.role == "controller") != (request.endpoint is not None):
                raise ValueError("endpoint belongs to the role controller")
            return cls(request, _sized(request.token_id, 16, "token_id"), _sized(request.anchor, 32, "anchor"),
                       _sized(request.certificate, 32, "certificate"), _sized(request.nonce, 32, "nonce"),
                       Proofs(_sized(request.token_proof, SIGNATURE_BYTES, "token_proof"),
                              _sized(request.host_proof, SIGNATURE_BYTES, "host_proof"),
                              _sized(request.user_proof, SIGNATURE_BYTES, "user_proof")))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise Refused("FL-JOIN-FORMAT", f"the request is malformed: {where}") from None
        except ValueError as error:
            raise Refused("FL-JOIN-FORMAT", f"the request is malformed: {error}") from None

    def encode(self) -> bytes:
        """A body that parses to the same."""
        return self.fields.model_dump_json(exclude_none=True).encode()

    def claim(self, cluster_uuid: UUID) -> Claim:
        """What was claimed. Raises Refused FL-JOIN-KEYS when its keys must not be used."""
        f = self.fields
        try:
            host_key, user_key = PublicKey.from_line(f.host_key), PublicKey.from_line(f.user_key)
        except KeyRefused as error:
            raise Refused("FL-JOIN-KEYS", f"a key is refused: {error}", "make new keys") from None
        if host_key == user_key:
            raise Refused("FL-JOIN-KEYS", "host key and user key are the same", "make two keys")
        endpoint = None if f.endpoint is None else Endpoint(
            (f.endpoint.address,), f.endpoint.api_port, f.endpoint.portal_port, f.endpoint.ssh_port)
        return Claim(cluster_uuid, self.anchor_hash, self.token_id, self.certificate_hash, f.role, f.node,
                     host_key, user_key, self.nonce, endpoint, f.software)

    def transcript(self, cluster_uuid: UUID) -> bytes:
        """T from the raw fields: it can be made before the keys are judged, so that the token is proven first."""
        f = self.fields
        blobs = []
        for line in (f.host_key, f.user_key):
            kind, _, encoded = line.partition(" ")
            try:
                blobs.append(from_b64(encoded) if kind == "ssh-ed25519" else b"")
            except ValueError:
                blobs.append(b"")
        endpoint = b"" if f.endpoint is None else encode_endpoint(Endpoint(
            (f.endpoint.address,), f.endpoint.api_port, f.endpoint.portal_port, f.endpoint.ssh_port))
        return b"".join((
            string("fairlead-join-v1"), string(cluster_uuid.bytes), string(self.anchor_hash), string(self.token_id),
            string(self.certificate_hash), string(f.role), string(f.node), string(blobs[0]), string(blobs[1]),
            string(self.nonce), string(endpoint), string(f.software)))


class CoreController(BaseModel):
    """A Controller as the reply core names it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    name: str
    address: str
    portal_port: Port
    ssh_port: Port
    internal_address: InternalAddress
    host_key: Annotated[str, AfterValidator(lambda line: PublicKey.from_line(line).line)]
    user_key: str
    node_id: str = ""
    """Whom signed calls name."""
    next_host_key: Annotated[str, AfterValidator(lambda line: line and PublicKey.from_line(line).line)] = ""
    """The one that follows `host_key`, while it changes: the cluster's word, as in a plan."""

    @property
    def host_keys(self) -> tuple[PublicKey, ...]:
        """Those by which it is known."""
        return host_keys(self)


class Core(BaseModel):
    """What a Controller answers: public facts, no secret. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    v: int
    result: Literal["reserved", "committed"]
    node: str
    node_id: str
    role: Role
    user: str
    internal_address: InternalAddress
    keys_hash: str
    commit_within_s: int = Field(ge=0, lt=2**31)
    server_time: str
    controllers: list[CoreController] = Field(min_length=1, max_length=8)
    trust: list[str] = Field(default=[], max_length=1)
    """The newest trust statement, for a node that has none yet."""

    def encode(self) -> bytes:
        """The exact bytes that are signed and sent."""
        return json.dumps(self.model_dump(), separators=(",", ":")).encode()


def answer(core: bytes, transcript: bytes, signer: str, host_key: PrivateKey) -> bytes:
    """The reply body: the core's bytes and the Controller's signature over transcript and core."""
    signature = host_key.sign(SERVER_NAMESPACE, string(transcript) + string(core))
    return json.dumps({"v": VERSION, "signer": signer, "core": b64(core), "signature": b64(signature)}).encode()


def believe(body: bytes, claim: Claim, anchor: Anchor) -> tuple[Core, bytes]:
    """The core of a reply, and its bytes, when the pinned Controller signed it for *claim* and it speaks of us.

    Raises Refused FL-JOIN-PEER: another Controller may be tried.
    """
    try:
        reply = strict_object(body, MOST_REPLY_BYTES)
        if set(reply) != {"v", "signer", "core", "signature"} or reply["v"] != VERSION:
            raise ValueError("not a reply")
        signer, core_bytes = str(reply["signer"]), from_b64(str(reply["core"]))
        signature = from_b64(str(reply["signature"]))
    except (Refused, ValueError):
        raise _distrust("the reply is malformed") from None
    signed = string(claim.transcript()) + string(core_bytes)
    if not any(key.verifies(SERVER_NAMESPACE, signed, signature) for key in anchor.host_keys(signer)):
        raise _distrust("the reply is not signed by a Controller that the bundle names")
    try:
        core = Core.model_validate(strict.loads(core_bytes))
    except ValueError:
        raise _distrust("the reply's core is malformed") from None
    if (core.node, core.role, core.keys_hash) != (claim.node, claim.role, claim.keys_hash.hex()):
        raise _distrust("the reply speaks of another node, role or keys")
    if core.user != USERS[claim.role]:
        raise _distrust("the reply's user does not fit the role")
    for controller in core.controllers:
        pinned = anchor.host_keys(controller.name)
        if pinned and controller.host_key not in {key.line for key in pinned}:
            raise _distrust(f"the reply gives {controller.name} another host key than the bundle")
    return core, core_bytes


def strict_object(body: bytes, most: int) -> dict[str, Any]:
    """The JSON object of *body*: at most *most* bytes, two levels, no repeated field. Raises Refused FL-JOIN-FORMAT."""
    try:
        if len(body) > most:
            raise ValueError("too large")
        value = strict.loads(body)
    except ValueError:
        raise Refused("FL-JOIN-FORMAT", "the request is not the JSON object that it must be") from None
    if not isinstance(value, dict) or any(isinstance(inner, list) or (
            isinstance(inner, dict) and any(isinstance(leaf, dict | list) for leaf in inner.values()))
            for inner in value.values()):
        raise Refused("FL-JOIN-FORMAT", "the request is not the JSON object that it must be")
    return value


def _sized(text: str, size: int, what: str) -> bytes:
    data = from_b64(text)
    if len(data) != size:
        raise ValueError(f"{what} is not {size} bytes")
    return data


def _distrust(why: str) -> Refused:
    return Refused("FL-JOIN-PEER", why, "somebody may be in between; check the Controller's address")
