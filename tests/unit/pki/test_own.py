"""Certificates that are made here, and those that are brought."""

import os
import time
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from fairlead.base.clock import DAY, HOUR
from fairlead.base.errors import Refused
from fairlead.pki.brought import finish, from_pkcs12, imported, read_key
from fairlead.pki.certificate import covers, der_of, is_ca, names, validity
from fairlead.pki.own import KeyParams, Owned, Subject, renewed, requested, self_signed
from tests.unit.pki.organisation import Holder, root

NOW = time.time_ns() // 1000
TODAY = NOW // 1_000_000 * 1_000_000
EC = KeyParams()
FULL = Subject("ctl.example.org", "Example, Inc.", "Operations", "SE", "Skåne", "Malmö", "ops@example.org")


def code_of(refused: pytest.ExceptionInfo[Refused]) -> str:
    assert refused.value.__cause__ is None or "PRIVATE" not in str(refused.value.__cause__)
    assert refused.value.remedy
    return refused.value.code


@pytest.fixture(scope="module")
def top() -> Holder:
    return root("Example Root", NOW)


@pytest.fixture(scope="module")
def middle(top: Holder) -> Holder:
    return top.ca("Example Servers", NOW)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat = PrivateFormat.PKCS8,
        passphrase: bytes = b"") -> bytes:
    return key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(passphrase) if passphrase else NoEncryption())


@pytest.mark.parametrize("params", [
    EC, KeyParams(curve="SSL_KEY_EC_CURVE_SECP384R1"), KeyParams(curve="SSL_KEY_EC_CURVE_SECP521R1"),
    KeyParams("SSL_KEY_ALGORITHM_RSA"), KeyParams("SSL_KEY_ALGORITHM_RSA", "SSL_KEY_3072_BITS")])
def test_a_self_signed_certificate_is_a_server_s_and_vouches_for_nobody(params: KeyParams) -> None:
    owned = self_signed(FULL, ["Ctl.example.org", "192.0.2.10"], params, 30, NOW)
    der = der_of(owned.certificate_pem)
    assert not is_ca(der)
    assert names(der) == ("ctl.example.org", "192.0.2.10")
    assert validity(der) == (TODAY - HOUR, TODAY + 30 * DAY)
    assert owned.chain_pem == b""
    assert imported(owned.certificate_pem, owned.key_pem, None, b"", NOW) == owned
    assert "PRIVATE" not in repr(owned)


def test_a_common_name_that_is_a_server_s_stands_in_for_the_names() -> None:
    assert names(der_of(self_signed(FULL, (), EC, 1, NOW).certificate_pem)) == ("ctl.example.org",)
    assert names(der_of(self_signed(Subject("The portal"), (), EC, 1, NOW).certificate_pem)) == ()


@pytest.mark.parametrize(("subject", "code"), [
    (Subject(""), "FL-CERT-SUBJECT"), (Subject("x" * 65), "FL-CERT-SUBJECT"), (Subject("a\x1b[2Jb"), "FL-CERT-SUBJECT"),
    (replace(FULL, country="Sweden"), "FL-CERT-SUBJECT"), (replace(FULL, country="se"), "FL-CERT-SUBJECT"),
    (replace(FULL, email_address="ö@example.org"), "FL-CERT-SUBJECT"),
    (replace(FULL, locality="x" * 129), "FL-CERT-SUBJECT")])
def test_what_a_subject_may_say(subject: Subject, code: str) -> None:
    with pytest.raises(Refused) as refused:
        requested(subject, (), EC)
    assert code_of(refused) == code


@pytest.mark.parametrize("name", ["*.example.org", "", "a b", "münchen.example", "-x", "x" * 64, "a..b", "10.0.0.0/8"])
def test_what_is_no_name_of_a_server(name: str) -> None:
    with pytest.raises(Refused) as refused:
        self_signed(FULL, ["ctl.example.org", name], EC, 30, NOW)
    assert code_of(refused) == "FL-CERT-NAME"


