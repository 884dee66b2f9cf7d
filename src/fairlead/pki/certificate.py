"""What a certificate of ours says, and what one says to us. Pure: the signing is `authority`'s, trust is `verify`'s.

Rules, and what each is for:

1. The names ``portal.<cluster>.fairlead.internal`` and ``api.<cluster>.fairlead.internal`` say what a certificate may
   serve. Both certificates carry the Controllers' addresses for browsers; only one carries the portal's name, so the
   API's key, which more of the product touches, cannot stand in for the portal.
2. An address under ``fairlead.internal`` is refused: an address is chosen by people and by joining Controllers, and
   would otherwise smuggle the portal's name into the API certificate (or a wildcard into either).
3. Everything is back-dated by an hour, for nodes whose clock runs late.
4. The use for TLS clients stands in the certificates of etcd's members and of its clients, and in no other: etcd's door
   for clients tells them by that use (its JSON gateway cannot live with a check of names), so whoever gets it may read
   and write the whole store. Members alone carry ``etcd.<cluster>.fairlead.internal``, which peers ask of each other:
   a client is no member.
5. EC P-256 with SHA-256, random serials, key identifiers, critical constraints: what ``openssl verify -x509_strict``
   asks for (RFC 5280 section 4.2).
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TypeVar
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fairlead.base.clock import DAY, HOUR, SECOND, rfc3339
from fairlead.base.errors import OperatorError, Refused
from fairlead.keys.wire import sha256

INTERNAL = "fairlead.internal"
BACK_DATED = HOUR
ROOT_LIFETIME = 3650 * DAY
SERVER_LIFETIME = 397 * DAY
MOST_COMMON_NAME = 64
"""Characters (RFC 5280, appendix A.1)."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)


def portal_name(cluster_uuid: UUID) -> str:
    """The name that a certificate must carry to serve the system portal."""
    return f"portal.{cluster_uuid}.{INTERNAL}"


def api_name(cluster_uuid: UUID) -> str:
    """The name that a certificate must carry to serve the API."""
    return f"api.{cluster_uuid}.{INTERNAL}"


def member_name(cluster_uuid: UUID) -> str:
    """The name that a certificate must carry to be a member of the cluster's etcd."""
    return f"etcd.{cluster_uuid}.{INTERNAL}"


def store_name(cluster_uuid: UUID) -> str:
    """The name of a client of the cluster's etcd."""
    return f"store.{cluster_uuid}.{INTERNAL}"


def root_profile(cluster_uuid: UUID, key: EllipticCurvePublicKey, serial: int, now: int) -> x509.CertificateBuilder:
    """A cluster's root CA, not yet signed. *now*: microseconds.

    Its names are not constrained: the leaves below it carry whatever addresses the Controllers have. No two have one
    subject: while one takes the other's place both are believed, and verifiers look for an issuer by its subject.
    """
    name = _name(f"fairlead root {str(cluster_uuid)[:8]} {serial:x}"[:MOST_COMMON_NAME])
    return (dated(name, name, key, serial, now - BACK_DATED, now + ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False))


def server_profile(root: x509.Certificate, name: str, addresses: Iterable[str], key: EllipticCurvePublicKey,
                   serial: int, now: int) -> x509.CertificateBuilder:
    """A TLS server's certificate under *root*, not yet signed: good for *name* and every one of *addresses*.

    Never valid for longer than *root*. Raises OperatorError FL-ADDRESS-NAME, FL-CERT-EXPIRED.
    """
    return _leaf(root, [x509.DNSName(name), *(_address(a) for a in addresses)], [ExtendedKeyUsageOID.SERVER_AUTH],
                 key, serial, now)


def member_profile(root: x509.Certificate, cluster_uuid: UUID, node: str, internal_address: str,
                   key: EllipticCurvePublicKey, serial: int, now: int) -> x509.CertificateBuilder:
    """An etcd member's certificate under *root*, not yet signed; *node* is a checked node name.

    Raises OperatorError FL-ADDRESS-NAME when *internal_address* is no IP address, FL-CERT-EXPIRED.
    """
    address = _address(internal_address)
    label = _address(node)
    if not isinstance(address, x509.IPAddress) or not isinstance(label, x509.DNSName) or "." in label.value:
        raise OperatorError("FL-ADDRESS-NAME", f"{node!r} at {internal_address!r} cannot be a member of etcd",
                            "name a node and its internal address")
    names = [x509.DNSName(member_name(cluster_uuid)), x509.DNSName(f"{label.value}.{INTERNAL}"), address]
    return _leaf(root, names, [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], key, serial, now)


def client_profile(root: x509.Certificate, cluster_uuid: UUID, key: EllipticCurvePublicKey, serial: int,
                   now: int) -> x509.CertificateBuilder:
    """The certificate of a client of etcd under *root*, not yet signed. It serves nothing and is no member.

    Raises OperatorError FL-CERT-EXPIRED.
    """
    return _leaf(root, [x509.DNSName(store_name(cluster_uuid))], [ExtendedKeyUsageOID.CLIENT_AUTH], key, serial,
                 now)


