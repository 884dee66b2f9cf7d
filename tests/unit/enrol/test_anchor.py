"""The anchor: one hash over everything that a joining node trusts."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fairlead.enrol.anchor import MOST_BYTES, Anchor, AnchorController, decode
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import sha256, string, u32
from tests.world import VECTORS, denied

GIVEN = VECTORS["anchor"]
FIELDS = GIVEN["fields"]


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


ANCHOR = Anchor(UUID(FIELDS["cluster_uuid"]), tuple(FIELDS["join_versions"]),
                tuple(map(der, FIELDS["ca_certificates"])),
                tuple(AnchorController(**(c | {"host_key": PublicKey.from_line(c["host_key"])}))
                      for c in FIELDS["controllers"]))
OTHER = PrivateKey.from_seed(b"o" * 32).public


def controller(**changes: object) -> Anchor:
    return replace(ANCHOR, controllers=(replace(ANCHOR.controllers[0], **changes),))  # type: ignore[arg-type]


def test_vector() -> None:
    assert ANCHOR.encode().hex() == GIVEN["encoded"]
    assert ANCHOR.hash.hex() == GIVEN["hash"]
    assert decode(bytes.fromhex(GIVEN["encoded"]), bytes.fromhex(GIVEN["hash"])) == ANCHOR


CHANGED: dict[str, Anchor] = {
    "cluster": replace(ANCHOR, cluster_uuid=UUID(int=1)), "downgrade": replace(ANCHOR, join_versions=(1, 0)),
    "CA": replace(ANCHOR, ca_certificates=(b"another",)), "one more CA": replace(ANCHOR, ca_certificates=(
        *ANCHOR.ca_certificates, b"x")), "host key": controller(host_key=OTHER),
    "address": controller(address="192.0.2.66"), "port": controller(portal_port=8444), "name": controller(name="ctl-2"),
    "TLS name": controller(tls_name="x"), "one more": replace(ANCHOR, controllers=ANCHOR.controllers * 2),
    "run together": controller(name="ctl-119", address="2.0.2.10"),
}


@pytest.mark.parametrize("anchor", CHANGED.values(), ids=CHANGED)
def test_a_change_of_any_part_changes_the_pin(anchor: Anchor) -> None:
    assert anchor.hash != ANCHOR.hash
    assert denied(lambda: decode(anchor.encode(), ANCHOR.hash)) == "FL-ANCHOR-PIN"


def test_nothing_is_parsed_before_the_hash_fits() -> None:
    assert denied(lambda: decode(b"\xff" * 100, bytes(32))) == "FL-ANCHOR-PIN"
    large = bytes(MOST_BYTES + 1)
    assert denied(lambda: decode(large, sha256(large))) == "FL-ANCHOR-PIN"


def test_pinned_bytes_that_are_no_anchor_are_refused() -> None:
    good = ANCHOR.encode()
    bad = [b"", good + b"\0", string("fairlead-anchor-v2") + good[22:], b"\xff\xff\xff\xff" + good[4:],
           string("fairlead-anchor-v1") + string(b"short") + good[42:],
           good[:42] + u32(2**32 - 1), good[:42] + u32(0) + good[50:], good[:42] + u32(9) + 9 * u32(1) + good[50:],
           good.replace(b"192.0.2.10", b"192.0.2.1\n"), good.replace(b"192.0.2.10", b"$(reboot)x"),
           good.replace(ANCHOR.controllers[0].host_key.raw, bytes(32)), good.replace(b"ctl-1", b"\xff\xfe-1-")]
    bad += [good[:cut] for cut in range(0, len(good), 25)]
    for data in bad:
        assert denied(partial(decode, data, sha256(data))) == "FL-ANCHOR", data


def limits() -> dict[str, Callable[[], Anchor]]:
    one = ANCHOR.controllers[0]
    return {
        "no version": lambda: replace(ANCHOR, join_versions=()),
        "nine versions": lambda: replace(ANCHOR, join_versions=(1,) * 9),
        "a version below zero": lambda: replace(ANCHOR, join_versions=(-1,)),
        "a version beyond u32": lambda: replace(ANCHOR, join_versions=(2**32,)),
        "no CA": lambda: replace(ANCHOR, ca_certificates=()),
        "five CAs": lambda: replace(ANCHOR, ca_certificates=ANCHOR.ca_certificates * 5),
        "a large CA": lambda: replace(ANCHOR, ca_certificates=(bytes(4097),)),
        "nobody": lambda: replace(ANCHOR, controllers=()),
        "33 of them": lambda: replace(ANCHOR, controllers=(one,) * 33),
        "port 0": lambda: controller(portal_port=0), "port 65536": lambda: controller(portal_port=65536),
        "no address": lambda: controller(address=""), "a long TLS name": lambda: controller(tls_name="x" * MOST_BYTES)}


@pytest.mark.parametrize("what", limits())
def test_limits(what: str) -> None:
    anchor = limits()[what]()
    assert denied(anchor.checked) == "FL-ANCHOR"


def test_the_largest_are_allowed() -> None:
    assert replace(ANCHOR, join_versions=tuple(range(1, 9)), ca_certificates=ANCHOR.ca_certificates * 4,
                   controllers=ANCHOR.controllers * 32).checked()


def test_a_name_may_have_two_keys_while_one_rotates() -> None:
    both = replace(ANCHOR, controllers=(*ANCHOR.controllers, replace(ANCHOR.controllers[0], host_key=OTHER)))
    assert both.host_keys("ctl-1") == {ANCHOR.controllers[0].host_key, OTHER}
    assert both.host_keys("ctl-2") == frozenset()
