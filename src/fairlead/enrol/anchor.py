"""The anchor: all that a joining node trusts, under one hash. Pure.

One pin serves for TLS (the CA certificates), for SSH (the Controllers' host keys) and against downgrade (the protocol
versions that the cluster speaks): nobody can exchange one of them without changing the hash that the token carries.

Join protocol, section 2.
"""

import re
from dataclasses import dataclass
from uuid import UUID

from fairlead.base.errors import Refused
from fairlead.keys.ssh import KeyRefused, PublicKey
from fairlead.keys.wire import Reader, sha256, string, u32
from fairlead.nodes.name import is_name

LABEL = b"fairlead-anchor-v1"
MOST_BYTES = 32 * 1024
MOST_VERSIONS = 8
MOST_CERTIFICATES = 4
MOST_CERTIFICATE_BYTES = 4096
MOST_CONTROLLERS = 32

_ADDRESS = re.compile(r"[A-Za-z0-9._:-]{1,253}")


@dataclass(frozen=True, slots=True)
class AnchorController:
    """A Controller at one of its addresses, and how its portal and its SSH server are known."""

    name: str
    address: str
    portal_port: int
    tls_name: str
    host_key: PublicKey


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a token's pin names."""

    cluster_uuid: UUID
    join_versions: tuple[int, ...]
    ca_certificates: tuple[bytes, ...]
    """DER."""
    controllers: tuple[AnchorController, ...]

    def encode(self) -> bytes:
        """The bytes whose SHA-256 is the pin."""
        parts = [string(LABEL), string(self.cluster_uuid.bytes), u32(len(self.join_versions))]
        parts += [u32(version) for version in self.join_versions]
        parts.append(u32(len(self.ca_certificates)))
        parts += [string(certificate) for certificate in self.ca_certificates]
        parts.append(u32(len(self.controllers)))
        for c in self.controllers:
            parts += [string(c.name), string(c.address), u32(c.portal_port), string(c.tls_name),
                      string(c.host_key.blob)]
        return b"".join(parts)

    @property
    def hash(self) -> bytes:
        """SHA-256, 32 bytes: the pin."""
        return sha256(self.encode())

    def checked(self) -> "Anchor":
        """Itself, when it keeps the limits. Raises Refused FL-ANCHOR."""
        for found, most, what in ((len(self.join_versions), MOST_VERSIONS, "protocol versions"),
                                  (len(self.ca_certificates), MOST_CERTIFICATES, "CA certificates"),
                                  (len(self.controllers), MOST_CONTROLLERS, "Controllers' addresses")):
            if not 1 <= found <= most:
                raise Refused("FL-ANCHOR", f"the anchor has {found} {what}, 1 to {most} are allowed")
        if any(not 0 <= version < 2**32 for version in self.join_versions):
            raise Refused("FL-ANCHOR", "a protocol version is not one")
        if any(len(certificate) > MOST_CERTIFICATE_BYTES for certificate in self.ca_certificates):
            raise Refused("FL-ANCHOR", f"a CA certificate is larger than {MOST_CERTIFICATE_BYTES} bytes")
        if any(not is_name(c.name) for c in self.controllers):
            raise Refused("FL-ANCHOR", "a Controller's name is not a node name")
        if any(not _ADDRESS.fullmatch(c.address) or not _ADDRESS.fullmatch(c.tls_name)
               or not 1 <= c.portal_port <= 65535 for c in self.controllers):
            raise Refused("FL-ANCHOR", "a Controller's address or port is not one")
        if len(self.encode()) > MOST_BYTES:
            raise Refused("FL-ANCHOR", f"the anchor is larger than {MOST_BYTES} bytes")
        return self

    def host_keys(self, controller: str) -> frozenset[PublicKey]:
        """The keys under which the Controller of that name may sign and answer SSH."""
        return frozenset(c.host_key for c in self.controllers if c.name == controller)


def decode(data: bytes, pin: bytes) -> Anchor:
    """The anchor of its bytes, fetched from anywhere: nothing is parsed before the hash is *pin*.

    Raises Refused FL-ANCHOR-PIN when it is another one, FL-ANCHOR when it is not an anchor.
    """
    if len(data) > MOST_BYTES or sha256(data) != pin:
        raise Refused("FL-ANCHOR-PIN", "what answered is not the cluster that the token names",
                      "check the Controller's address; somebody may be in between")
    try:
        reader = Reader(data)
        if reader.string() != LABEL:
            raise ValueError("another label")
        uuid = UUID(bytes=reader.string())
        versions = tuple(reader.u32() for _ in reader.few(MOST_VERSIONS))
        certificates = tuple(reader.string() for _ in reader.few(MOST_CERTIFICATES))
        controllers = tuple(
            AnchorController(reader.text(), reader.text(), reader.u32(), reader.text(),
                             PublicKey.from_blob(reader.string()))
            for _ in reader.few(MOST_CONTROLLERS))
        reader.end()
    except (KeyRefused, ValueError) as error:
        raise Refused("FL-ANCHOR", f"the anchor is damaged: {error}") from error
    return Anchor(uuid, versions, certificates, controllers).checked()
