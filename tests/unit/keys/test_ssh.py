"""Keys and proofs: the vectors, the keys that everybody "holds", and signatures shown where they do not belong."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fairlead.enrol.exchange import HOST_NAMESPACE, SERVER_NAMESPACE, USER_NAMESPACE
from fairlead.enrol.token import NAMESPACE as TOKEN_NAMESPACE
from fairlead.keys.ssh import KeyRefused, PrivateKey, PublicKey, armoured, signed_form, verifies
from fairlead.keys.wire import b64, from_b64, string
from tests.world import VECTORS

PRIME = 2**255 - 19
NAMESPACES = {"token": TOKEN_NAMESPACE, "host": HOST_NAMESPACE, "user": USER_NAMESPACE, "server": SERVER_NAMESPACE}


def blob(raw: bytes) -> bytes:
    return string("ssh-ed25519") + string(raw)


@pytest.mark.parametrize("name", ["controller_host", "joiner_host", "joiner_user"])
def test_the_vectors_of_keys(name: str) -> None:
    given = VECTORS["keys"][name]
    private = PrivateKey.from_seed(bytes.fromhex(given["seed"]))
    assert private.public.raw.hex() == given["public"]
    assert private.public.line == given["ssh"]
    assert private.public.fingerprint == given["fingerprint"]
    assert PublicKey.from_line(given["ssh"]) == private.public
    assert PrivateKey.from_openssh(private.openssh()).public == private.public


@pytest.mark.parametrize("raw", VECTORS["ed25519_public_keys_to_refuse"]["keys"])
def test_keys_of_small_order_are_refused(raw: str) -> None:
    with pytest.raises(KeyRefused, match=r"small order|canonical"):
        PublicKey.from_blob(blob(bytes.fromhex(raw)))
    with pytest.raises(KeyRefused):
        PublicKey.from_line(f"ssh-ed25519 {b64(blob(bytes.fromhex(raw)))}")


def test_why_they_are_refused() -> None:
    everybody = bytes.fromhex("01" + "00" * 31)
    Ed25519PublicKey.from_public_bytes(everybody).verify(b"\1" + bytes(63), b"whatever")  # accepted, without any key


@pytest.mark.parametrize("y", [*range(PRIME, 2**255)])
@pytest.mark.parametrize("sign", [0, 1])
def test_keys_that_are_not_canonical_are_refused(y: int, sign: int) -> None:
    with pytest.raises(KeyRefused, match="canonical"):
        PublicKey.from_blob(blob((y | sign << 255).to_bytes(32, "little")))


def test_the_neighbours_of_refused_keys_are_keys() -> None:
    for y in (2, 3, PRIME - 2):
        PublicKey.from_blob(blob(y.to_bytes(32, "little")))


GOOD = VECTORS["keys"]["joiner_host"]["ssh"]


@pytest.mark.parametrize("line", [
    "", "ssh-ed25519", "ssh-ed25519 ", GOOD + " a comment", GOOD + "\n", " " + GOOD, GOOD.replace(" ", "  "),
    GOOD.replace("ssh-ed25519", "ssh-rsa"), GOOD.replace("ssh-ed25519", "SSH-ED25519"), GOOD[:-4], GOOD + "AAAA",
    GOOD.replace("AAAAC3Nz", "AAAAC3N\n"), "ssh-ed25519 " + b64(string("ssh-rsa") + string(bytes(36))),
    "ssh-ed25519 " + b64(string("ssh-ed25519") + string(bytes(31) + b"\2") + b"\0"),
    "ssh-ed25519 " + b64(string("ssh-ed25519") + string(bytes(28) + b"\2")), "ssh-ed25519 \ud800",
])
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(KeyRefused):
        PublicKey.from_line(line)


@pytest.mark.parametrize("pem", [
    b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"])
def test_what_is_no_private_key_is_refused(pem: bytes) -> None:
    with pytest.raises(KeyRefused):
        PrivateKey.from_openssh(pem)


@pytest.mark.parametrize("confusion", VECTORS["namespace_confusion_must_fail"])
def test_a_proof_is_good_in_its_own_namespace_only(confusion: str) -> None:
    shown, _, _, claimed, _ = confusion.split()
    join = VECTORS["joins"][0]
    transcript, proof = bytes.fromhex(join["transcript"]), from_b64(join["request"][f"{shown}_proof"])
    key = PublicKey.from_blob(bytes.fromhex(join["fields"][f"{shown}_key"]))
    assert key.verifies(NAMESPACES[shown], transcript, proof)
    assert not key.verifies(NAMESPACES[claimed], transcript, proof)


def test_a_proof_is_good_for_its_own_bytes_only() -> None:
    key = PrivateKey.generate()
    proof = key.sign("n", b"message")
    assert key.public.verifies("n", b"message", proof)
    assert not PrivateKey.generate().public.verifies("n", b"message", proof)
    for other in (b"", proof[:-1], proof + b"\0", bytes(64), bytes([proof[0] ^ 1]) + proof[1:]):
        assert not key.public.verifies("n", b"message", other)
    assert not verifies(b"", signed_form("n", b"message"), proof)


def test_no_signature_of_one_protocol_is_one_of_another() -> None:
    """By first bytes or length: SSH log-in and key exchange, SSHSIG, RFC 9421 (join protocol, section 1)."""
    facts = VECTORS["domain_separation"]
    ours = [signed_form(namespace, b"") for namespace in NAMESPACES.values()]
    assert {form[:4].hex() for form in ours} == {facts["sshsig"]}
    login = string(hashlib.sha256().digest()) + b"\x32" + string("aviseuser") + string("ssh-connection")
    assert login[:4].hex() == facts["ssh_userauth"]
    assert string(hashlib.sha512().digest())[:3] == login[:3] == bytes(3)
    base = VECTORS["http"]["request"]["signature_base"].encode()
    assert base[:4].hex() == facts["rfc9421"]
    assert VECTORS["http"]["response"]["signature_base"].encode()[:2] == base[:2]
    assert min(*map(len, ours), len(base)) >= facts["shortest"] > 64  # an exchange hash has at most 64 bytes


def test_the_private_key_stays_out_of_sight() -> None:
    key = PrivateKey.generate()
    shown = repr(key) + str(key) + f"{key}"
    assert shown == f"PrivateKey({key.public.fingerprint})" * 3


def test_the_armour_holds_exactly_the_signature() -> None:
    key = PrivateKey.generate()
    proof = key.sign("n", b"m")
    lines = armoured(key.public, "n", proof).splitlines()
    assert (lines[0], lines[-1]) == ("-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----")
    assert max(map(len, lines)) <= 76
    body = base64.b64decode("".join(lines[1:-1]), validate=True)
    assert body.startswith(b"SSHSIG\0\0\0\1" + string(key.public.blob))
    assert body.endswith(proof)
