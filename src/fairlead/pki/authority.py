"""The root CA's signing key.

Only the composition root holds one; other rooms get the one method that they need, as a Protocol of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fairlead.base.errors import OperatorError
from fairlead.pki.certificate import (
    api_name,
    client_profile,
    is_ca,
    member_profile,
    portal_name,
    root_profile,
    server_profile,
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and its private key (PKCS #8), both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """A cluster's root CA with its key. Made by `create` and `load`; its representation shows the name only."""

    _certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, cluster_uuid: UUID, now: int) -> "Authority":
        """A new root CA of ten years. *now*: microseconds."""
        key = ec.generate_private_key(ec.SECP256R1())
        profile = root_profile(cluster_uuid, key.public_key(), x509.random_serial_number(), now)
        return cls(profile.sign(key, SHA256()), key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> "Authority":
        """The CA of two PEM texts. Raises OperatorError FL-AUTHORITY-DAMAGED when they are no CA or no pair."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _damaged("cannot be read") from None  # the cause might quote the key
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise _damaged("are not a pair")
        if not is_ca(certificate.public_bytes(Encoding.DER)):
            raise _damaged("are not those of a CA")
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The signing key (PKCS #8), to be sealed at once."""
        return _pem(self._key)

    def issue_portal(self, cluster_uuid: UUID, addresses: Sequence[str], now: int) -> Issued:
        """A certificate for the system portal at *addresses* (host names, IP addresses). Raises OperatorError."""
        return self._issue(portal_name(cluster_uuid), addresses, now)

    def issue_api(self, cluster_uuid: UUID, addresses: Sequence[str], now: int) -> Issued:
        """A certificate for the API at *addresses*; it cannot serve the portal. Raises OperatorError."""
        return self._issue(api_name(cluster_uuid), addresses, now)

    def certify_member(self, cluster_uuid: UUID, node: str, internal_address: str,
                       public_key: ec.EllipticCurvePublicKey, now: int) -> bytes:
        """A certificate (PEM) for the etcd member of *node*, whose key stays with it. Raises OperatorError.

        The caller has checked that *node* asks, and that *public_key* came with a proof (`request.read_request`).
        """
        return self._signed(member_profile(self._certificate, cluster_uuid, node, internal_address, public_key,
                                           x509.random_serial_number(), now))

    def issue_client(self, cluster_uuid: UUID, now: int) -> Issued:
        """A certificate for a client of etcd, such as an operator's etcdctl: it may read and write everything there."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Issued(self._signed(client_profile(self._certificate, cluster_uuid, key.public_key(),
                                                  x509.random_serial_number(), now)), _pem(key))

    def state(self, statement: bytes) -> bytes:
        """A signature over a trust statement's bytes; `pki.statement` says why it passes for no certificate's."""
        return self._key.sign(statement, ec.ECDSA(SHA256()))

    def _issue(self, name: str, addresses: Sequence[str], now: int) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        profile = server_profile(self._certificate, name, addresses, key.public_key(), x509.random_serial_number(),
                                 now)
        return Issued(self._signed(profile), _pem(key))

    def _signed(self, profile: x509.CertificateBuilder) -> bytes:
        return profile.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def __repr__(self) -> str:
        return f"Authority({self._certificate.subject.rfc4514_string()})"


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _damaged(why: str) -> OperatorError:
    return OperatorError("FL-AUTHORITY-DAMAGED", f"the root CA's certificate and key {why}",
                         "restore the Controller from its backup")
