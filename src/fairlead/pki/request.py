"""A certificate signing request: a public key and the proof that the sender has its private key. Pure.

Rules, and the attack each stops:

1. Only the key is taken over. What a request says of names, usages or lifetimes is read by nobody: the certificate says
   what the CA's own profile says, so that a node cannot ask for the portal's name.
2. The request's signature must verify: nobody has another's public key certified as his own.
3. One PEM block of at most `MOST_BYTES`, EC P-256 by its name: no curve that the sender describes himself, no other
   algorithm that a verifier of ours would have to speak.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fairlead.base.errors import Refused

MOST_BYTES = 4096
_BEGIN, _END = b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n"


def new_request() -> tuple[bytes, bytes]:
    """A new private key (PKCS #8, PEM) and a request for its certificate (PEM); the request names nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    return (key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), request.public_bytes(Encoding.PEM))


def read_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request (PEM) whose signature verifies. Raises Refused FL-CSR."""
    if len(pem) > MOST_BYTES or not pem.startswith(_BEGIN) or not pem.endswith(_END) or pem.count(b"-----") != 4:
        raise _refused("is not one PEM block of a request")
    try:
        request = x509.load_pem_x509_csr(pem)
        if request.public_bytes(Encoding.PEM) != pem:
            raise _refused("is not written the one way")
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise _refused("cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused("has a key that is not EC P-256")
    if not proven:
        raise _refused("is not signed by its own key")
    return key


def _refused(why: str) -> Refused:
    return Refused("FL-CSR", f"the certificate signing request {why}", "make a new one, with an EC P-256 key")
