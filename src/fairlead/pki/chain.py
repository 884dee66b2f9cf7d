"""Certificates one above the other. Pure; whether they may be trusted is for others to say (`secure_channel`).

A chain is put in order when there is one order only. What does not belong to it is refused, not dropped: somebody
believes that it is there.
"""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from fairlead.base.errors import Refused, printable

MOST_BYTES = 64 * 1024
MOST_ABOVE = 8

_HASHES = frozenset(("sha224", "sha256", "sha384", "sha512", "sha3-224", "sha3-256", "sha3-384", "sha3-512"))


def read(pem: bytes, what: str) -> list[x509.Certificate]:
    """The certificates of a PEM text, which may be empty; *what* it is, for the refusal. Raises Refused FL-CERT-FORMAT.

    Their names and extensions have been decoded once.
    """
    if len(pem) > MOST_BYTES or pem.count(b"-----BEGIN ") > MOST_ABOVE + 1:
        raise unreadable(f"the {what} has more than {MOST_BYTES // 1024} KiB or {MOST_ABOVE + 1} certificates")
    if not pem.strip():
        return []
    try:
        found = x509.load_pem_x509_certificates(pem)
        for certificate in found:
            _ = certificate.subject, certificate.issuer, certificate.extensions  # decoded on first use only
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise unreadable(f"the {what} is no PEM of X.509 certificates that can be read") from None
    return found


def written(certificates: Iterable[x509.Certificate]) -> bytes:
    """As PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def in_order(leaf: x509.Certificate, above: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """Those of *above* from the issuer of *leaf* upwards, each once; the root may be missing.

    Raises Refused FL-CERT-CHAIN, FL-CERT-SIGNATURE.
    """
    left = [certificate for certificate in dict.fromkeys(above) if certificate != leaf]
    if len(left) > MOST_ABOVE:
        raise _refused(f"has {len(left)} certificates, {MOST_ABOVE} are allowed")
    chain: list[x509.Certificate] = []
    at = leaf
    while left and not is_self_signed(at):
        if (refusal := forgeable(at, who(at))) is not None:
            raise refusal
        issuers = [certificate for certificate in left if is_issued_by(at, certificate)]
        if not issuers:
            raise _refused(f"has no issuer of {who(at)}")
        if len(issuers) > 1:
            raise _refused(f"has {len(issuers)} certificates of the issuer of {who(at)}, and either may be meant")
        at = issuers[0]
        chain.append(at)
        left.remove(at)
    if left:
        raise _refused(f"holds {who(left[0])}, which does not belong to it")
    return chain


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether *issuer* has signed it: by names and signature; not whether it may."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it is its own issuer."""
    return is_issued_by(certificate, certificate)


def forgeable(certificate: x509.Certificate, name: str = "") -> Refused | None:
    """Why its issuer's signature proves nothing: FL-CERT-SIGNATURE; None when it does. *name*: for the refusal."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        algorithm = None
    if algorithm is not None and algorithm.name in _HASHES:
        return None
    return Refused("FL-CERT-SIGNATURE", f"{name} is signed with {algorithm.name if algorithm else 'an unknown hash'}, "
                   "which others may be able to forge", "have it issued again, with SHA-256 or better")


def who(certificate: x509.Certificate) -> str:
    """Its subject, for a message."""
    return printable(certificate.subject.rfc4514_string(), 200) or "a certificate without a subject"


def unreadable(why: str) -> Refused:
    """The refusal of what is brought as certificates and is none."""
    return Refused("FL-CERT-FORMAT", why, "give PEM, or PKCS #12 as such, undamaged")


def _refused(why: str) -> Refused:
    return Refused("FL-CERT-CHAIN", f"the chain {why}", "give the certificates from the issuer's up to the root's")
