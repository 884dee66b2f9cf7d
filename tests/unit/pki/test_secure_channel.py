"""Which certificate may serve the system portal: one condition taken away at a time."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fairlead.base.clock import DAY, HOUR
from fairlead.base.errors import Refused
from fairlead.pki.certificate import der_of, key_usage
from fairlead.pki.own import KeyParams, Owned, Subject, self_signed
from fairlead.pki.secure_channel import judge
from tests.unit.pki.organisation import Holder, made, root

NOW = time.time_ns() // 1000
CLUSTER = "portal.6f1c2d3e-4a5b-4c6d-8e7f-0123456789ab.fairlead.internal"
ADDRESSES = ("192.0.2.10", "Ctl-2.example.org", "2001:db8::1")


@dataclass(frozen=True)
class Organisation:
    top: Holder
    middle: Holder

    def owned(self, names: Any = ADDRESSES, **options: Any) -> Owned:
        leaf = self.middle.leaf(names, NOW, **options)
        return Owned(leaf.pem, leaf.key_pem, self.middle.pem + self.top.pem)


@pytest.fixture(scope="module")
def organisation() -> Organisation:
    top = root("Example Root", NOW)
    return Organisation(top, top.ca("Example Servers", NOW, path_length=0))


def refused(owned: Owned, addresses: Any = ADDRESSES) -> str:
    with pytest.raises(Refused) as refusal:
        judge(owned, addresses, CLUSTER, NOW)
    assert refusal.value.remedy
    return refusal.value.code


def test_a_whole_chain_is_shown_and_its_root_is_trusted(organisation: Organisation) -> None:
    owned = organisation.owned([CLUSTER])
    presentation = judge(owned, ADDRESSES, CLUSTER, NOW)
    assert presentation.ca_certificates == (organisation.top.der,)
    assert presentation.chain_pem == owned.certificate_pem + organisation.middle.pem
    assert presentation.tls_name == CLUSTER
    assert set(presentation.tls_names.values()) == {CLUSTER}


def test_without_the_cluster_s_name_each_controller_has_its_address_as_name(organisation: Organisation) -> None:
    owned = organisation.owned(["ctl-2.example.org", "2001:DB8::1", "192.0.2.10"])
    presentation = judge(owned, ADDRESSES, CLUSTER, NOW)
    assert presentation.tls_names == {"192.0.2.10": "192.0.2.10", "Ctl-2.example.org": "ctl-2.example.org",
                                      "2001:db8::1": "2001:db8::1"}
    assert presentation.tls_name == "192.0.2.10"


def test_a_self_signed_one_is_pinned_whatever_its_name() -> None:
    owned = self_signed(Subject("anything"), (), KeyParams(), 90, NOW)
    presentation = judge(owned, ADDRESSES, CLUSTER, NOW)
    assert presentation.ca_certificates == (der_of(owned.certificate_pem),)
    assert presentation.chain_pem == owned.certificate_pem
    assert set(presentation.tls_names.values()) == {presentation.tls_name} == {CLUSTER}


@pytest.mark.parametrize("names", [ADDRESSES[:2], ["*.example.org", "192.0.2.10", "2001:db8::1"], [],
                                   ["192.0.2.10", "ctl-2.example.org", "2001:db8::2"], [f"x{CLUSTER}"],
                                   ["*" + CLUSTER[6:]]])
def test_every_controller_is_covered_by_its_own_name(organisation: Organisation, names: list[str]) -> None:
    assert refused(organisation.owned(names)) == "FL-CERT-NAMES"


def test_an_address_among_the_dns_names_is_none(organisation: Organisation) -> None:
    alternatives = x509.SubjectAlternativeName([x509.DNSName("192.0.2.10")])
    owned = organisation.owned([], extensions=[(alternatives, False)])
    assert refused(owned, ["192.0.2.10"]) == "FL-CERT-NAMES"


def test_no_controller_is_not_every_controller(organisation: Organisation) -> None:
    assert refused(organisation.owned(), ()) == "FL-CERT-NAMES"


@pytest.mark.parametrize(("options", "code"), [
    ({"last": -HOUR, "first": -DAY}, "FL-CERT-EXPIRED"),
    ({"last": 23 * HOUR}, "FL-CERT-EXPIRED"),
    ({"first": HOUR}, "FL-CERT-NOT-YET"),
    ({"usages": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "FL-CERT-USAGE"),
    ({"usages": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]}, "FL-CERT-USAGE"),  # not enough for OpenSSL
    ({"usage": key_usage(crl_sign=True)}, "FL-CERT-USAGE"),
    ({"ca": True, "usage": key_usage(digital_signature=True)}, "FL-CERT-CA"),
    ({"usage": key_usage(digital_signature=True, key_cert_sign=True)}, "FL-CERT-CA"),
    ({"key": rsa.generate_private_key(65537, 1024)}, "FL-CERT-KEY-WEAK"),
    ({"key": ec.generate_private_key(ec.SECP256K1())}, "FL-CERT-KEY-TYPE"),
    ({"extensions": [(x509.TLSFeature([x509.TLSFeatureType.status_request]), True)]}, "FL-CERT-USAGE"),
])
def test_what_a_leaf_must_be(organisation: Organisation, options: dict[str, Any], code: str) -> None:
    assert refused(organisation.owned(**options)) == code


@pytest.mark.parametrize(("options", "code"), [
    ({"last": -HOUR, "first": -DAY}, "FL-CERT-EXPIRED"),
    ({"first": HOUR}, "FL-CERT-NOT-YET"),
    ({"key": rsa.generate_private_key(65537, 1024)}, "FL-CERT-KEY-WEAK"),
    ({"usage": key_usage(digital_signature=True)}, "FL-CERT-CHAIN"),
    ({"extensions": [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]}, "FL-CERT-USAGE"),
    ({"extensions": [(x509.NameConstraints([x509.DNSName("example.org")], None), True)]}, "FL-CERT-CHAIN"),
])
def test_what_those_above_it_must_be(options: dict[str, Any], code: str) -> None:
    top = root("Example Root", NOW)
    assert refused(Organisation(top, top.ca("Example Servers", NOW, **options)).owned()) == code


@pytest.mark.parametrize("certify", [False, True])
def test_a_leaf_is_no_ca(organisation: Organisation, certify: bool) -> None:
    between = organisation.middle.leaf(ADDRESSES, NOW, usage=key_usage(digital_signature=True, key_cert_sign=certify))
    leaf = between.leaf(ADDRESSES, NOW)
    owned = Owned(leaf.pem, leaf.key_pem, between.pem + organisation.middle.pem + organisation.top.pem)
    with pytest.raises(Refused) as refusal:
        judge(owned, ADDRESSES, CLUSTER, NOW)
    assert "may not issue" in refusal.value.message


def test_a_ca_may_be_kept_from_having_others_below_it(organisation: Organisation) -> None:
    below = organisation.middle.ca("Example Below", NOW)
    leaf = below.leaf(ADDRESSES, NOW)
    owned = Owned(leaf.pem, leaf.key_pem, below.pem + organisation.middle.pem + organisation.top.pem)
    assert refused(owned) == "FL-CERT-CHAIN"


def test_a_chain_is_whole_and_its_signatures_hold(organisation: Organisation) -> None:
    owned = organisation.owned()
    twin = root("Example Root", NOW)
    assert judge(owned, ADDRESSES, CLUSTER, NOW)
    for chain in (organisation.middle.pem, organisation.top.pem, b"", organisation.middle.pem + twin.pem,
                  twin.ca("Example Servers", NOW).pem + twin.pem, organisation.top.pem + organisation.middle.pem):
        with pytest.raises(Refused) as refusal:
            judge(replace(owned, chain_pem=chain), ADDRESSES, CLUSTER, NOW)
        assert "FL-CERT-CHAIN" in refusal.value.message + refusal.value.code


@pytest.mark.parametrize(("options", "code"), [
    ({"ca": True}, "FL-CERT-CA"),
    ({"ca": True, "usage": key_usage(digital_signature=True)}, "FL-CERT-CA"),
    ({"last": -HOUR, "first": -DAY}, "FL-CERT-EXPIRED"),
    ({"usages": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "FL-CERT-USAGE"),
    ({"extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x00" * 2500), False)]},
     "FL-CERT-SIZE"),
])
def test_what_a_self_signed_one_must_be(options: dict[str, Any], code: str) -> None:
    own = made("own", None, NOW, **{"usage": key_usage(digital_signature=True)} | options)
    if options.get("ca") and "usage" not in options:
        own = made("own", None, NOW, ca=True, usage=key_usage(digital_signature=True, key_cert_sign=True))
    assert refused(Owned(own.pem, own.key_pem)) == code


def test_a_root_that_nodes_would_keep_is_small() -> None:
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x00" * 2500)
    top = root("Example Root", NOW, extensions=[(filler, False)])
    leaf = top.leaf(ADDRESSES, NOW)
    assert refused(Owned(leaf.pem, leaf.key_pem, top.pem)) == "FL-CERT-SIZE"


def test_all_that_is_wrong_is_said_at_once(organisation: Organisation) -> None:
    owned = organisation.owned(["192.0.2.10"], last=-HOUR, first=-DAY, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    with pytest.raises(Refused) as refusal:
        judge(owned, ADDRESSES, CLUSTER, NOW)
    assert refusal.value.code == "FL-CERT-UNFIT"
    for code in ("FL-CERT-NAMES", "FL-CERT-EXPIRED", "FL-CERT-USAGE"):
        assert f"[{code}]" in refusal.value.message
