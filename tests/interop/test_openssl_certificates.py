"""Certificates of an operator's own beside stock OpenSSL: what it makes is read, what we make it accepts."""

import base64
import subprocess
import time
from pathlib import Path

import pytest

from fairlead.base.clock import MINUTE
from fairlead.base.errors import Refused
from fairlead.pki.brought import from_pkcs12, imported
from fairlead.pki.certificate import der_of
from fairlead.pki.described import describe
from fairlead.pki.own import KeyParams, Owned, Subject, requested, self_signed
from fairlead.pki.secure_channel import judge
from tests.conftest import need

NOW = time.time_ns() // 1000
LATER = NOW + 10 * MINUTE  # what OpenSSL makes is not back-dated
CLUSTER = "portal.6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab.fairlead.internal"
ADDRESSES = ("192.0.2.10", "ctl-2.example.org")
SUBJECT = Subject("ctl.example.org", "Example, Inc.", "Operations", "SE", "Skåne", "Malmö", "ops@example.org")
CONFIGURATION = f"""
[ca]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
[server]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=IP:{ADDRESSES[0]},DNS:{ADDRESSES[1]}
authorityKeyIdentifier=keyid
"""
PARAMS = [KeyParams(), KeyParams(curve="SSL_KEY_EC_CURVE_SECP384R1"), KeyParams(curve="SSL_KEY_EC_CURVE_SECP521R1"),
          KeyParams("SSL_KEY_ALGORITHM_RSA")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An organisation's CA: ``root``, ``middle`` below it, and ``leaf`` with an RSA key, all ``.pem`` and ``.key``."""
    need("openssl")
    made = tmp_path_factory.mktemp("organisation")
    (made / "x.cnf").write_text(CONFIGURATION)
    openssl(made, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem",
            "-days", "30", "-subj", "/O=Example/CN=Root", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, issuer, section in (("middle", "root", "ca"), ("leaf", "middle", "server")):
        openssl(made, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/O=Example/CN={name}")
        sign(made, name, issuer, section)
    return made


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def sign(folder: Path, name: str, issuer: str, section: str, digest: str = "-sha256") -> None:
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key",
            "-CAcreateserial", "-days", "20", digest, "-extfile", "x.cnf", "-extensions", section,
            "-out", f"{name}.pem")


def text(folder: Path, *names: str) -> bytes:
    return b"".join((folder / name).read_bytes() for name in names)


def test_an_organisation_s_chain_is_read_and_serves(folder: Path) -> None:
    owned = imported(text(folder, "leaf.pem"), text(folder, "leaf.key"), None, text(folder, "root.pem", "middle.pem"),
                     NOW)
    presentation = judge(owned, ADDRESSES, CLUSTER, LATER)
    assert presentation.ca_certificates == (der_of(text(folder, "root.pem")),)
    (folder / "shown.pem").write_bytes(presentation.chain_pem)
    for check in (("-verify_ip", ADDRESSES[0]), ("-verify_hostname", ADDRESSES[1])):
        openssl(folder, "verify", "-CAfile", "root.pem", "-untrusted", "shown.pem", "-purpose", "sslserver", *check,
                "shown.pem")


def test_what_it_signs_with_sha1_is_refused_by_name(folder: Path) -> None:
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "weak.key", "-out", "weak.csr", "-subj", "/CN=w")
    sign(folder, "weak", "middle", "server", "-sha1")
    with pytest.raises(Refused) as refused:
        imported(text(folder, "weak.pem"), text(folder, "weak.key"), None, text(folder, "middle.pem", "root.pem"), NOW)
    assert refused.value.code == "FL-CERT-SIGNATURE"
    with pytest.raises(Refused) as refused:
        judge(Owned(text(folder, "weak.pem"), b"", text(folder, "middle.pem", "root.pem")), ADDRESSES, CLUSTER,
              LATER)
    assert refused.value.code == "FL-CERT-SIGNATURE"


def test_what_req_makes_by_itself_is_a_ca_and_is_refused_with_what_to_do(folder: Path) -> None:
    arguments = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "own.key",
                 "-out", "own.pem", "-days", "9", "-subj", "/CN=own")
    openssl(folder, *arguments)
    owned = imported(text(folder, "own.pem"), text(folder, "own.key"), None, b"", NOW)
    with pytest.raises(Refused) as refused:
        judge(owned, ADDRESSES, CLUSTER, LATER)
    assert refused.value.code == "FL-CERT-CA"
    assert "basicConstraints=critical,CA:FALSE" in refused.value.remedy
    (folder / "plain.cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    openssl(folder, *arguments, "-config", "plain.cnf", "-addext", "basicConstraints=critical,CA:FALSE")
    assert judge(imported(text(folder, "own.pem"), text(folder, "own.key"), None, b"", NOW), ADDRESSES, CLUSTER,
                 LATER)


def test_one_of_version_1_would_be_a_ca_to_openssl_and_is_refused(folder: Path) -> None:
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "old.key", "-out", "old.csr", "-subj", "/CN=old")
    openssl(folder, "x509", "-req", "-in", "old.csr", "-signkey", "old.key", "-days", "9", "-out", "old.pem")
    openssl(folder, "x509", "-req", "-in", "leaf.csr", "-CA", "old.pem", "-CAkey", "old.key", "-CAcreateserial",
            "-out", "below.pem")
    openssl(folder, "verify", "-CAfile", "old.pem", "below.pem")
    with pytest.raises(Refused) as refused:
        judge(imported(text(folder, "old.pem"), text(folder, "old.key"), None, b"", NOW), ADDRESSES, CLUSTER, LATER)
    assert refused.value.code == "FL-CERT-CA"


