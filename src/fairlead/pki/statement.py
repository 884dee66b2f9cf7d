"""Trust statements: what a node believes of its cluster, numbered, signed by the root that it believed before. Pure.

Rules, and the attack each stops:

1. A statement counts when a root of the one before has signed it, and each root that is new in it as well. So a change
   of root is a chain that a node which slept through it follows by itself; a Controller that makes a root of its own,
   or somebody in between, has no signature of the old one.
2. Only a higher number is followed: an old statement that is sent again, or comes out of a restored backup, brings no
   retired root back.
3. A statement names its cluster: one of another cluster says nothing here.
4. What is signed is the encoding itself (`keys.wire`), which begins otherwise than a certificate does: no signature of
   the root over the one passes for the other.
5. Everything is bounded before it is read, and each field is checked as if a stranger had sent it: over the portal a
   stranger may.

Design, section 9: *numbered trust statements (our root, portal anchors, Controllers' host keys), signed by our root, a
new root's by old and new*.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fairlead.base import strict
from fairlead.base.errors import Refused
from fairlead.keys.ssh import KeyRefused, PublicKey
from fairlead.keys.wire import Reader, b64, from_b64, sha256, string, u32
from fairlead.link.trust import MOST_BYTES, MOST_CHAIN
from fairlead.pki.certificate import is_ca, parsed

LABEL = b"fairlead-trust-v1"
MOST_ROOTS = 2
MOST_CERTIFICATES = 4
MOST_CERTIFICATE_BYTES = 4096
MOST_NAMES = 4
MOST_CONTROLLERS = 32
MOST_PLACES = 4
MOST_KEYS = 2


@dataclass(frozen=True, slots=True)
class Stated:
    """A Controller: where it is, and how it is known."""

    node_id: str
    name: str
    places: tuple[tuple[str, int], ...]
    """Addresses, each with its portal's port."""
    ssh_port: int
    internal_address: str
    user_key: PublicKey
    host_keys: tuple[PublicKey, ...]
    """The one in use first."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is believed."""

    generation: str
    """Of the store."""
    roots: tuple[bytes, ...]
    """DER: whose signature the next statement needs."""
    portal_certificates: tuple[bytes, ...]
    """DER: CAs of the portals, or the very certificate."""
    portal_names: tuple[str, ...]
    """One of them a portal's certificate must carry."""
    controllers: tuple[Stated, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A content, its number and its cluster."""

    cluster_uuid: UUID
    number: int
    content: Content

    def encode(self) -> bytes:
        """The bytes that are signed."""
        content = self.content
        parts = [string(LABEL), string(self.cluster_uuid.bytes), u32(self.number), string(content.generation)]
        for items in (content.roots, content.portal_certificates, content.portal_names):
            parts += [u32(len(items)), *map(string, items)]
        parts.append(u32(len(content.controllers)))
        for c in content.controllers:
            parts += [string(c.node_id), string(c.name), u32(len(c.places))]
            parts += [part for address, port in c.places for part in (string(address), u32(port))]
            parts += [u32(c.ssh_port), string(c.internal_address), string(c.user_key.blob), u32(len(c.host_keys))]
            parts += [string(key.blob) for key in c.host_keys]
        return b"".join(parts)

    def text(self, signers: Sequence["Signer"]) -> str:
        """Signed, as it is kept and sent. *signers*: for its own roots, and for one of the statement before."""
        body = self.encode()
        return json.dumps({"statement": b64(body), "signatures": {
            sha256(root).hex(): b64(sign(body)) for root, sign in signers}}, separators=(",", ":"))


Signer = tuple[bytes, Callable[[bytes], bytes]]
"""A root (DER), and what signs with its key."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement whose signatures have not been looked at."""

    statement: Statement
    body: bytes
    signatures: dict[str, bytes]
    """By the SHA-256 of the root, hex."""

    def is_by(self, root: bytes) -> bool:
        """Whether *root* (DER) has signed it."""
        signature = self.signatures.get(sha256(root).hex())
        key = x509.load_der_x509_certificate(root).public_key()
        if signature is None or not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        try:
            key.verify(signature, self.body, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


def read(text: str) -> Signed:
    """A statement of its text; it is believed by nobody yet. Raises Refused FL-TRUST-FORMAT."""
    try:
        if len(text) > 2 * MOST_BYTES:
            raise ValueError("too large")
        fields = strict.loads(text.encode())
        if set(fields) != {"statement", "signatures"} or len(fields["signatures"]) > 2 * MOST_ROOTS:
            raise ValueError("other fields")
        body = from_b64(fields["statement"])
        signatures = {str(root): from_b64(signature) for root, signature in fields["signatures"].items()}
        statement = _decode(body)
    except (KeyRefused, Refused, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Refused("FL-TRUST-FORMAT", f"a trust statement is damaged: {error}",
                      "see whether somebody is in between; both sides must run versions of fairlead that fit") from None
    return Signed(statement, body, signatures)


def beginning(roots: Sequence[bytes], texts: Sequence[str]) -> Sequence[str]:
    """Those of *texts* from the first one on that one of *roots* (DER) has signed; none, where it has signed none.

    For whoever knows a root, and no number. Raises Refused FL-TRUST-FORMAT.
    """
    for at, text in enumerate(texts):
        signed = read(text)
        if any(signed.is_by(root) for root in roots):
            return texts[at:]
    return ()


def follow(cluster_uuid: UUID, number: int, roots: Sequence[bytes], texts: Sequence[str]) -> Statement | None:
    """The newest statement of *texts* (in the order of their numbers) for a node that has *number* and *roots* (DER).

    None: none is newer. Without roots, as after a join, the last one is taken: the caller's connection proves it.
    Raises Refused FL-TRUST-FORMAT, FL-TRUST-CLUSTER, FL-TRUST-ORDER, FL-TRUST-ROOT; then nothing of it counts.
    """
    if len(texts) > MOST_CHAIN:
        raise Refused("FL-TRUST-FORMAT", f"{len(texts)} trust statements at once, {MOST_CHAIN} are allowed")
    found: Statement | None = None
    believed, last = list(roots), -1
    for signed in map(read, texts):
        one = signed.statement
        if one.cluster_uuid != cluster_uuid:
            raise Refused("FL-TRUST-CLUSTER", f"a trust statement of the cluster {one.cluster_uuid}",
                          "see that the Controller's address is right")
        if one.number <= last:
            raise Refused("FL-TRUST-ORDER", f"the trust statement {one.number} comes after {last}",
                          "see whether somebody is in between")
        last = one.number
        if one.number <= number:
            continue
        by_old = not believed or any(signed.is_by(root) for root in believed)
        if not by_old or not all(signed.is_by(root) for root in one.content.roots if root not in believed):
            raise Refused("FL-TRUST-ROOT", f"the trust statement {one.number} is not signed by the root that this node "
                          "knows" if not by_old else f"a new root has not signed the trust statement {one.number}",
                          "see whether somebody is in between; a backup from before a change of root leads nobody back")
        found, believed = one, list(one.content.roots)
    return found


def _decode(data: bytes) -> Statement:
    if len(data) > MOST_BYTES:
        raise ValueError("too large")
    reader = Reader(data)
    if reader.string() != LABEL:
        raise ValueError("another label")
    uuid, number, generation = UUID(bytes=reader.string()), reader.u32(), reader.text()
    roots = tuple(_certificate(reader) for _ in reader.few(MOST_ROOTS))
    certificates = tuple(_certificate(reader) for _ in reader.few(MOST_CERTIFICATES))
    names = tuple(reader.text() for _ in reader.few(MOST_NAMES))
    controllers = tuple(_controller(reader) for _ in reader.few(MOST_CONTROLLERS))
    reader.end()
    if not (roots and certificates and names and controllers and all(map(is_ca, roots))):
        raise ValueError("it leaves something out")
    return Statement(uuid, number, Content(generation, roots, certificates, names, controllers))


def _certificate(reader: Reader) -> bytes:
    der = reader.string()
    if len(der) > MOST_CERTIFICATE_BYTES:
        raise ValueError("a certificate is too large")
    try:
        parsed(der).public_key()
    except (Refused, ValueError, UnsupportedAlgorithm):
        raise ValueError("a certificate that is none") from None
    return der


def _controller(reader: Reader) -> Stated:
    node_id, name = reader.text(), reader.text()
    places = tuple((reader.text(), reader.u32()) for _ in reader.few(MOST_PLACES))
    ssh_port, internal_address = reader.u32(), reader.text()
    user_key = PublicKey.from_blob(reader.string())
    keys = tuple(PublicKey.from_blob(reader.string()) for _ in reader.few(MOST_KEYS))
    if not places or not keys:
        raise ValueError("a Controller without an address or a key")
    return Stated(node_id, name, places, ssh_port, internal_address, user_key, keys)