def test_how_many_names_and_days() -> None:
    with pytest.raises(Refused) as refused:
        self_signed(FULL, [f"a{at}" for at in range(101)], EC, 30, NOW)
    assert code_of(refused) == "FL-CERT-NAME"
    for days in (0, -1, 3651):
        with pytest.raises(Refused) as refused:
            self_signed(FULL, (), EC, days, NOW)
        assert code_of(refused) == "FL-CERT-DAYS"


@pytest.mark.parametrize(("params", "code"), [
    (KeyParams("SSL_KEY_ALGORITHM_RSA", "SSL_KEY_1024_BITS"), "FL-CERT-KEY-WEAK"),
    (KeyParams("SSL_KEY_ALGORITHM_RSA", "SSL_KEY_512_BITS"), "FL-CERT-KEY-TYPE"),
    (KeyParams(curve="SSL_KEY_EC_CURVE_SECP256K1"), "FL-CERT-KEY-TYPE"), (KeyParams("DSA"), "FL-CERT-KEY-TYPE")])
def test_which_keys_are_not_made(params: KeyParams, code: str) -> None:
    with pytest.raises(Refused) as refused:
        requested(FULL, (), params)
    assert code_of(refused) == code


def test_a_request_is_finished_by_the_certificate_for_its_key_only(top: Holder, middle: Holder) -> None:
    pending = requested(FULL, ["ctl.example.org"], EC)
    request = x509.load_pem_x509_csr(pending.request_pem)
    assert request.is_signature_valid
    assert "PRIVATE" not in repr(pending)
    key = load_pem_private_key(pending.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = middle.leaf(["ctl.example.org"], NOW, key=key)
    owned = finish(pending, signed.pem, middle.pem + top.pem, NOW)
    assert owned == Owned(signed.pem, pending.key_pem, middle.pem + top.pem)
    with pytest.raises(Refused) as refused:
        finish(pending, middle.leaf(["ctl.example.org"], NOW).pem, b"", NOW)
    assert code_of(refused) == "FL-CERT-KEY"


def test_a_self_signed_certificate_is_renewed_with_its_key(top: Holder) -> None:
    owned = self_signed(FULL, ["ctl.example.org"], EC, 30, NOW)
    again = renewed(owned, 60, NOW + DAY)
    assert again.key_pem == owned.key_pem
    old, new = (x509.load_pem_x509_certificate(one.certificate_pem) for one in (owned, again))
    assert (old.subject, old.public_key()) == (new.subject, new.public_key())
    assert old.serial_number != new.serial_number
    assert covers(der_of(again.certificate_pem), "ctl.example.org")
    assert validity(der_of(again.certificate_pem))[1] == TODAY + 61 * DAY
    leaf = top.leaf(["ctl.example.org"], NOW)
    with pytest.raises(Refused) as refused:
        renewed(Owned(leaf.pem, leaf.key_pem, top.pem), 30, NOW)
    assert code_of(refused) == "FL-CERT-RENEW"


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_a_key_is_read_in_every_form_and_opened_by_its_passphrase(
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat) -> None:
    assert read_key(pem(key, form), None).private_numbers() == key.private_numbers()
    assert read_key(pem(key, form), b"not needed").private_numbers() == key.private_numbers()
    locked = pem(key, form, b"right")
    assert read_key(locked, b"right").private_numbers() == key.private_numbers()
    for wrong in (None, b"", b"wrong"):
        with pytest.raises(Refused) as refused:
            read_key(locked, wrong)
        assert code_of(refused) == "FL-CERT-PASSPHRASE"


def test_what_is_no_key_or_a_poor_one(top: Holder) -> None:
    for text, code in ((b"", "FL-CERT-KEY"), (top.pem, "FL-CERT-KEY"), (b"x" * 9000, "FL-CERT-KEY"),
                       (pem(rsa.generate_private_key(65537, 1024)), "FL-CERT-KEY-WEAK"),
                       (pem(ec.generate_private_key(ec.SECP256K1())), "FL-CERT-KEY-TYPE")):
        with pytest.raises(Refused) as refused:
            read_key(text, None)
        assert code_of(refused) == code


def test_a_passphrase_does_not_keep_the_controller_busy() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    rounds = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2_000_001).build(b"x")
    for costly in (rounds,):
        data = pkcs12.serialize_key_and_certificates(b"a", key, None, None, costly)
        with pytest.raises(Refused) as refused:
            from_pkcs12(data, b"x", NOW)
        assert "busy" in refused.value.message


