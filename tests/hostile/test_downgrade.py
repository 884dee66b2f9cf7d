"""Nobody in between, and nobody at the other end, brings a node to an older version or to weaker cryptography.

What the ports and the dialler refuse of those who ask for it is tested with them
(`tests/unit/portal/test_listener.py`, `tests/unit/pki/test_verify.py`, `tests/unit/transport/test_login.py`,
`tests/interop`). Here somebody edits what two honest ends say to each other, and a weak server stands where a
Controller should.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fairlead.base.errors import Refused
from fairlead.enrol import bundle as bundles
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.token import Token
from fairlead.transport.dialler import dial
from fairlead.transport.way import Stock
from tests.hostile.between import Way, swap
from tests.hostile.wire import Wire, open_wire
from tests.unit.transport.world import ALICE, CLOCK, HOST_KEY, PATIENT, peer_of, world
from tests.world import refusal


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    async with open_wire(tmp_path, monkeypatch) as opened:
        yield opened


EDITS: dict[str, tuple[str, tuple[Way, ...], bytes, bytes]] = {
    "TLS 1.3 from the client's versions": ("portal", ("there",), b"\0\x2b\0\3\2\3\4", b"\0\x2b\0\3\2\3\3"),
    "TLS 1.3 from the server's choice": ("portal", ("back",), b"\0\x2b\0\2\3\4", b"\0\x2b\0\2\3\3"),
    "the strongest TLS cipher": ("portal", ("there",), b"\x13\2\x13\3\x13\1", b"\x13\1\x13\1\x13\1"),
    "SSH 2 from the client": ("ssh", ("there",), b"SSH-2.0-", b"SSH-1.5-"),
    "SSH 2 from the server": ("ssh", ("back",), b"SSH-2.0-", b"SSH-1.5-"),
    "the strongest key exchange": ("ssh", ("there", "back"), b"mlkem768x25519-sha256", b"mlkem768x25519-sha000"),
    "the strongest key exchange from the client": ("ssh", ("there",), b"mlkem768x25519-sha256",
                                                   b"mlkem768x25519-sha000"),
    "strict key exchange from the client": ("ssh", ("there",), b"kex-strict-c-v00@", b"kex-strict-c-v99@"),
    "strict key exchange from the server": ("ssh", ("back",), b"kex-strict-s-v00@", b"kex-strict-s-v99@"),
    "the strongest cipher from the server": ("ssh", ("back",), b"aes256-gcm@", b"aes000-gcm@"),
    "the strongest cipher": ("ssh", ("there", "back"), b"aes256-gcm@", b"aes000-gcm@"),
}
"""What he takes away: at which port, which way, and what he puts in its place."""


@pytest.mark.parametrize("what", EDITS)
async def test_a_conversation_in_which_he_edits_what_is_offered_comes_to_nothing(wire: Wire, what: str) -> None:
    """Both ends sign, or authenticate, what they have heard. The next conversation, which he leaves alone, is one at
    full strength."""
    where, ways, old, new = EDITS[what]
    between = wire.portal if where == "portal" else wire.ssh
    between.harm = swap(ways, old, new)
    bundle = await wire.world.export()
    await wire.join("se-1", bundle)
    wire.joined("se-1")
    edited, whole = between.conversations
    assert edited.changed
    assert not whole.changed
    assert await wire.world.events(bundle.token.id.hex()) == ["token.issued", "join.reserved", "join.committed"]


def rsa() -> asyncssh.SSHKey:
    key = generate_private_key(65537, 2048)
    return asyncssh.import_private_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


WEAK: dict[str, dict[str, Any]] = {
    "key exchange": {"kex_algs": ["diffie-hellman-group14-sha256", "ecdh-sha2-nistp256"]},
    "cipher": {"encryption_algs": ["aes256-ctr", "aes128-cbc"]},
    "cipher that Terrapin cuts": {"encryption_algs": ["chacha20-poly1305@openssh.com"]},
    "MAC": {"encryption_algs": ["aes256-ctr"], "mac_algs": ["hmac-sha1", "hmac-md5"]},
    "host key": {"server_host_keys": rsa},
}


@pytest.mark.parametrize("what", WEAK)
async def test_a_server_that_knows_weak_cryptography_only_hears_no_name_and_no_key(what: str) -> None:
    met: list[str] = []

    class Rogue(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            met.append(username)
            return True

    keys = {"server_host_keys": [asyncssh.import_private_key(HOST_KEY.openssh())]}
    weak = {name: [value()] if callable(value) else value for name, value in WEAK[what].items()}
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=Rogue, **(keys | weak))
    async with server:
        with pytest.raises(Refused) as caught:
            await dial("127.0.0.1", server.get_port(), peer=peer_of("alice", ALICE), key=ALICE,
                       host_keys=[HOST_KEY.public], keepalive=PATIENT, clock=CLOCK, way=Stock())
    assert caught.value.code == "FL-SSH-WEAK"
    assert met == []


async def test_who_speaks_the_first_ssh_is_cut_without_an_answer() -> None:
    async with world() as w:
        reader, writer = await w.connect(w.port)
        writer.write(b"SSH-1.5-OpenSSH_1.2.3\r\n" + bytes(64))
        async with asyncio.timeout(10):
            heard = await reader.read(-1)
        assert heard.startswith(b"SSH-2.0-fairlead\r\n")
        assert w.door.asked == []


async def test_the_versions_of_the_protocol_are_the_pins_word(wire: Wire) -> None:
    """A bundle whose list somebody edits is none; one that pins versions which we do not speak calls nobody."""
    bundle = await wire.world.export()
    for versions in ([0], [0, 1], [1, 1], [1, 2], [2]):
        edited = json.dumps(json.loads(bundle.encode()) | {"join_versions": versions}).encode()
        with pytest.raises(Refused) as caught:
            bundles.decode(edited)
        assert caught.value.code == "FL-BUNDLE-DAMAGED"

    def pinned(*versions: int) -> Bundle:
        anchor = replace(bundle.anchor, join_versions=versions)
        return replace(bundle, anchor=anchor, token=Token.new(anchor.hash))

    for unknown in (pinned(0), pinned(2, 3), pinned(2**32 - 1)):
        assert await refusal(wire.join("se-1", unknown)) == "FL-BUNDLE-JOIN-VERSION"
    assert wire.portal.conversations == []
