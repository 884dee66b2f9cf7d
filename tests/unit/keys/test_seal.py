"""Sealed bytes open for their key and their purpose, and for nothing else."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import Refused
from fairlead.keys.seal import hpke_open, hpke_seal, new_key, new_recipient, recipient_public, seal, unseal

VECTORS = Path(__file__).parents[2] / "vectors" / "join-v1.json"


def test_what_was_sealed_opens_and_hides_its_content() -> None:
    key = new_key()
    sealed = seal(key, b"a private key", "pki/root")
    assert unseal(key, sealed, "pki/root") == b"a private key"
    assert b"private" not in sealed
    assert seal(key, b"a private key", "pki/root") != sealed  # a nonce is never used twice


def test_every_changed_bit_is_noticed() -> None:
    key = new_key()
    sealed = seal(key, b"secret", "p")
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(Refused) as refused:
            unseal(key, bytes(changed), "p")
        assert refused.value.code == "FL-SEAL-BROKEN"


def test_a_sealed_key_copied_to_another_place_does_not_open() -> None:
    key = new_key()
    with pytest.raises(Refused, match="purpose"):
        unseal(key, seal(key, b"secret", "cluster-key:ctl-1"), "cluster-key:ctl-2")


@pytest.mark.parametrize("length", range(30))
def test_what_is_cut_short_is_refused(length: int) -> None:
    key = new_key()
    with pytest.raises(Refused):
        unseal(key, seal(key, b"x", "p")[:length], "p")


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31)])
def test_a_short_key_neither_seals_nor_opens(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal(key, b"x", "p")  # a key of 16 bytes would silently be AES-128
    with pytest.raises(Refused):
        unseal(key, seal(new_key(), b"x", "p"), "p")


def test_the_sealed_bundle_of_the_vectors_opens() -> None:
    vector: dict[str, Any] = json.loads(VECTORS.read_text())["sealed_bundle"]
    private, info = bytes.fromhex(vector["recipient_private"]), bytes.fromhex(vector["info"])
    assert recipient_public(private).hex() == vector["recipient_public"]
    sealed = base64.b64decode(vector["envelope"]["sealed"])
    assert hpke_open(private, info, sealed) == vector["bundle_text"].encode()


def test_only_the_recipient_opens_and_only_with_the_same_info() -> None:
    recipient = new_recipient()
    sealed = hpke_seal(recipient_public(recipient), b"request 1", b"bundle")
    assert hpke_open(recipient, b"request 1", sealed) == b"bundle"
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for private, info, data in ((new_recipient(), b"request 1", sealed), (recipient, b"request 2", sealed),
                                (recipient, b"request 1", flipped), (recipient, b"request 1", sealed[:20]),
                                (recipient, b"request 1", bytes(32) + sealed[32:]), (b"short", b"request 1", sealed)):
        with pytest.raises(Refused) as refused:
            hpke_open(private, info, data)
        assert refused.value.code == "FL-SEAL-BROKEN"


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), (1).to_bytes(32, "little")])
def test_nothing_is_sealed_to_a_key_that_everybody_holds(public: bytes) -> None:
    with pytest.raises(Refused):
        hpke_seal(public, b"", b"bundle")
