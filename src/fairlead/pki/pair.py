"""Whether a certificate and a private key are a pair, and under which root it stands. Pure."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fairlead.pki.certificate import covers, is_ca
from fairlead.pki.chain import is_issued_by


def pair_fault(certificate_pem: bytes, key_pem: bytes) -> str:
    """Why they are none, empty when they are one; nothing of the key is in it."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        public: object = certificate.public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        return "the certificate cannot be read"
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "the private key cannot be read"
    return "" if key.public_key() == public else "the certificate and the private key do not belong together"


def leaf_fault(leaf: bytes, root: bytes, name: str) -> str:
    """Why *leaf* (DER) is not the certificate for *name* below *root* (DER), whatever the time; empty when it is.

    Raises Refused FL-CERTIFICATE-FORMAT.
    """
    if is_ca(leaf) or not is_issued_by(x509.load_der_x509_certificate(leaf), x509.load_der_x509_certificate(root)):
        return "the cluster's root CA has not issued it"
    return "" if covers(leaf, name) else f"it is not good for {name}"
