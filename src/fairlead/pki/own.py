"""Certificates and requests that are made here for an operator. Pure, but for the randomness of new keys.

What is made here is no CA, so that its key vouches for nothing but itself, and is back-dated as all that we make. What
an operator brings along is `brought`'s.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fairlead.base.clock import DAY
from fairlead.base.errors import Refused
from fairlead.pki.certificate import BACK_DATED, HOST_NAME, dated, extension, key_usage
from fairlead.pki.chain import is_self_signed, read, unreadable
from fairlead.pki.strength import CURVES, SIZES, Key, strange, strong, weak

MOST_NAMES = 100
MOST_DAYS = 3650

_FIELDS: Mapping[str, tuple[x509.ObjectIdentifier, int]] = MappingProxyType({
    "common_name": (NameOID.COMMON_NAME, 64),  # the lengths are those of RFC 5280, appendix A.1
    "organization": (NameOID.ORGANIZATION_NAME, 64),
    "organization_unit": (NameOID.ORGANIZATIONAL_UNIT_NAME, 64),
    "country": (NameOID.COUNTRY_NAME, 2),
    "state": (NameOID.STATE_OR_PROVINCE_NAME, 128),
    "locality": (NameOID.LOCALITY_NAME, 128),
    "email_address": (NameOID.EMAIL_ADDRESS, 255),
})


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names, in the public names of the fields; the empty ones are left out."""

    common_name: str
    organization: str = ""
    organization_unit: str = ""
    country: str = ""
    state: str = ""
    locality: str = ""
    email_address: str = ""

    def name(self) -> x509.Name:
        """As it stands in a certificate. Raises Refused FL-CERT-SUBJECT."""
        if not self.common_name:
            raise _subject("common_name", "is empty")
        return x509.Name([x509.NameAttribute(oid, self._value(name, most))
                          for name, (oid, most) in _FIELDS.items() if getattr(self, name)])

    def _value(self, name: str, most: int) -> str:
        value: str = getattr(self, name)
        if len(value) > most or not value.isprintable():
            raise _subject(name, f"is no text of at most {most} printable characters")
        if name == "country" and not re.fullmatch("[A-Z]{2}", value):
            raise _subject(name, "is not two capital letters")
        if name == "email_address" and not value.isascii():
            raise _subject(name, "is not ASCII")
        return value


@dataclass(frozen=True, slots=True)
class KeyParams:
    """Which key to make, in the public names: an RSA size or an EC curve."""

    algorithm: str = "SSL_KEY_ALGORITHM_EC"
    key_size: str = "SSL_KEY_2048_BITS"
    """Of RSA."""
    curve: str = "SSL_KEY_EC_CURVE_SECP256R1"
    """Of EC."""

    def generate(self) -> Key:
        """A new key. Raises Refused FL-CERT-KEY-WEAK, FL-CERT-KEY-TYPE."""
        if self.algorithm == "SSL_KEY_ALGORITHM_EC" and self.curve in CURVES:
            return ec.generate_private_key(CURVES[self.curve])
        if self.algorithm == "SSL_KEY_ALGORITHM_RSA" and self.key_size in SIZES:
            if SIZES[self.key_size] < 2048:
                raise weak(f"an RSA key of {SIZES[self.key_size]} bits")
            return rsa.generate_private_key(65537, SIZES[self.key_size])
        raise strange("the key that was asked for")


@dataclass(frozen=True, slots=True)
class Owned:
    """A certificate (PEM), its private key (PKCS #8, PEM, not encrypted), and those above it (PEM, in order)."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    chain_pem: bytes = b""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request (PEM) that a CA has yet to answer, and its private key (PKCS #8, PEM, not encrypted)."""

    request_pem: bytes
    key_pem: bytes = field(repr=False)


