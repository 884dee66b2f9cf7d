"""Lines of a ``known_hosts`` file are as OpenSSH reads them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fairlead.api.mesh import describe_known_hosts
from fairlead.keys.ssh import PrivateKey

PRESENT, NEXT = (PrivateKey.generate().public for _ in range(2))


def test_each_address_stands_with_each_key_and_once() -> None:
    rows = describe_known_hosts("ctl-1", ["192.0.2.10", "ctl-1.example.com", "192.0.2.10"], 2222, [PRESENT, NEXT])
    assert [row["line"] for row in rows] == [
        f"[192.0.2.10]:2222 {PRESENT.line}", f"[192.0.2.10]:2222 {NEXT.line}",
        f"[ctl-1.example.com]:2222 {PRESENT.line}", f"[ctl-1.example.com]:2222 {NEXT.line}"]
    assert rows[1] | {"line": ""} == {"name": "ctl-1", "address": "192.0.2.10", "port": 2222, "host_key": NEXT.line,
                                      "fingerprint": NEXT.fingerprint, "line": ""}


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no OpenSSH")
@pytest.mark.parametrize(("address", "port", "asked"), [
    ("192.0.2.10", 22, "192.0.2.10"), ("192.0.2.10", 2222, "[192.0.2.10]:2222"), ("2001:db8::1", 22, "2001:db8::1"),
    ("2001:db8::1", 2222, "[2001:db8::1]:2222"), ("ctl-1.example.com", 22, "ctl-1.example.com")])
def test_openssh_finds_them(address: str, port: int, asked: str, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("".join(
        f"{row['line']}\n" for row in describe_known_hosts("ctl-1", [address], port, [PRESENT])))
    found = subprocess.run(["ssh-keygen", "-l", "-F", asked, "-f", tmp_path / "known"], capture_output=True, text=True,
                           check=True)
    assert PRESENT.fingerprint in found.stdout
