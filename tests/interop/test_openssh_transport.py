"""The stock OpenSSH client at our door: what is declared works, all else is refused, and the algorithms are ours."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from fairlead.keys.ssh import PrivateKey
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Target
from fairlead.transport.server import ServerConnection
from tests.unit.transport.conftest import way_of_streams
from tests.unit.transport.world import ALICE, BOB, HOST_KEY, World, bound, echo, peer_of, world

__all__ = ["way_of_streams"]
pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="no OpenSSH client")
HOST, PORT = "127.64.0.1", 5432


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        made.door.targets[HOST, PORT] = Target("127.0.0.1", await made.serve(echo), "db")
        made.door.targets["db", PORT] = made.door.targets[HOST, PORT]
        yield made


class Ssh:
    """An ssh process and what it wrote on standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def says(self, pattern: str) -> str:
        """Read until a line matches, or the end."""
        assert self.process.stderr
        async with asyncio.timeout(15):
            while line := (await self.process.stderr.readline()).decode(errors="replace"):
                self.said += line
                if re.search(pattern, line):
                    return line
        raise AssertionError(f"ssh never said {pattern}:\n{self.said}")

    async def ends(self) -> int:
        assert self.process.stderr
        async with asyncio.timeout(15):
            self.said += (await self.process.stderr.read()).decode(errors="replace")
            return await self.process.wait()


class Start(Protocol):
    """Starts ssh."""

    async def __call__(self, *arguments: str, user: str = "aviseuser", key: str = "alice",
                       command: str = "") -> Ssh: ...