def self_signed(subject: Subject, names: Sequence[str], params: KeyParams, days: int, now: int) -> Owned:
    """A new certificate for a TLS server that vouches for itself, good for *names*.

    Without names it is good for the subject's common name, if that can be one. *now*: microseconds.
    Raises Refused FL-CERT-SUBJECT, FL-CERT-NAME, FL-CERT-DAYS, FL-CERT-KEY-WEAK, FL-CERT-KEY-TYPE.
    """
    name, alternatives = subject.name(), _alternatives(subject, names)
    _check_days(days)
    return _signed(name, alternatives, params.generate(), days, now)


def requested(subject: Subject, names: Sequence[str], params: KeyParams) -> Pending:
    """A new key, and the request for its certificate. Raises as `self_signed`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject.name())
    if (alternatives := _alternatives(subject, names)) is not None:
        builder = builder.add_extension(alternatives, critical=False)
    key = params.generate()
    return Pending(builder.sign(key, _hash(key)).public_bytes(Encoding.PEM), key_text(key))


def renewed(owned: Owned, days: int, now: int) -> Owned:
    """A self-signed certificate again, for another *days*: the same key, subject and names. *now*: microseconds.

    Raises Refused FL-CERT-RENEW when another has issued it, FL-CERT-DAYS, FL-CERT-FORMAT, FL-CERT-KEY-WEAK,
    FL-CERT-KEY-TYPE.
    """
    certificate = read(owned.certificate_pem, "certificate")[0]
    if not is_self_signed(certificate):
        raise Refused("FL-CERT-RENEW", "the certificate has an issuer, and only that can renew it",
                      "make a request with `fairlead cert csr`, have it signed, and import what comes back")
    _check_days(days)
    try:
        key = strong(load_pem_private_key(owned.key_pem, None))
    except (ValueError, TypeError):
        raise unreadable("the private key is damaged") from None  # the cause might quote the key
    return _signed(certificate.subject, extension(certificate, x509.SubjectAlternativeName), key, days, now)


def key_text(key: Key) -> bytes:
    """A private key as we keep them: PKCS #8, PEM, not encrypted; to be sealed at once."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signed(subject: x509.Name, alternatives: x509.SubjectAlternativeName | None, key: Key, days: int,
            now: int) -> Owned:
    public = key.public_key()
    builder = (dated(subject, subject, public, x509.random_serial_number(), now - BACK_DATED, now + days * DAY)
               .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
               .add_extension(key_usage(digital_signature=True), critical=True)
               .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
               .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False))
    if alternatives is not None:
        builder = builder.add_extension(alternatives, critical=False)
    return Owned(builder.sign(key, _hash(key)).public_bytes(Encoding.PEM), key_text(key))


def _alternatives(subject: Subject, names: Sequence[str]) -> x509.SubjectAlternativeName | None:
    if len(names) > MOST_NAMES:
        raise Refused("FL-CERT-NAME", f"{len(names)} names are too many", f"give {MOST_NAMES} at most")
    found = dict.fromkeys(_general(name) for name in names)
    if None in found:
        wrong = next(name for name in names if _general(name) is None)
        raise Refused("FL-CERT-NAME", f"{wrong!r} is no name of a server",
                      "give an IP address or an ASCII host name, without a wildcard")
    usable = [name for name in (found or [_general(subject.common_name)]) if name is not None]
    return x509.SubjectAlternativeName(usable) if usable else None


def _general(text: str) -> x509.GeneralName | None:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        name = text.lower().removesuffix(".")
        return x509.DNSName(name) if HOST_NAME.fullmatch(name) else None


def _check_days(days: int) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise Refused("FL-CERT-DAYS", f"a certificate cannot be made for {days} days", f"give 1 to {MOST_DAYS}")


def _hash(key: Key) -> SHA256 | SHA384 | SHA512:
    if isinstance(key, rsa.RSAPrivateKey) or key.key_size <= 256:
        return SHA256()
    return SHA384() if key.key_size <= 384 else SHA512()


def _subject(name: str, why: str) -> Refused:
    return Refused("FL-CERT-SUBJECT", f"the subject's {name} {why}", "give another")
