"""Packets of one direction, with the SSH library's own AES-GCM as the oracle."""

import os

import asyncssh
import pytest
from asyncssh.encryption import GCMEncryption
from hypothesis import given
from hypothesis import strategies as st

from fairlead.transport.accelerated.packets import (
    BLOCK,
    DATA_AT,
    HEAD,
    OVERHEAD,
    TAG,
    Opener,
    Padding,
    Sealer,
    padding_length,
)

KEY, IV = bytes(range(32)), bytes(range(100, 112))
MOST = 140_000
LENGTHS = [*range(40), 255, 256, 257, 16_383, 16_384, 32_768, 65_535, 65_536, 131_071, 131_072]


def oracle(iv: bytes = IV) -> GCMEncryption:
    return GCMEncryption.new("aes256-gcm", KEY, iv)


def packet(payload: bytes) -> bytes:
    """Padded, as the library pads it."""
    length = padding_length(len(payload))
    return bytes((length,)) + payload + os.urandom(length)


def opened(opener: Opener, wire: bytes, most: int = MOST) -> bytes:
    """What is in one packet; empty when more is needed."""
    plain = memoryview(bytearray(MOST))
    length = opener.open(memoryview(wire), 0, len(wire), plain, most)
    return bytes(plain[1:length - plain[0]]) if length else b""


@pytest.mark.parametrize("length", LENGTHS)
def test_what_we_seal_the_library_opens_and_the_other_way_round(length: int) -> None:
    theirs, sealer, payload = oracle(), Sealer(KEY, IV, Padding()), b"\x5a" + os.urandom(length)
    for _ in range(3):
        wire = sealer.seal_payload(payload)
        assert (len(wire) - HEAD - TAG) % BLOCK == 0
        plain = theirs.decrypt_packet(0, wire[:16], wire[16:-TAG], HEAD, wire[-TAG:])
        assert plain
        assert plain[1:-plain[0]] == payload
        assert plain[0] >= 4
    theirs, opener = oracle(), Opener(KEY, IV)
    for _ in range(3):
        made = packet(payload)
        sealed, tag = theirs.encrypt_packet(0, len(made).to_bytes(4, "big"), made)
        assert opened(opener, sealed + tag) == payload


@pytest.mark.parametrize("size", [1, 5, 6, 7, 21, 22, 23, 65_536, 131_072])
def test_data_is_sealed_in_place(size: int) -> None:
    data, out = os.urandom(size), memoryview(bytearray(size + DATA_AT + OVERHEAD + 7))
    plain = memoryview(bytearray(size + DATA_AT + OVERHEAD))
    plain[DATA_AT:DATA_AT + size] = data
    end = Sealer(KEY, IV, Padding()).seal_data(7, plain, size, out, 7)
    payload = opened(Opener(KEY, IV), bytes(out[7:end]))
    assert payload == b"\x5e" + (7).to_bytes(4, "big") + size.to_bytes(4, "big") + data


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), st.data())
def test_packets_may_be_cut_anywhere(payloads: list[bytes], draw: st.DataObject) -> None:
    sealer, opener = Sealer(KEY, IV, Padding()), Opener(KEY, IV)
    stream, got, held = b"".join(map(sealer.seal_payload, payloads)), [], b""
    while stream:
        cut = draw.draw(st.integers(1, len(stream)))
        held, stream = held + stream[:cut], stream[cut:]
        while payload := opened(opener, held):
            got.append(payload)
            held = held[HEAD + int.from_bytes(held[:HEAD], "big") + TAG:]
    assert (got, held) == (payloads, b"")


def test_each_flipped_bit_is_noticed() -> None:
    wire = Sealer(KEY, IV, Padding()).seal_payload(b"\x5e" + bytes(40))
    for bit in range(8 * len(wire)):
        flipped = bytearray(wire)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((asyncssh.MACError, asyncssh.ProtocolError)):  # a longer one fails when the rest has come
            opened(Opener(KEY, IV), bytes(flipped) + bytes(MOST))


@pytest.mark.parametrize("length", [0, 1, 15, 17, 140_016, 1 << 31, (1 << 32) - 16])
def test_a_forbidden_length_is_refused_before_anything_more_is_awaited(length: int) -> None:
    with pytest.raises(asyncssh.ProtocolError):
        opened(Opener(KEY, IV), length.to_bytes(4, "big"), 140_000)


@pytest.mark.parametrize("padding", [0, 3, 15, 16, 255])
def test_forbidden_padding_is_refused(padding: int) -> None:
    sealed, tag = oracle().encrypt_packet(0, (16).to_bytes(4, "big"), bytes((padding,)) + bytes(15))
    with pytest.raises(asyncssh.ProtocolError):
        opened(Opener(KEY, IV), sealed + tag)


def test_no_nonce_and_no_padding_is_used_twice() -> None:
    sealer = Sealer(KEY, IV[:4] + b"\xff" * 7 + b"\xfe", Padding())
    assert len({sealer.seal_payload(b"the same") for _ in range(100)}) == 100
    assert len({sealer._nonce() for _ in range(100)}) == 100
    padding = Padding()
    taken = [padding.take(16) for _ in range(2000)]
    assert len(set(taken)) == len(taken)
    assert {len(one) for one in taken} == {16}