def _leaf(root: x509.Certificate, names: Sequence[x509.GeneralName], usages: Sequence[x509.ObjectIdentifier],
          key: EllipticCurvePublicKey, serial: int, now: int) -> x509.CertificateBuilder:
    """The subject is the first of *names*, which is a DNS name. Raises OperatorError FL-CERT-EXPIRED below a root that
    is over: what it issues would be over, too.
    """
    end = microseconds(root.not_valid_after_utc)
    if end <= now:
        raise OperatorError("FL-CERT-EXPIRED", f"the root CA has ended at {rfc3339(end)}, and issues nothing any more",
                            "`fairlead rotate start root-ca`")
    last = min(now + SERVER_LIFETIME, end)
    root_key = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (dated(_name(names[0].value), root.subject, key, serial, now - BACK_DATED, last)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(dict.fromkeys(names)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_key), critical=False))


def der_of(pem: bytes) -> bytes:
    """The DER of the first certificate in *pem*. Raises Refused FL-CERTIFICATE-FORMAT."""
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion) as error:
        raise unreadable() from error


def ders_of(pem: bytes) -> Sequence[bytes]:
    """The DER of every certificate in *pem*, of which there is one at least. Raises Refused FL-CERTIFICATE-FORMAT."""
    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem)]
    except (ValueError, x509.InvalidVersion) as error:
        raise unreadable() from error


def parsed(der: bytes) -> x509.Certificate:
    """The certificate. Raises Refused FL-CERTIFICATE-FORMAT."""
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise unreadable() from error


def names(der: bytes) -> Sequence[str]:
    """Every DNS name and IP address that the certificate is good for. Raises Refused FL-CERTIFICATE-FORMAT."""
    subjects = extension(parsed(der), x509.SubjectAlternativeName)
    if subjects is None:
        return ()
    return (*subjects.get_values_for_type(x509.DNSName),
            *(str(address) for address in subjects.get_values_for_type(x509.IPAddress)))


def covers(der: bytes, name: str) -> bool:
    """Whether the certificate is good for *name*, a DNS name or an IP address, as such and not by a wildcard.

    An address counts only where addresses stand: OpenSSL does not find one among the DNS names either.
    Raises Refused FL-CERTIFICATE-FORMAT.
    """
    subjects, wanted = extension(parsed(der), x509.SubjectAlternativeName), plain(name)
    if subjects is None:
        return False
    try:
        return ip_address(wanted) in subjects.get_values_for_type(x509.IPAddress)
    except ValueError:
        return wanted in (plain(one) for one in subjects.get_values_for_type(x509.DNSName))


def plain(name: str) -> str:
    """A DNS name or an IP address in the one way in which it is compared."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower().removesuffix(".")


def validity(der: bytes) -> tuple[int, int]:
    """The first and the last moment (microseconds) at which it is valid. Raises Refused FL-CERTIFICATE-FORMAT."""
    certificate = parsed(der)
    return microseconds(certificate.not_valid_before_utc), microseconds(certificate.not_valid_after_utc)


def is_ca(der: bytes) -> bool:
    """Whether it may sign other certificates. Raises Refused FL-CERTIFICATE-FORMAT."""
    certificate = parsed(der)
    constraints, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def sha256_fingerprint(der: bytes) -> str:
    """As ``openssl x509 -fingerprint -sha256`` prints it: ``AB:CD:...``."""
    return sha256(der).hex(":").upper()


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """The extension of that kind, None if there is none. Raises Refused FL-CERTIFICATE-FORMAT."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:  # decoded on first use
        raise unreadable() from error


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    name = text.lower().removesuffix(".")
    if not HOST_NAME.fullmatch(name) or f".{name}".endswith(f".{INTERNAL}"):
        raise OperatorError("FL-ADDRESS-NAME", f"{text!r} cannot stand in a certificate",
                            f"give --address an IP address or an ASCII host name outside {INTERNAL}")
    return x509.DNSName(name)


def dated(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey | RSAPublicKey, serial: int, first: int,
          last: int) -> x509.CertificateBuilder:
    """A certificate without extensions, not yet signed, valid from *first* to *last* (microseconds)."""
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(serial)
            .not_valid_before(datetime.fromtimestamp(first // SECOND, UTC))
            .not_valid_after(datetime.fromtimestamp(last // SECOND, UTC)))


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False,
              crl_sign: bool = False) -> x509.KeyUsage:
    """What a key may do, and nothing else."""
    return x509.KeyUsage(digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=crl_sign,
                         content_commitment=False, key_encipherment=False, data_encipherment=False,
                         key_agreement=False, encipher_only=False, decipher_only=False)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def microseconds(moment: datetime) -> int:
    """As all our times are."""
    return int(moment.timestamp()) * SECOND


def unreadable() -> Refused:
    """What is said of a certificate that somebody, we or OpenSSL, cannot read."""
    return Refused("FL-CERTIFICATE-FORMAT", "that is no X.509 certificate that can be read",
                   "give a certificate as PEM, undamaged")