@pytest.fixture
async def ssh(w: World, tmp_path: Path) -> AsyncIterator[Start]:
    for name, key in (("alice", ALICE), ("bob", BOB)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes(key.openssh())
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{w.port} {HOST_KEY.public.line}\n")
    started: list[Ssh] = []

    async def start(*arguments: str, user: str = "aviseuser", key: str = "alice", command: str = "") -> Ssh:
        process = await asyncio.create_subprocess_exec(
            "ssh", "-F", "/dev/null", "-vvv", "-p", str(w.port), "-i", str(tmp_path / key), "-l", user,
            "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={tmp_path / 'known_hosts'}", "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", "ExitOnForwardFailure=yes", *arguments, "127.0.0.1", *command.split(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C"})
        started.append(Ssh(process))
        return started[-1]

    yield start
    for each in started:
        if each.process.returncode is None:
            each.process.kill()
        await each.process.communicate()


def free_port() -> int:
    sock = bound()
    port = int(sock.getsockname()[1])
    sock.close()
    return port


async def test_a_declared_service_by_address_and_by_name_and_nothing_else(w: World, ssh: Start) -> None:
    by_address, by_name, other, local = (free_port() for _ in range(4))
    client = await ssh("-N", "-L", f"{by_address}:{HOST}:{PORT}", "-L", f"{by_name}:db:{PORT}",
                       "-L", f"{other}:127.0.0.1:{w.port}", "-L", f"{local}:/run/docker.sock")
    await client.says(r"Entering interactive session")
    data = bytes(range(256)) * 4096
    for port in (by_address, by_name):
        reader, writer = await w.connect(port)
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(20):
            assert await reader.read(-1) == data
    for port in (other, local):
        reader, _ = await w.connect(port)
        async with asyncio.timeout(10):
            assert await reader.read(-1) == b""
        await client.says(r"open failed: administratively prohibited: refused")
    assert w.door.tunnels[0].streams == 0
    assert w.door.tunnels[0].bytes_in == w.door.tunnels[0].bytes_out == 2 * len(data)


async def test_what_is_negotiated(w: World, ssh: Start) -> None:
    client = await ssh("-N", "-c", "aes256-gcm@openssh.com,chacha20-poly1305@openssh.com")
    await client.says(r"Entering interactive session")
    assert "will use strict KEX ordering" in client.said
    assert "kex: server->client cipher: aes256-gcm@openssh.com MAC: <implicit> compression: none" in client.said
    assert re.search(r"kex: host key algorithm: ssh-ed25519\r?\n", client.said)
    offered = re.findall(r"Authentications that can continue: (\S+)", client.said)
    assert set(offered) == {"publickey"}
    assert re.search(r"Remote protocol version 2.0, remote software version fairlead\r?\n", client.said)
    assert w.door.tunnels[0].cipher == "aes256-gcm@openssh.com"
    assert w.door.tunnels[0].kex.startswith("curve25519-sha256") or "mlkem" in w.door.tunnels[0].kex


@pytest.mark.parametrize("algorithms", ["Ciphers=chacha20-poly1305@openssh.com,aes256-ctr",
                                        "KexAlgorithms=diffie-hellman-group14-sha256,ecdh-sha2-nistp256",
                                        "HostKeyAlgorithms=rsa-sha2-512,ecdsa-sha2-nistp256"])
async def test_nothing_weaker(ssh: Start, algorithms: str) -> None:
    client = await ssh("-N", "-o", algorithms)
    assert await client.ends() == 255
    assert "no matching" in client.said


@pytest.mark.parametrize(("user", "key"), [("root", "alice"), ("admin", "alice"), ("x9", "alice"), ("aviseuser", "bob"),
                                           ("avictlruser", "alice")])
async def test_every_other_name_is_refused_alike(w: World, ssh: Start, user: str, key: str) -> None:
    client = await ssh("-N", user=user, key=key)
    assert await client.ends() == 255
    assert f"{user}@127.0.0.1: Permission denied (publickey)." in client.said
    assert set(re.findall(r"Authentications that can continue: (\S+)", client.said)) == {"publickey"}
    assert w.door.tunnels == []


async def test_no_shell_no_command_no_file_transfer(w: World, ssh: Start) -> None:
    for option, command in (("-tt", ""), ("-T", ""), ("-oSetEnv=X=1", "id"), ("-s", "sftp")):
        client = await ssh(option, command=command)
        assert await client.ends() == 255
        assert "request failed on channel 0" in client.said
        assert client.process.stdout
        assert await client.process.stdout.read() == b""


async def test_a_granted_subsystem(w: World, ssh: Start) -> None:
    async def greet(channel: Channel) -> None:
        await channel.send(b"hello from fairlead")

    w.door.subsystems["fairlead-engine"] = greet
    client = await ssh("-s", command="fairlead-engine")
    await client.ends()
    assert client.process.stdout
    assert await client.process.stdout.read() == b"hello from fairlead"


async def test_a_granted_reverse_binds_nothing_and_carries(w: World, ssh: Start) -> None:
    w.door.reverses.add((HOST, PORT))
    client = await ssh("-N", "-R", f"{HOST}:{PORT}:127.0.0.1:{await w.serve(echo)}")
    await client.says(r"remote forward success")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, PORT)
    front = await w.front(w.door.tunnels[0], HOST, PORT)
    reader, writer = await w.connect(front.port)
    data = bytes(range(256)) * 4096
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(20):
        assert await reader.read(-1) == data
        await front.carried[0]


@pytest.mark.parametrize("spelling", [
    f"{PORT}:127.0.0.1:1", f"*:{PORT}:127.0.0.1:1", f":{PORT}:127.0.0.1:1", f"localhost:{PORT}:127.0.0.1:1",
    f"0.0.0.0:{PORT}:127.0.0.1:1", f"[::]:{PORT}:127.0.0.1:1", f"[::1]:{PORT}:127.0.0.1:1", f"{HOST}:0:127.0.0.1:1",
    f"{HOST}.:{PORT}:127.0.0.1:1", f"[::ffff:{HOST}]:{PORT}:127.0.0.1:1", f"{HOST}:{PORT + 1}:127.0.0.1:1",
    "/tmp/fairlead.sock:127.0.0.1:1", "0", f"{PORT}"])
async def test_other_spellings_of_a_reverse(w: World, ssh: Start, spelling: str) -> None:
    w.door.reverses.add((HOST, PORT))
    client = await ssh("-N", "-R", spelling)
    assert await client.ends() == 255
    assert re.search(r"remote port forwarding failed|remote forward failure", client.said)
    assert not w.door.tunnels[0].reverses


async def test_agent_and_environment_do_not_arrive(w: World, ssh: Start) -> None:
    held = asyncio.Event()

    async def hold(channel: Channel) -> None:
        held.set()
        await channel.wait_closed()

    w.door.subsystems["hold"] = hold
    client = await ssh("-A", "-oSetEnv=LD_PRELOAD=/tmp/x.so", "-s", command="hold")
    await client.says(r"subsystem request accepted|Sending subsystem: hold")
    async with asyncio.timeout(10):
        await held.wait()
    (connection,) = (tunnel.connection for tunnel in w.door.tunnels)
    assert isinstance(connection, ServerConnection)
    assert connection.get_agent_path() is None
    (channel,) = connection._channels.values()
    assert not channel._env


async def test_a_pending_node_only_holds_a_session(w: World, ssh: Start) -> None:
    w.door.known(BOB, peer_of("bob", BOB, standing="pending"))
    port = free_port()
    client = await ssh("-N", "-L", f"{port}:{HOST}:{PORT}", key="bob")
    await client.says(r"Entering interactive session")
    reader, _ = await w.connect(port)
    async with asyncio.timeout(10):
        assert await reader.read(-1) == b""
    await client.says(r"administratively prohibited")


def test_the_keys_are_as_ssh_reads_them(tmp_path: Path) -> None:
    assert PrivateKey.from_openssh(ALICE.openssh()).public == ALICE.public
