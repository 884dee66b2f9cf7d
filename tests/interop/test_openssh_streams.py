"""Streams between us and OpenSSH, by each way: many at once, halves that end, and keys that change all the time."""

import asyncio
import getpass
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.transport.dialler import dial
from fairlead.transport.peer import Target
from fairlead.transport.tunnel import Tunnel
from tests.interop.test_openssh_transport import HOST, PORT, Start, free_port, ssh
from tests.unit.transport.conftest import way_of_streams
from tests.unit.transport.world import ALICE, CLOCK, HOST_KEY, PATIENT, World, peer_of, until, world

__all__ = ["ssh", "way_of_streams"]
STREAMS = 5
SIZE = 3_000_000
REKEY = 400_000


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with as many bytes of one's own, and then with the digest of what came: after its end has come."""
    digest, size = hashlib.sha256(), 0
    while data := await reader.read(1 << 16):
        digest.update(data)
        size += len(data)
        writer.write(bytes(len(data)))
        await writer.drain()
    writer.write(digest.digest())
    await writer.drain()


async def through(w: World, port: int) -> None:
    """Several streams at once through *port* to `mirror`."""
    async def one() -> None:
        data = os.urandom(SIZE)
        reader, writer = await w.connect(port)

        async def give() -> None:
            for start in range(0, SIZE, 70_000):
                writer.write(data[start:start + 70_000])
                await writer.drain()
            writer.write_eof()

        giving = asyncio.ensure_future(give())
        got = await reader.read(-1)
        await giving
        assert got == bytes(SIZE) + hashlib.sha256(data).digest()

    async with asyncio.timeout(60):
        await asyncio.gather(*(one() for _ in range(STREAMS)))


async def drained(stream: asyncio.StreamReader | None) -> None:
    assert stream
    while await stream.read(1 << 16):
        pass


async def test_ssh_dials_and_both_change_keys(w: World, ssh: Start) -> None:
    w.door.targets[HOST, PORT] = Target("127.0.0.1", await w.serve(mirror), "db")
    w.door.reverses.add((HOST, PORT))
    port, service = free_port(), await w.serve(mirror)
    client = await ssh("-N", "-o", "RekeyLimit=512K", "-L", f"{port}:{HOST}:{PORT}",
                       "-R", f"{HOST}:{PORT}:127.0.0.1:{service}")
    await client.says(r"Entering interactive session")
    await client.says(r"remote forward success")
    reading = asyncio.ensure_future(drained(client.process.stderr))
    (tunnel,) = w.door.tunnels
    tunnel.connection._rekey_bytes = REKEY
    keys = tunnel.connection._send_encryption
    front = await w.front(tunnel, HOST, PORT)
    await asyncio.gather(through(w, port), through(w, front.port))
    assert tunnel.connection._send_encryption is not keys
    assert client.process.returncode is None
    await until(lambda: not tunnel.streams)
    reading.cancel()


@pytest.fixture
async def sshd(tmp_path: Path) -> AsyncIterator[int]:
    """A real server that lets us in; its port."""
    port = free_port()
    for name, content in (("host", HOST_KEY.openssh()), ("known", f"{ALICE.public.line}\n".encode()), ("config", (
            f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/known\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nRekeyLimit 512K\n").encode())):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes(content)
    os.makedirs("/run/sshd", exist_ok=True)  # noqa: PTH103 - where it wants to shut its children in
    process = await asyncio.create_subprocess_exec(
        "/usr/sbin/sshd", "-D", "-e", "-f", tmp_path / "config", stderr=asyncio.subprocess.PIPE)
    assert process.stderr
    async with asyncio.timeout(20):
        assert b"Server listening" in await process.stderr.readline()
    reading = asyncio.ensure_future(drained(process.stderr))
    yield port
    process.terminate()
    await process.wait()
    reading.cancel()


@pytest.mark.skipif(os.geteuid() != 0, reason="sshd starts sessions as root only")
async def test_we_dial_sshd_and_both_change_keys(w: World, sshd: int) -> None:
    tunnel: Tunnel = await dial("127.0.0.1", sshd, peer=peer_of("sshd", ALICE, getpass.getuser()), key=ALICE,
                                host_keys=[HOST_KEY.public], keepalive=PATIENT, clock=CLOCK, way=w.way)
    tunnel.connection._rekey_bytes = REKEY
    keys = tunnel.connection._send_encryption
    front = await w.front(tunnel, "127.0.0.1", await w.serve(mirror))
    await through(w, front.port)
    assert tunnel.connection._send_encryption is not keys
    assert not tunnel.closed.is_set()
    refused = await w.front(tunnel, "127.0.0.1", 1)
    reader, _ = await w.connect(refused.port)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    await asyncio.gather(*refused.carried, return_exceptions=True)
    await until(lambda: not tunnel.streams)
    tunnel.close("done")
    await tunnel.wait_closed()