def test_a_chain_may_stand_behind_the_certificate_and_in_any_order(top: Holder, middle: Holder) -> None:
    leaf = middle.leaf(["ctl.example.org"], NOW)
    whole = Owned(leaf.pem, leaf.key_pem, middle.pem + top.pem)
    for text, chain in ((leaf.pem + middle.pem + top.pem, b""), (leaf.pem + top.pem, middle.pem),
                        (leaf.pem, top.pem + middle.pem), (leaf.pem + middle.pem, middle.pem + top.pem + leaf.pem)):
        assert imported(text, leaf.key_pem, None, chain, NOW) == whole
    assert imported(leaf.pem, leaf.key_pem, None, middle.pem, NOW).chain_pem == middle.pem


def test_a_chain_with_what_does_not_belong_to_it_or_two_ways_up(top: Holder, middle: Holder) -> None:
    leaf = middle.leaf(["ctl.example.org"], NOW)
    crossed = root("Another Root", NOW).ca("Example Servers", NOW, key=middle.key)
    for chain in (top.pem, middle.pem + root("Example Root", NOW).pem, middle.pem + top.pem + crossed.pem,
                  middle.pem + top.pem + root("Other", NOW).pem):
        with pytest.raises(Refused) as refused:
            imported(leaf.pem, leaf.key_pem, None, chain, NOW)
        assert code_of(refused) == "FL-CERT-CHAIN"
    own = self_signed(FULL, (), EC, 30, NOW)
    with pytest.raises(Refused) as refused:
        imported(own.certificate_pem, own.key_pem, None, top.pem, NOW)
    assert code_of(refused) == "FL-CERT-CHAIN"


def test_what_is_no_certificate_or_too_much(top: Holder) -> None:
    leaf = top.leaf(["ctl.example.org"], NOW)
    damaged = leaf.pem.replace(b"MII", b"MIJ", 1)
    for text in (b"", b"  ", b"x", leaf.key_pem, damaged, leaf.pem * 10, leaf.pem + b" " * 65536, os.urandom(100)):
        with pytest.raises(Refused) as refused:
            imported(text, leaf.key_pem, None, b"", NOW)
        assert code_of(refused) == "FL-CERT-FORMAT"
    old = top.leaf(["ctl.example.org"], NOW, first=-DAY, last=-HOUR)
    with pytest.raises(Refused) as refused:
        imported(old.pem, old.key_pem, None, b"", NOW)
    assert code_of(refused) == "FL-CERT-EXPIRED"


def test_a_pkcs12_file(top: Holder, middle: Holder) -> None:
    leaf = middle.leaf(["ctl.example.org"], NOW)
    assert isinstance(leaf.key, ec.EllipticCurvePrivateKey)

    def file(passphrase: bytes) -> bytes:
        return pkcs12.serialize_key_and_certificates(
            b"portal", leaf.key, leaf.certificate, [top.certificate, middle.certificate],
            BestAvailableEncryption(passphrase) if passphrase else NoEncryption())

    whole = Owned(leaf.pem, leaf.key_pem, middle.pem + top.pem)
    assert from_pkcs12(file(b"right"), b"right", NOW) == whole
    for none in (None, b""):
        assert from_pkcs12(file(b""), none, NOW) == whole
    for data, passphrase, code in ((file(b"right"), b"wrong", "FL-CERT-PASSPHRASE"), (b"", None, "FL-CERT-FORMAT"),
                                   (file(b"right"), None, "FL-CERT-PASSPHRASE"), (leaf.pem, None, "FL-CERT-FORMAT"),
                                   (file(b"x") + b" " * 65536, b"x", "FL-CERT-FORMAT")):
        with pytest.raises(Refused) as refused:
            from_pkcs12(data, passphrase, NOW)
        assert code_of(refused) == code
    bare = pkcs12.serialize_key_and_certificates(b"x", None, leaf.certificate, None, NoEncryption())
    with pytest.raises(Refused) as refused:
        from_pkcs12(bare, None, NOW)
    assert code_of(refused) == "FL-CERT-FORMAT"
