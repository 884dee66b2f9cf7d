"""A stock OpenSSH client with an engine's key at a running Controller gets what that engine may reach, and no more."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import need
from tests.processes import DEADLINE_S, Daemon, Site, ask, connect, echo, free_port, listens, serving, until

DENIED = "Permission denied (publickey,keyboard-interactive,password)."
pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


@dataclass(frozen=True)
class Shore:
    folder: Path
    controller: Daemon
    engine: Daemon
    granted: int
    """The service's port at the Controller's internal address."""
    private: int
    """A service's that engines may not reach."""

    def ssh(self, *options: object, user: str = "aviseuser", key: Path | None = None,
            command: tuple[str, ...] = ()) -> list[str]:
        """OpenSSH with the engine's key, the Controller's pinned host key, and nothing of this machine's settings."""
        known = self.folder / "known_hosts"
        host_key = (self.controller.state / "keys" / "host.pub").read_text()
        known.write_text(f"[127.0.0.1]:{self.controller.ports['ssh']} {host_key}")
        fixed = [f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes",
                 "IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", "ExitOnForwardFailure=yes"]
        return ["ssh", "-F", "none", *(part for option in fixed for part in ("-o", option)),
                "-i", str(key or self.engine.state / "keys" / "user"), "-p", str(self.controller.ports["ssh"]),
                *map(str, options), f"{user}@127.0.0.1", *command]

    def run(self, *options: object, **more: object) -> "subprocess.CompletedProcess[str]":
        """One such client to its end."""
        return subprocess.run(self.ssh(*options, **more), capture_output=True, text=True,  # type: ignore[arg-type]
                              timeout=DEADLINE_S, check=False, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def shore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shore]:
    need("ssh", "ssh-keygen")
    folder = tmp_path_factory.mktemp("shore")
    with Site(folder) as site, serving(echo) as target:
        controller = site.controller()
        engine = site.join(controller, "se-1")
        ports = free_port(), free_port()
        for name, port, allow in (("granted", ports[0], "engines"), ("private", ports[1], "controllers")):
            controller.cli("service", "add", name, "--node", "ctl", "--port", port, "--target", f"127.0.0.1:{target}",
                           "--allow", allow).done()
        yield Shore(folder, controller, engine, *ports)


def test_a_granted_service_carries_bytes(shore: Shore) -> None:
    local, content = free_port(), os.urandom(2_000_003)
    with subprocess.Popen(shore.ssh("-N", "-L", f"127.0.0.1:{local}:127.64.0.1:{shore.granted}"),
                          stdin=subprocess.DEVNULL) as client:
        try:
            until(lambda: listens("127.0.0.1", local), "ssh listens")
            with connect("127.0.0.1", local) as sock:
                for part in (content[:1_000_000], content[1_000_000:]):
                    sock.sendall(part)
                    received = b""
                    while len(received) < len(part):
                        received += sock.recv(65536)
                    assert received == part
            assert ask("127.0.0.1", local, b"and the end") == b"and the end"
        finally:
            client.terminate()


@pytest.mark.parametrize("host", ["127.64.0.1", "127.0.0.1", "127.64.1.0", "169.254.169.254", "localhost", "granted"])
def test_nothing_else_is_reached(shore: Shore, host: str) -> None:
    """Neither what was not granted, nor the target itself, nor another engine, nor a service by another's port."""
    refused = shore.run("-W", f"{host}:{shore.private}")
    assert refused.returncode == 255
    assert "administratively prohibited" in refused.stderr or "open failed" in refused.stderr, refused.stderr


@pytest.mark.parametrize("user", ["root", "admin", "cli", "avictlruser", "nobody-at-all"])
def test_the_key_is_good_for_its_own_user_only(shore: Shore, user: str) -> None:
    refused = shore.run("-N", user=user)
    assert (refused.returncode, DENIED in refused.stderr) == (255, True), refused.stderr


def test_a_strangers_key_and_the_nodes_host_key_are_nobody(shore: Shore) -> None:
    key = shore.folder / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for wrong in (key, shore.engine.state / "keys" / "host"):
        refused = shore.run("-N", key=wrong)
        assert (refused.returncode, DENIED in refused.stderr) == (255, True), refused.stderr


@pytest.mark.parametrize("options", [("-R", "0:127.0.0.1:22"), ("-R", "127.64.0.1:2222:127.0.0.1:22")], ids=str)
def test_no_listener_that_is_not_declared(shore: Shore, options: tuple[str, ...]) -> None:
    refused = shore.run("-N", *options)
    assert refused.returncode == 255
    assert "remote port forwarding failed" in refused.stderr


def test_no_shell_no_command_no_file_transfer(shore: Shore) -> None:
    for options, command in (((), ("id",)), (("-tt",), ()), (("-s",), ("sftp",))):
        tried = shore.run(*options, command=command)
        assert (tried.returncode, tried.stdout) == (255, "") or tried.returncode == 1, tried
        assert "uid=" not in tried.stdout


def test_what_is_negotiated(shore: Shore) -> None:
    said = shore.run("-vvv", "-W", f"127.64.0.1:{shore.granted}").stderr.replace("\r", "")
    assert "will use strict KEX ordering" in said
    ciphers = [line for line in said.splitlines() if "cipher:" in line]
    assert len(ciphers) == 2
    assert all("gcm@openssh.com" in line for line in ciphers)
    methods = {line.partition("can continue: ")[2] for line in said.splitlines() if "can continue: " in line}
    assert methods == {"publickey,keyboard-interactive,password"}
    assert "host key algorithm: ssh-ed25519" in said
    assert "Remote protocol version 2.0, remote software version fairlead" in said


@pytest.mark.parametrize("weak", ["Ciphers=aes256-ctr", "Ciphers=chacha20-poly1305@openssh.com",
                                  "KexAlgorithms=diffie-hellman-group14-sha256", "HostKeyAlgorithms=rsa-sha2-512"])
def test_nothing_weaker_is_negotiated(shore: Shore, weak: str) -> None:
    refused = shore.run("-N", "-o", weak)
    assert (refused.returncode, "Unable to negotiate" in refused.stderr) == (255, True), refused.stderr
