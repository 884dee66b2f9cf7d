"""Certificate signing requests: the key that proves itself is taken, and nothing else."""

import base64
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from fairlead.base.errors import Refused
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of, is_ca, member_name, names, parsed, portal_name
from fairlead.pki.request import MOST_BYTES, new_request, read_request
from tests.conftest import need

CLUSTER = UUID("6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab")
NOW = time.time_ns() // 1000


def a_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """One that asks for more than it may."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, portal_name(CLUSTER))])
    builder = (x509.CertificateSigningRequestBuilder().subject_name(name)
               .add_extension(x509.SubjectAlternativeName([x509.DNSName(portal_name(CLUSTER))]), critical=True)
               .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True))
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM)


def test_a_key_goes_through_a_request_into_a_members_certificate_and_nothing_else_does() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    root = Authority.create(CLUSTER, NOW)
    made = der_of(root.certify_member(CLUSTER, "ctl-2", "127.64.0.2", read_request(a_request(key)), NOW))
    assert parsed(made).public_key() == key.public_key()
    assert names(made) == (member_name(CLUSTER), "ctl-2.fairlead.internal", "127.64.0.2")
    assert [one.value for one in parsed(made).subject] == [member_name(CLUSTER)]
    assert not is_ca(made)
    own, request = new_request()
    assert read_request(request) == load_pem_private_key(own, None).public_key()
    assert x509.load_pem_x509_csr(request).subject == x509.Name([])


def test_openssls_request_will_do(tmp_path: Path) -> None:
    need("openssl")
    done = subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                           "-keyout", tmp_path / "key", "-subj", "/CN=x"], capture_output=True, check=True)
    assert read_request(done.stdout) == load_pem_private_key((tmp_path / "key").read_bytes(), None).public_key()


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256K1()),
                                 rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_only_p_256_is_certified(
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> None:
    with pytest.raises(Refused) as refused:
        read_request(a_request(key))
    assert refused.value.code == "FL-CSR"


def test_somebody_elses_key_is_not_certified() -> None:
    mine, his = (x509.load_pem_x509_csr(new_request()[1]) for _ in range(2))
    forged = mine.public_bytes(Encoding.DER).replace(_point(mine), _point(his))
    body = base64.b64encode(forged)
    lines = [body[i:i + 64] for i in range(0, len(body), 64)]
    with pytest.raises(Refused, match="not signed by its own key"):
        read_request(b"\n".join([b"-----BEGIN CERTIFICATE REQUEST-----", *lines,
                                 b"-----END CERTIFICATE REQUEST-----", b""]))


HARM: list[Callable[[bytes], bytes]] = [
    lambda _: b"", lambda pem: pem * 2, lambda pem: b"\n" + pem, lambda pem: pem + b"x", lambda pem: pem[:-20],
    lambda pem: pem[:70] + b"\n" + pem[70:],
    lambda pem: pem.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), lambda pem: pem.replace(b"\n", b"\r\n"),
    lambda pem: pem.replace(b"-----\nM", b"-----\nA"),
    lambda pem: pem.replace(b"-----\n", b"-----\n" + b"\n" * MOST_BYTES)]


@pytest.mark.parametrize("harm", HARM)
def test_what_is_not_one_request_is_refused(harm: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Refused) as refused:
        read_request(harm(new_request()[1]))
    assert refused.value.code == "FL-CSR"


def _point(request: x509.CertificateSigningRequest) -> bytes:
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
