"""An organisation's own CA, which issues what it is asked for, sound or not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fairlead.base.clock import DAY, HOUR, SECOND
from fairlead.pki.certificate import key_usage

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Holder:
    """A certificate and its key; a CA issues others."""

    certificate: x509.Certificate
    key: Key = field(repr=False)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def ca(self, name: str, now: int, **options: Any) -> "Holder":
        """A CA below this one."""
        return made(name, self, now, ca=True, **options)

    def leaf(self, names: Sequence[str], now: int, **options: Any) -> "Holder":
        """A server's certificate for *names*."""
        return made(names[0] if names else "nobody", self, now, names=names, **options)


def root(name: str, now: int, **options: Any) -> Holder:
    """A self-signed CA."""
    return made(name, None, now, ca=True, **options)


def made(common_name: str, issuer: Holder | None, now: int, *, ca: bool = False, names: Sequence[str] = (),
         key: Key | None = None, first: int = -HOUR, last: int = 90 * DAY, path_length: int | None = None,
         usages: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH,),
         usage: x509.KeyUsage | None = None,
         extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()) -> Holder:
    """*first*, *last*: microseconds from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (x509.CertificateBuilder().subject_name(subject)
               .issuer_name(issuer.certificate.subject if issuer else subject).public_key(key.public_key())
               .serial_number(x509.random_serial_number())
               .not_valid_before(datetime.fromtimestamp((now + first) // SECOND, UTC))
               .not_valid_after(datetime.fromtimestamp((now + last) // SECOND, UTC))
               .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
               .add_extension(usage or key_usage(digital_signature=not ca, key_cert_sign=ca), critical=True)
               .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    if usages and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if issuer:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Holder(builder.sign(issuer.key if issuer else key, SHA256()), key)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
