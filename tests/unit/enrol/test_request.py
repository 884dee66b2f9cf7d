"""The join request: its fingerprint is what two people compare."""

import json

import pytest

from fairlead.enrol.request import JoinRequest, decode
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.keys.wire import b64
from tests.unit.enrol.test_bundle import HOSTILE
from tests.world import VECTORS, denied

GIVEN = VECTORS["sealed_bundle"]
REQUEST = JoinRequest("engine", "se-7", PublicKey.from_line(VECTORS["keys"]["joiner_host"]["ssh"]),
                      PublicKey.from_line(VECTORS["keys"]["joiner_user"]["ssh"]),
                      bytes.fromhex(GIVEN["recipient_public"]))
FIELDS = json.loads(REQUEST.file())


def test_vector() -> None:
    assert REQUEST.encoded().hex() == GIVEN["request_encoded"]
    assert REQUEST.fingerprint == GIVEN["request_fingerprint"]
    assert REQUEST.keys_hash.hex() == GIVEN["bound_keys_hash"]
    assert decode(REQUEST.file()) == REQUEST


@pytest.mark.parametrize("change", [
    {"host_key": PrivateKey.from_seed(b"o" * 32).public.line},
    {"user_key": PrivateKey.from_seed(b"o" * 32).public.line}, {"recipient": b64(b"r" * 32)}, {"node": "se-8"},
    {"role": "controller"}])
def test_every_change_changes_the_fingerprint(change: dict[str, str]) -> None:
    assert decode(json.dumps(FIELDS | change).encode()).fingerprint != REQUEST.fingerprint


@pytest.mark.parametrize("data", [
    b"", b"null", b"[]", b"{}", b"[" * 8000, b" " * 8193, REQUEST.file()[:-3],
    *(json.dumps(FIELDS | change).encode() for change in (
        {"fairlead_join_request": 2}, {"x": 1}, {"role": "admin"}, {"node": None},
        {"host_key": FIELDS["user_key"]}, {"host_key": FIELDS["host_key"] + " x"}, {"user_key": "ssh-ed25519 AAAA"},
        {"recipient": b64(bytes(31))}, {"recipient": "x"}))])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    assert denied(lambda: decode(data)) == "FL-REQUEST"


@pytest.mark.parametrize("name", [*HOSTILE.values(), "engines", "controllers"])
def test_hostile_names_are_refused(name: str) -> None:
    data = json.dumps(FIELDS | {"node": name}).encode()
    assert denied(lambda: decode(data)) in ("FL-NAME", "FL-REQUEST")
