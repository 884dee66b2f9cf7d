"""Whom a client believes, asked in real TLS handshakes between two memory buffers."""

import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fairlead.base.clock import DAY
from fairlead.base.errors import Refused
from fairlead.pki.authority import Authority, Issued
from fairlead.pki.certificate import api_name, der_of, portal_name
from fairlead.pki.request import new_request, read_request
from fairlead.pki.verify import PortalTrust, client_context, diagnosis_context, unverified_context, validity

CLUSTER = UUID("6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab")
NAME = portal_name(CLUSTER)
NOW = time.time_ns() // 1000


def handshake(folder: Path, client: ssl.SSLContext, served: Issued, name: str = NAME,
              newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The leaf (DER) that the client accepted. Raises ssl.SSLError as the client does."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = newest
    pair = folder / "pair.pem"
    pair.write_bytes(served.certificate_pem + served.key_pem)
    server.load_cert_chain(pair)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there, server_hostname=name)
    theirs = server.wrap_bio(there, back, server_side=True)
    for _ in range(10):
        with suppress(ssl.SSLWantReadError):
            ours.do_handshake()
            return ours.getpeercert(binary_form=True) or b""
        with suppress(ssl.SSLWantReadError):
            theirs.do_handshake()
    raise AssertionError("the handshake does not end")


def chosen(common_name: str = "portal.example.org", days: int = 1) -> Issued:
    """A self-signed certificate such as an operator makes: no CA, no alternative name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    today = datetime.now(UTC)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(today - timedelta(days=9))
            .not_valid_after(today + timedelta(days=days)).sign(key, SHA256()))
    return Issued(made.public_bytes(Encoding.PEM),
                  key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def refused_code(folder: Path, client: ssl.SSLContext, served: Issued, name: str = NAME) -> int:
    """OpenSSL's reason to refuse."""
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        handshake(folder, client, served, name)
    return refused.value.verify_code


@pytest.fixture
def root() -> Authority:
    return Authority.create(CLUSTER, NOW)


@pytest.fixture
def trust(root: Authority) -> PortalTrust:
    return PortalTrust([der_of(root.certificate_pem)])


def test_our_portal_is_believed_and_nobody_else(tmp_path: Path, root: Authority, trust: PortalTrust) -> None:
    portal = root.issue_portal(CLUSTER, [], NOW)
    leaf = handshake(tmp_path, trust.context(), portal)
    assert leaf == der_of(portal.certificate_pem)
    trust.check(leaf)
    stranger = Authority.create(CLUSTER, NOW).issue_portal(CLUSTER, [], NOW)  # the same names, another key
    refused_code(tmp_path, trust.context(), stranger)
    refused_code(tmp_path, trust.context(), chosen(NAME))


def test_the_api_certificate_cannot_serve_the_portal(tmp_path: Path, root: Authority, trust: PortalTrust) -> None:
    api = root.issue_api(CLUSTER, ["192.0.2.10"], NOW)
    assert refused_code(tmp_path, trust.context(), api) == 62  # X509_V_ERR_HOSTNAME_MISMATCH
    assert handshake(tmp_path, trust.context(), api, "192.0.2.10")


def test_no_leaf_of_another_role_serves_the_portal_or_the_api(tmp_path: Path, root: Authority,
                                                             trust: PortalTrust) -> None:
    key, request = new_request()
    member = Issued(root.certify_member(CLUSTER, "ctl-1", "127.64.0.1", read_request(request), NOW), key)
    client = root.issue_client(CLUSTER, NOW)
    for name in (NAME, api_name(CLUSTER), "192.0.2.10"):
        for other in (member, client):
            assert refused_code(tmp_path, trust.context(), other, name) in (26, 62, 64)  # purpose, name, address
    assert refused_code(tmp_path, trust.context(), root.issue_portal(CLUSTER, [], NOW), api_name(CLUSTER)) == 62