@pytest.mark.parametrize("how", [(), ("-legacy",), ("-keypbe", "AES-256-CBC", "-certpbe", "AES-256-CBC")],
                         ids=["today's", "legacy", "AES"])
def test_a_pkcs12_file_of_openssl_is_read(folder: Path, how: tuple[str, ...]) -> None:
    (folder / "above.pem").write_bytes(text(folder, "root.pem", "middle.pem"))
    openssl(folder, "pkcs12", "-export", "-in", "leaf.pem", "-inkey", "leaf.key", "-certfile", "above.pem",
            "-passout", "pass:open", "-out", "leaf.p12", *how)
    whole = imported(text(folder, "leaf.pem"), text(folder, "leaf.key"), None, text(folder, "above.pem"), NOW)
    assert from_pkcs12(text(folder, "leaf.p12"), b"open", NOW) == whole
    with pytest.raises(Refused) as refused:
        from_pkcs12(text(folder, "leaf.p12"), b"shut", NOW)
    assert refused.value.code == "FL-CERT-PASSPHRASE"


@pytest.mark.parametrize("how", [("pkcs8", "-topk8"), ("pkcs8", "-topk8", "-scrypt"),
                                 ("rsa", "-traditional", "-aes256")], ids=["PKCS #8", "scrypt", "PKCS #1"])
def test_a_key_that_it_locked_is_opened(folder: Path, how: tuple[str, ...]) -> None:
    openssl(folder, *how, "-in", "leaf.key", "-passout", "pass:open", "-out", "locked.key")
    owned = imported(text(folder, "leaf.pem"), text(folder, "locked.key"), b"open", b"", NOW)
    assert owned == imported(text(folder, "leaf.pem"), text(folder, "leaf.key"), None, b"", NOW)


def test_a_key_that_costs_too_much_is_not_tried(folder: Path) -> None:
    lock = ("pkcs8", "-topk8", "-in", "leaf.key", "-passout", "pass:open")
    openssl(folder, *lock, "-iter", "2000001", "-out", "much.key")
    openssl(folder, *lock, "-scrypt", "-out", "scrypt.key")
    lines = text(folder, "scrypt.key").split(b"\n")
    der = base64.b64decode(b"".join(lines[1:-2]))
    costs = bytes.fromhex("02024000 020108 020101")  # which OpenSSL itself would not raise so far
    assert costs in der
    der = der.replace(costs, bytes.fromhex("02024000 02017f 020102"))
    for key in (text(folder, "much.key"), b"\n".join([lines[0], base64.encodebytes(der).rstrip(), *lines[-2:]])):
        with pytest.raises(Refused) as refused:
            imported(text(folder, "leaf.pem"), key, b"open", b"", NOW)
        assert "busy" in refused.value.message


@pytest.mark.parametrize("params", PARAMS)
def test_openssl_accepts_what_is_made_here(tmp_path: Path, params: KeyParams) -> None:
    need("openssl")
    owned = self_signed(SUBJECT, ["ctl.example.org", "192.0.2.10"], params, 30, NOW)
    (tmp_path / "own.pem").write_bytes(owned.certificate_pem)
    openssl(tmp_path, "verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", "-verify_hostname",
            "ctl.example.org", "-CAfile", "own.pem", "own.pem")
    pending = requested(SUBJECT, ["ctl.example.org", "192.0.2.10"], params)
    (tmp_path / "own.csr").write_bytes(pending.request_pem)
    said = openssl(tmp_path, "req", "-verify", "-in", "own.csr", "-noout", "-text", "-nameopt", "utf8,sep_comma_plus")
    assert "verify OK" in said
    assert "DNS:ctl.example.org, IP Address:192.0.2.10" in said
    assert "Skåne" in said


def test_it_describes_a_certificate_as_we_do(folder: Path) -> None:
    shown = describe(der_of(text(folder, "leaf.pem")), NOW)
    said = openssl(folder, "x509", "-in", "leaf.pem", "-noout", "-fingerprint", "-sha256", "-serial", "-subject",
                   "-issuer", "-pubkey", "-nameopt", "RFC2253")
    assert shown["fingerprint"] in said
    assert f"serial={int(shown['serial_number']):X}" in said.replace("serial=0", "serial=")
    assert f"subject={shown['subject']['distinguished_name']}" in said
    assert f"issuer={shown['issuer']['distinguished_name']}" in said
    assert shown["public_key"] in said
