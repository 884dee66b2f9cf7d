"""OpenSSH's own tool reads our keys and proofs."""

import subprocess
from pathlib import Path

import pytest

from fairlead.enrol.exchange import HOST_NAMESPACE, SERVER_NAMESPACE, USER_NAMESPACE
from fairlead.keys.ssh import PrivateKey, armoured
from tests.conftest import need

MESSAGE = b"a transcript\0with a zero"


def run(*args: str | Path, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    need("ssh-keygen")
    return subprocess.run(["ssh-keygen", *map(str, args)], input=text, capture_output=True, check=False, timeout=30)


@pytest.fixture
def key() -> PrivateKey:
    return PrivateKey.generate()


def test_fingerprint(key: PrivateKey, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(key.public.line + "\n")
    shown = run("-l", "-f", tmp_path / "key.pub")
    assert shown.stdout.decode().split()[1] == key.public.fingerprint


def test_private_key_file(key: PrivateKey, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(key.openssh())
    assert run("-y", "-f", path).stdout.decode().split()[:2] == key.public.line.split()


def test_its_private_keys_are_read(tmp_path: Path) -> None:
    assert run("-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key").returncode == 0
    read = PrivateKey.from_openssh((tmp_path / "key").read_bytes())
    assert (tmp_path / "key.pub").read_text().startswith(read.public.line)


@pytest.mark.parametrize("namespace", [HOST_NAMESPACE, USER_NAMESPACE, SERVER_NAMESPACE])
def test_a_proof_verifies_under_its_namespace_and_no_other(key: PrivateKey, tmp_path: Path, namespace: str) -> None:
    (tmp_path / "signature").write_text(armoured(key.public, namespace, key.sign(namespace, MESSAGE)))
    (tmp_path / "allowed").write_text(f"node {key.public.line}\n")

    def verify(name: str, message: bytes) -> int:
        return run("-Y", "verify", "-f", tmp_path / "allowed", "-I", "node", "-n", name, "-s", tmp_path / "signature",
                   text=message).returncode

    assert verify(namespace, MESSAGE) == 0
    assert verify(namespace + "x", MESSAGE) != 0
    assert verify(namespace, MESSAGE + b"x") != 0


def test_its_signatures_are_ours(key: PrivateKey, tmp_path: Path) -> None:
    """Ed25519 is deterministic: the tool makes the very same file."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(key.openssh())
    made = run("-Y", "sign", "-q", "-f", path, "-n", USER_NAMESPACE, text=MESSAGE)
    assert made.stdout.decode() == armoured(key.public, USER_NAMESPACE, key.sign(USER_NAMESPACE, MESSAGE))
