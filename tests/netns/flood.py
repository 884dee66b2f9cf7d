"""Strangers: ``python -m tests.netns.flood HOST PORT MANNERS NUMBER SOURCE...``; a line on stdin asks how it goes.

MANNERS, by commas, are dealt out to the connections in turn:

  silent    says nothing
  hello     the beginning of a TLS ClientHello, then a byte of it every second
  garbage   bytes that mean nothing, then one every second
  banner    an SSH version, then nothing
  kexinit   an SSH version and a proposal of algorithms, then nothing
  request   a whole TLS handshake, then a request that drips
  body      the same, and a body that drips
  proof     a whole TLS handshake, and a join request of the right shape whose token nobody has issued
  greet     a plain service: one byte, and then nothing

Who is cut comes again a second later.
"""

import asyncio
import contextlib
import json
import os
import resource
import ssl
import struct
import sys
from dataclasses import asdict, dataclass
from functools import cache
from typing import NoReturn
from uuid import UUID

from fairlead.enrol import exchange
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import sha256

AGAIN_S = 1.0
DRIP_S = 1.0
TOGETHER = 128
"""Connections that are being opened at once: more would wait in a queue of the kernel's, and not at the door."""


@dataclass
class Tally:
    """How it goes."""

    opened: int = 0
    """Since the beginning."""
    cut: int = 0
    """By the other side."""
    held: int = 0
    """Now."""


async def stranger(tally: Tally, place: tuple[str, int], source: str, manner: str,
                   door: asyncio.Semaphore) -> NoReturn:
    """One connection at a time, for ever."""
    context = _unverified() if manner in ("request", "body", "proof") else None
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            async with door, asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(*place, local_addr=(source, 0), ssl=context)
            tally.opened += 1
            tally.held += 1
            try:
                await _behave(manner, reader, writer)
            finally:
                tally.held -= 1
                tally.cut += 1
                writer.transport.abort()
        await asyncio.sleep(AGAIN_S)


async def _behave(manner: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    start, drip = _words(manner)
    if manner == "proof":
        start = _join_request(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.write(start)
    ending = asyncio.ensure_future(_end(reader))
    try:
        while not ending.done():
            await asyncio.wait([ending], timeout=DRIP_S if drip else None)
            writer.write(drip)
    finally:
        ending.cancel()


async def _end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def _words(manner: str) -> tuple[bytes, bytes]:
    if manner == "hello":
        return _hello()[:60], b"\0"
    if manner == "garbage":
        return os.urandom(200), b"\xff"
    if manner == "banner":
        return b"SSH-2.0-stranger\r\n", b""
    if manner == "kexinit":
        return b"SSH-2.0-stranger\r\n" + _kexinit(), b""
    if manner == "request":
        return b"POST /api/securekeyexchange HTTP/1.1\r\nHost: x\r\nX-Drip: ", b"x"
    if manner == "body":
        return (b"POST /api/securekeyexchange HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 16000\r\n\r\n"), b" "
    return (b"?" if manner == "greet" else b""), b""


@cache
def _hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        _unverified().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def _join_request(certificate: bytes) -> bytes:
    key, cluster = _key(), UUID(bytes=os.urandom(16))
    body = exchange.prove(
        exchange.Claim(cluster, os.urandom(32), os.urandom(16), sha256(certificate), "engine", "stranger", key.public,
                       key.public, os.urandom(32), None, "stranger/1"), token=key, host=key, user=key)
    return (f"POST {exchange.PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


@cache
def _key() -> PrivateKey:
    return PrivateKey.generate()


def _kexinit() -> bytes:
    """RFC 4253, sections 6 and 7.1."""
    lists = [b"curve25519-sha256,kex-strict-c-v00@openssh.com", b"ssh-ed25519", *[b"aes256-gcm@openssh.com"] * 2,
             *[b"hmac-sha2-256-etm@openssh.com"] * 2, *[b"none"] * 2, b"", b""]
    payload = b"\x14" + os.urandom(16) + b"".join(struct.pack(">I", len(one)) + one for one in lists) + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


@cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def main(host: str, port: str, manners: str, number: str, *sources: str) -> None:
    """Flood until nobody asks any more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    door = asyncio.Semaphore(TOGETHER)
    kinds = manners.split(",")
    tally = Tally()
    strangers = [asyncio.create_task(stranger(tally, (host, int(port)), sources[n % len(sources)],
                                              kinds[n % len(kinds)], door)) for n in range(int(number))]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        sys.stdout.write(json.dumps(asdict(tally)) + "\n")
        sys.stdout.flush()
    for one in strangers:
        one.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
