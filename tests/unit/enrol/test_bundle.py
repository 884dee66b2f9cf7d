"""Bundles that were changed, cut off, made for somebody else, or made to hurt."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from fairlead.base.clock import SECOND
from fairlead.enrol import bundle as bundles
from fairlead.enrol.anchor import AnchorController
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.token import Token
from fairlead.keys.seal import new_recipient, recipient_public
from fairlead.keys.ssh import PrivateKey
from tests.unit.enrol.test_anchor import ANCHOR
from tests.world import START, VECTORS, denied, flipped

GIVEN = VECTORS["sealed_bundle"]
TEXT = GIVEN["bundle_text"].encode()
FIELDS: dict[str, Any] = json.loads(TEXT)
BUNDLE = bundles.decode(TEXT)
REQUEST = bytes.fromhex(GIVEN["request_encoded"])
ENVELOPE = json.dumps(GIVEN["envelope"]).encode()
RECIPIENT = bytes.fromhex(GIVEN["recipient_private"])
BAD = ("FL-BUNDLE-DAMAGED", "FL-BUNDLE-FORMAT")

HOSTILE = {
    "command": "$(id)", "newline": "se-1\n", "path": "../se-1", "escape": "\x1b[2J", "64 KiB": "a" * 65536,
    "upper case": "SE-1", "leading dash": "-se", "trailing dash": "se-", "64 characters": "a" * 64, "empty": "",
    "NUL": "se\0", "dot": "se.1", "look-alike": "ѕe-1", "white space": " se-1", "surrogate": "\ud800",
    "C1 control": "\x9b2J",
}


def changed(**changes: object) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def test_there_and_back() -> None:
    made = bundles.issue(ANCHOR, "engine", "se-7", Token.new(ANCHOR.hash), START + 600 * SECOND, 600)
    assert bundles.decode(made.encode()) == made
    assert made.expires_at == "2026-01-01T00:10:00Z"
    assert Token.decode(FIELDS["token"]) == BUNDLE.token
    assert BUNDLE.anchor == ANCHOR


CONTROLLER = FIELDS["controllers"][0]
OTHER_KEY = PrivateKey.from_seed(b"o" * 32).public.line
DAMAGE: dict[str, dict[str, object]] = {
    "another cluster": {"cluster_uuid": "6f1c2d3e-4a5b-4c6d-8e7f-0123456789ac"}, "no cluster": {"cluster_uuid": "x"},
    "cluster as number": {"cluster_uuid": 1}, "another role": {"role": "admin"}, "role as list": {"role": ["engine"]},
    "node as number": {"node": 7}, "no version": {"join_versions": []}, "one more version": {"join_versions": [1, 2]},
    "negative version": {"join_versions": [-1]}, "huge version": {"join_versions": [2**40]},
    "text as version": {"join_versions": ["1"]}, "true as version": {"join_versions": [True]},
    "nobody": {"controllers": []}, "twice": {"controllers": [CONTROLLER] * 2},
    "33": {"controllers": [CONTROLLER] * 33}, "a field more": {"controllers": [CONTROLLER | {"x": 1}]},
    "a field less": {"controllers": [{k: v for k, v in CONTROLLER.items() if k != "host_key"}]},
    "another host key": {"controllers": [CONTROLLER | {"host_key": OTHER_KEY}]},
    "key with comment": {"controllers": [CONTROLLER | {"host_key": CONTROLLER["host_key"] + " x"}]},
    "another address": {"controllers": [CONTROLLER | {"address": "192.0.2.66"}]},
    "address for a shell": {"controllers": [CONTROLLER | {"address": "$(id)"}]},
    "another port": {"controllers": [CONTROLLER | {"portal_port": 443}]},
    "port out of range": {"controllers": [CONTROLLER | {"portal_port": -1}]},
    "another TLS name": {"controllers": [CONTROLLER | {"tls_name": "portal.example"}]},
    "another name": {"controllers": [CONTROLLER | {"name": "ctl-2"}]},
    "no CA": {"ca_certificate": ""}, "CA twice": {"ca_certificate": FIELDS["ca_certificate"] * 2},
    "CA cut": {"ca_certificate": FIELDS["ca_certificate"][:-90]},
    "CA changed": {"ca_certificate": FIELDS["ca_certificate"].replace("MIIBmz", "MIIBnz")},
    "lifetime 0": {"lifetime_s": 0}, "lifetime 601": {"lifetime_s": 601}, "lifetime as text": {"lifetime_s": "600"},
    "format 0": {"fairlead_bundle": 0}, "format true": {"fairlead_bundle": True},
    "format text": {"fairlead_bundle": "1"},
    "expiry as number": {"expires_at": 1}, "unknown field": {"x": 1},
}


@pytest.mark.parametrize("what", DAMAGE)
def test_each_changed_field_is_found(what: str) -> None:
    assert denied(lambda: bundles.decode(changed(**DAMAGE[what]))) in BAD


@pytest.mark.parametrize("field", FIELDS)
def test_each_missing_field_is_found(field: str) -> None:
    less = json.dumps({k: v for k, v in FIELDS.items() if k != field}).encode()
    assert denied(lambda: bundles.decode(less)) == "FL-BUNDLE-FORMAT"


def test_every_byte_of_the_certificate_counts() -> None:
    """Whatever the library says of a broken certificate, it is a damaged bundle."""
    pem = FIELDS["ca_certificate"]
    for at in range(28, len(pem) - 27, 3):
        other = pem[:at] + ("B" if pem[at] == "A" else "A") + pem[at + 1:]
        assert denied(partial(bundles.decode, changed(ca_certificate=other))) in BAD, at


def test_the_token_of_another_cluster_is_found() -> None:
    other = Token.new(bytes(32)).encode()
    assert denied(lambda: bundles.decode(changed(token=other))) == "FL-BUNDLE-DAMAGED"
    assert denied(lambda: bundles.decode(changed(token=FIELDS["token"][:-1]))) == "FL-TOKEN-LENGTH"
    assert denied(lambda: bundles.decode(changed(token=FIELDS["token"][::-1]))) == "FL-TOKEN-PREFIX"


def test_cut_off_at_every_fiftieth_byte() -> None:
    for data in (TEXT, ENVELOPE, BUNDLE.encode()):
        for cut in [*range(0, len(data.rstrip()), 50), len(data.rstrip()) - 1]:
            assert denied(partial(bundles.decode, data[:cut])) == "FL-BUNDLE-FORMAT", cut
            assert denied(partial(bundles.is_sealed, data[:cut])) == "FL-BUNDLE-FORMAT", cut


@pytest.mark.parametrize("data", [
    b"null", b"[]", b'"x"', b"1", b"\xff\xfe\0", TEXT + b"{}", TEXT.replace(b'"role"', b'"role":"engine","role"'),
    TEXT.replace(b'"name"', b'"name":"ctl-2","name"'), b"[" * 60_000, b'{"a":' * 10_000, b"{}",
    TEXT[:-1] + b" " * (bundles.MOST_BYTES - len(TEXT) + 1) + b"}",
])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    assert denied(lambda: bundles.decode(data)) == "FL-BUNDLE-FORMAT"


def test_the_largest_is_read() -> None:
    padded = TEXT[:-1] + b" " * (bundles.MOST_BYTES - len(TEXT)) + b"}"
    assert len(padded) == 64 * 1024
    assert bundles.decode(padded) == BUNDLE


def test_a_newer_format_asks_for_an_upgrade_whatever_else_it_holds() -> None:
    assert denied(lambda: bundles.decode(b'{"fairlead_bundle":2,"new":[]}')) == "FL-BUNDLE-VERSION"
    newer = json.dumps(GIVEN["envelope"] | {"fairlead_sealed_bundle": 2}).encode()
    assert denied(lambda: bundles.unseal(newer, REQUEST, RECIPIENT)) == "FL-BUNDLE-VERSION"


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names_of_controllers_are_refused(what: str) -> None:
    """They are under the pin; but whoever makes a bundle of his own may not move a cursor with it."""
    anchor = replace(ANCHOR, controllers=(AnchorController(HOSTILE[what], "192.0.2.10", 8443,
                                                           "portal", ANCHOR.controllers[0].host_key),))
    pin = bytes(32) if what == "surrogate" else anchor.hash
    made = bundles.issue(anchor, "engine", "se-7", Token.new(pin), START, 600)
    assert denied(lambda: bundles.decode(made.encode())) in BAD


@pytest.mark.parametrize("name", [*HOSTILE.values(), "engines", "controllers"])
def test_hostile_node_names_are_refused(name: str) -> None:
    assert denied(lambda: bundles.decode(changed(node=name))) in BAD


def test_the_secret_shows_nowhere_but_in_the_file() -> None:
    shown = f"{BUNDLE!r} {BUNDLE} {bundles.summary(BUNDLE)}"
    assert BUNDLE.token.secret.hex() not in shown
    assert FIELDS["token"] not in shown
    for field in ("cluster_uuid", "lifetime_s"):
        with pytest.raises(Exception, match="bundle") as caught:
            bundles.decode(changed(**{field: [FIELDS["token"]]}))
        assert FIELDS["token"] not in "".join(map(str, (caught.value, caught.value.__cause__)))


# -- sealed -----------------------------------------------------------------------------------------------------------

def test_the_sealed_vector_opens() -> None:
    assert bundles.is_sealed(ENVELOPE)
    assert not bundles.is_sealed(TEXT)
    assert bundles.unseal(ENVELOPE, REQUEST, RECIPIENT) == BUNDLE


def test_a_sealed_bundle_opens_for_the_machine_that_asked_only() -> None:
    made = bundles.seal(BUNDLE, REQUEST, recipient_public(RECIPIENT))
    assert bundles.unseal(made, REQUEST, RECIPIENT) == BUNDLE
    assert BUNDLE.token.encode().encode() not in made
    assert denied(lambda: bundles.decode(made)) == "FL-BUNDLE-SEALED"
    assert denied(lambda: bundles.unseal(made, REQUEST, new_recipient())) == "FL-BUNDLE-DAMAGED"
    assert denied(lambda: bundles.unseal(made, REQUEST + b"x", RECIPIENT)) == "FL-BUNDLE-OTHER"


def test_a_sealed_bundle_that_was_changed_is_refused() -> None:
    envelope = GIVEN["envelope"]
    table: list[tuple[dict[str, object], str]] = [
        ({"sealed": flipped(envelope["sealed"])}, "FL-BUNDLE-DAMAGED"),
        ({"sealed": envelope["sealed"][:-8]}, "FL-BUNDLE-DAMAGED"), ({"sealed": ""}, "FL-BUNDLE-DAMAGED"),
        ({"sealed": envelope["sealed"] + "\n"}, "FL-BUNDLE-FORMAT"), ({"sealed": 1}, "FL-BUNDLE-FORMAT"),
        ({"request": flipped(envelope["request"])}, "FL-BUNDLE-OTHER"), ({"request": "x"}, "FL-BUNDLE-FORMAT"),
        ({"x": 1}, "FL-BUNDLE-FORMAT")]
    for change, code in table:
        data = json.dumps(envelope | change).encode()
        assert denied(partial(bundles.unseal, data, REQUEST, RECIPIENT)) == code, change


def test_what_was_sealed_for_another_request_does_not_open_under_its_name() -> None:
    other = json.loads(bundles.seal(BUNDLE, b"another request", recipient_public(RECIPIENT)))
    moved = json.dumps(GIVEN["envelope"] | {"sealed": other["sealed"]}).encode()
    assert denied(lambda: bundles.unseal(moved, REQUEST, RECIPIENT)) == "FL-BUNDLE-DAMAGED"


def test_role_node_and_times_are_not_under_the_pin_and_decide_nothing() -> None:
    """They say what to ask for; whether it is granted is the token's record at the portal (test_redeem)."""
    other: Bundle = bundles.decode(changed(role="controller", node=None, expires_at="2100-01-01", lifetime_s=1))
    assert (other.anchor, other.token) == (BUNDLE.anchor, BUNDLE.token)
