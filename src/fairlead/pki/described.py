"""A certificate in words, for people and for the API. Pure.

Anybody may have made the certificate, so nothing in it is believed to be text: every value is shown printable and cut
to a length, and what cannot be decoded is refused as a whole.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from fairlead.base.clock import SECOND
from fairlead.base.errors import printable
from fairlead.pki.certificate import parsed, sha256_fingerprint, unreadable
from fairlead.pki.chain import is_self_signed
from fairlead.pki.strength import key_params

MOST_BYTES = 64 * 1024
WARNING_DAYS = 30

_MOST_VALUE = 256
_MOST_NAME = 1024

_FIELDS: Mapping[str, x509.ObjectIdentifier] = MappingProxyType({
    "common_name": NameOID.COMMON_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organization_unit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "country": NameOID.COUNTRY_NAME,
    "state": NameOID.STATE_OR_PROVINCE_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "email_address": NameOID.EMAIL_ADDRESS,
})
_SIGNATURES: Mapping[x509.ObjectIdentifier, str] = MappingProxyType({
    SignatureAlgorithmOID.RSA_WITH_MD5: "md5WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA1: "sha1WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA256: "sha256WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA384: "sha384WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA512: "sha512WithRSAEncryption",
    SignatureAlgorithmOID.RSASSA_PSS: "rsassaPss",
    SignatureAlgorithmOID.ECDSA_WITH_SHA1: "ecdsa-with-SHA1",
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ecdsa-with-SHA256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ecdsa-with-SHA384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ecdsa-with-SHA512",
    SignatureAlgorithmOID.ED25519: "ED25519",
})


def describe(der: bytes, now: int) -> dict[str, Any]:
    """The certificate (DER) in the fields of the public ``SSLCertificate``; those without a value are left out.

    The same certificate says the same all day (UTC), but for the moment at which it expires. Times are UTC,
    ``days_until_expire`` counts dates and ends at 0, ``fingerprint`` is the SHA-256 one. *now*: microseconds.

    Raises Refused FL-CERTIFICATE-FORMAT.
    """
    if len(der) > MOST_BYTES:
        raise unreadable()
    certificate = parsed(der)
    try:
        fields = _fields(certificate, der, now)
    except (ValueError, TypeError, OverflowError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise unreadable() from error  # most is decoded on first use only
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _fields(certificate: x509.Certificate, der: bytes, now: int) -> dict[str, Any]:
    today, last = datetime.fromtimestamp(now // SECOND, UTC), certificate.not_valid_after_utc
    days = max(0, (last.date() - today.date()).days)
    oid = certificate.signature_algorithm_oid
    key = _known_key(certificate)
    return {
        "certificate": certificate.public_bytes(Encoding.PEM).decode("ascii"),
        "version": str(certificate.version.value + 1),
        "serial_number": str(certificate.serial_number),
        "subject": _name(certificate.subject),
        "issuer": _name(certificate.issuer),
        "not_before": _moment(certificate.not_valid_before_utc),
        "not_after": _moment(last),
        "days_until_expire": days,
        "expiry_status": ("SSL_CERTIFICATE_EXPIRED" if last < today else
                          "SSL_CERTIFICATE_EXPIRY_WARNING" if days <= WARNING_DAYS else "SSL_CERTIFICATE_GOOD"),
        "fingerprint": sha256_fingerprint(der),
        "signature_algorithm": _SIGNATURES.get(oid, oid.dotted_string),
        "subject_alt_names": _alternatives(certificate),
        "self_signed": is_self_signed(certificate),
        "public_key": _public_pem(key),
        "key_params": key_params(key),
    }


def _known_key(certificate: x509.Certificate) -> Any:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # the rest of such a certificate can be shown all the same
        return None


def _public_pem(key: Any) -> str | None:
    if key is None:
        return None
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def _name(name: x509.Name) -> dict[str, str]:
    shown = {field: printable(_text(found[0].value), _MOST_VALUE)
             for field, oid in _FIELDS.items() if (found := name.get_attributes_for_oid(oid))}
    shown["distinguished_name"] = printable(name.rfc4514_string(), _MOST_NAME)
    return {field: value for field, value in shown.items() if value}


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.hex()


def _alternatives(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)
    return [printable(str(value), _MOST_VALUE) for kind in kinds for value in names.get_values_for_type(kind)]


def _moment(moment: datetime) -> str:
    return f"{moment.year:04}{moment:-%m-%d %H:%M:%S}"
