"""A certificate in the public fields: what a sound one says, and how a hostile one is kept from moving a terminal."""

import random
import time
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fairlead.base.clock import DAY, HOUR
from fairlead.base.errors import Refused
from fairlead.pki.certificate import der_of
from fairlead.pki.described import describe
from fairlead.pki.own import KeyParams, Subject, self_signed
from tests.unit.pki.organisation import made, root

NOW = 1_700_000_000_000_000  # 2023-11-14 22:13:20


def test_a_sound_one_in_the_public_names() -> None:
    subject = Subject("ctl.example.org", "Example, Inc.", "Operations", "SE", "Skåne", "Malmö", "ops@example.org")
    owned = self_signed(subject, ["ctl.example.org", "192.0.2.10"], KeyParams(), 90, NOW)
    shown = describe(der_of(owned.certificate_pem), NOW)
    assert shown.pop("certificate") == owned.certificate_pem.decode()
    assert shown["subject"] == shown.pop("issuer") == {
        "common_name": "ctl.example.org", "organization": "Example, Inc.", "organization_unit": "Operations",
        "country": "SE", "state": "Skåne", "locality": "Malmö", "email_address": "ops@example.org",
        "distinguished_name": shown.pop("subject")["distinguished_name"]}
    assert shown.pop("public_key").startswith("-----BEGIN PUBLIC KEY-----")
    assert shown.pop("serial_number").isdigit()
    assert len(shown.pop("fingerprint")) == 95
    assert shown == {
        "version": "3", "not_before": "2023-11-14 21:13:20", "not_after": "2024-02-12 22:13:20",
        "days_until_expire": 90, "expiry_status": "SSL_CERTIFICATE_GOOD", "signature_algorithm": "ecdsa-with-SHA256",
        "subject_alt_names": ["ctl.example.org", "192.0.2.10"], "self_signed": True,
        "key_params": {"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {"curve": "SSL_KEY_EC_CURVE_SECP256R1"}}}


@pytest.mark.parametrize(("later", "days", "status"), [
    (59 * DAY, 31, "GOOD"), (60 * DAY, 30, "EXPIRY_WARNING"), (90 * DAY, 0, "EXPIRY_WARNING"),
    (90 * DAY + HOUR, 0, "EXPIRED"), (900 * DAY, 0, "EXPIRED")])
def test_how_long_it_is_good(later: int, days: int, status: str) -> None:
    der = der_of(self_signed(Subject("a"), (), KeyParams(), 90, NOW).certificate_pem)
    shown = describe(der, NOW + later)
    assert (shown["days_until_expire"], shown["expiry_status"]) == (days, f"SSL_CERTIFICATE_{status}")
    assert describe(der, NOW + later + HOUR)["days_until_expire"] == days  # the same all day


def test_keys_and_those_who_are_not_their_own_issuer() -> None:
    top = root("Example Root", NOW)
    leaf = describe(top.leaf(["a"], NOW, key=rsa.generate_private_key(65537, 2048)).der, NOW)
    assert leaf["self_signed"] is False
    assert leaf["key_params"] == {"algorithm": "SSL_KEY_ALGORITHM_RSA",
                                  "rsa_params": {"exponent": 65537, "key_size": "SSL_KEY_2048_BITS"}}
    twin = root("Example Root", NOW)
    assert describe(twin.leaf(["Example Root"], NOW).der, NOW)["self_signed"] is False  # by name alone
    assert "key_params" not in describe(made("a", None, NOW, key=ec.generate_private_key(ec.SECP256K1())).der, NOW)
    assert "subject_alt_names" not in describe(made("a", None, NOW).der, NOW)


@pytest.mark.filterwarnings("ignore:Attribute's length")
@pytest.mark.parametrize("value", ["\x1b[2J\x07evil", "a\u202eb", "snow☃man", "nul\x00byte", "tab\tand\nline",
                                   "x" * 15000])
def test_nothing_that_is_shown_moves_a_terminal_or_fills_it(value: str) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, value, _validate=False),
                      x509.NameAttribute(NameOID.COMMON_NAME, value, _validate=False)])
    shown = describe(_named(name, ec.generate_private_key(ec.SECP256R1())), NOW)
    for text in (*shown["subject"].values(), *shown["issuer"].values()):
        assert text.isprintable()
        assert len(text) < 5000


@pytest.mark.filterwarnings("ignore")
def test_bytes_that_are_changed_are_refused_in_one_way_or_described() -> None:
    sound = root("Example Root", NOW).leaf(["a.example.org", "192.0.2.1"], NOW).der
    chance = random.Random(1)
    until = time.monotonic() + 3
    seen = {"described": 0, "FL-CERTIFICATE-FORMAT": 0}
    while time.monotonic() < until:
        changed = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            shown = describe(bytes(changed), NOW)
        except Refused as refusal:
            seen[refusal.code] += 1
        else:
            seen["described"] += 1
            assert str(shown["subject"]).isprintable()
    assert min(seen.values()) > 20
    large = _named(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 65536, _validate=False)]),
                   ec.generate_private_key(ec.SECP256R1()))
    for der in (b"", b"x", sound[:-1], sound + b"x", large):
        with pytest.raises(Refused):
            describe(der, NOW)


def _named(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
               .serial_number(1).not_valid_before(datetime(2023, 1, 1, tzinfo=UTC))
               .not_valid_after(datetime(2024, 1, 1, tzinfo=UTC)))
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)