def test_while_two_roots_are_believed_each_vouches_and_afterwards_the_old_one_does_not(
        tmp_path: Path, root: Authority) -> None:
    new = Authority.create(CLUSTER, NOW)
    both = PortalTrust([der_of(root.certificate_pem), der_of(new.certificate_pem)])
    for signs in (root, new):
        assert handshake(tmp_path, both.context(), signs.issue_portal(CLUSTER, [], NOW))
    alone = PortalTrust([der_of(new.certificate_pem)])
    assert handshake(tmp_path, alone.context(), new.issue_portal(CLUSTER, [], NOW))
    refused_code(tmp_path, alone.context(), root.issue_portal(CLUSTER, [], NOW))


def test_the_environment_has_no_say(tmp_path: Path, root: Authority, trust: PortalTrust,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Authority.create(CLUSTER, NOW)
    (tmp_path / "proxy.pem").write_bytes(proxy.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "proxy.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    refused_code(tmp_path, trust.context(), proxy.issue_portal(CLUSTER, [], NOW))
    assert handshake(tmp_path, trust.context(), root.issue_portal(CLUSTER, [], NOW))
    assert not (tmp_path / "keys.log").exists()


@pytest.mark.parametrize("kind", ["verified", "diagnosis", "unverified"])
def test_only_tls_1_3_is_spoken(tmp_path: Path, root: Authority, trust: PortalTrust, kind: str) -> None:
    context = {"verified": trust.context, "diagnosis": lambda: diagnosis_context(trust.certificates),
               "unverified": unverified_context}[kind]()
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, context, root.issue_portal(CLUSTER, [], NOW), newest=ssl.TLSVersion.TLSv1_2)


def test_an_expired_certificate_is_refused_but_its_times_can_be_read(tmp_path: Path, root: Authority,
                                                                    trust: PortalTrust) -> None:
    old = root.issue_portal(CLUSTER, [], NOW - 400 * DAY)
    assert refused_code(tmp_path, trust.context(), old) == 10
    leaf = handshake(tmp_path, diagnosis_context(trust.certificates), old)
    assert validity(leaf)[1] < NOW


def test_the_diagnosis_believes_nobody_else_either(tmp_path: Path, root: Authority, trust: PortalTrust) -> None:
    context = diagnosis_context(trust.certificates)
    refused_code(tmp_path, context, Authority.create(CLUSTER, NOW).issue_portal(CLUSTER, [], NOW))
    assert refused_code(tmp_path, context, root.issue_api(CLUSTER, [], NOW)) == 62


def test_a_self_signed_certificate_is_believed_as_itself_under_any_name(tmp_path: Path) -> None:
    own = chosen()
    trust = PortalTrust([der_of(own.certificate_pem)])
    trust.check(handshake(tmp_path, trust.context(), own, "192.0.2.10"))
    refused_code(tmp_path, trust.context(), chosen())
    assert refused_code(tmp_path, PortalTrust([der_of((old := chosen(days=-1)).certificate_pem)]).context(), old) == 10
    with pytest.raises(Refused) as refused:
        trust.check(der_of(chosen().certificate_pem))
    assert refused.value.code == "FL-PEER-CERTIFICATE"


def test_beside_a_pinned_certificate_a_ca_still_vouches_for_its_name_only(tmp_path: Path, root: Authority) -> None:
    own = chosen()
    trust = PortalTrust([der_of(root.certificate_pem), der_of(own.certificate_pem)])
    trust.check(handshake(tmp_path, trust.context(), own), NAME)
    portal = handshake(tmp_path, trust.context(), root.issue_portal(CLUSTER, [], NOW))
    trust.check(portal, NAME)
    api = handshake(tmp_path, trust.context(), root.issue_api(CLUSTER, [], NOW))
    for leaf, name in ((api, NAME), (portal, "")):
        with pytest.raises(Refused):
            trust.check(leaf, name)


def test_a_subject_is_no_name(tmp_path: Path) -> None:
    own = chosen(NAME)
    assert refused_code(tmp_path, client_context([der_of(own.certificate_pem)]), own) == 62


def test_bytes_that_are_no_certificate_make_no_context(root: Authority) -> None:
    for der in (b"", b"x", der_of(root.certificate_pem) + b"x"):
        with pytest.raises(Refused) as refused:
            client_context([der])
        assert refused.value.code == "FL-CERTIFICATE-FORMAT"
