"""The HTTPS client against servers that are wrong in every way we could think of."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fairlead.base.errors import FairleadError
from fairlead.client.https import CertificateRefused, Incoming, Outgoing, request
from fairlead.portal.listener import server_identity
from tests.unit.client.certificates import NAME, Pair, Root

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX: 1\r\nx: 2\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@pytest.fixture(scope="module")
def leaf(root: Root) -> Pair:
    return root.leaf()


class Server:
    """Says *words* to whoever asks, whatever he asked, then closes unless told to hold on."""

    def __init__(self, words: bytes, hold: bool) -> None:
        self.words, self.hold = words, hold
        self.port = 0
        self.heard = b""
        self.released = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heard += await reader.readuntil(b"\r\n\r\n")
            writer.write(self.words)
            await writer.drain()
            if self.hold:
                await self.released.wait()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if self.hold else writer.close()


@asynccontextmanager
async def serving(pair: Pair, words: bytes = OK, hold: bool = False) -> AsyncIterator[Server]:
    talk = Server(words, hold)
    context = server_identity(pair.certificate, pair.key).context
    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    talk.port = server.sockets[0].getsockname()[1]
    async with server:
        yield talk
        talk.released.set()


async def ask(port: int, context: ssl.SSLContext, *, name: str = NAME, within: float = 10.0) -> Incoming:
    return await request("127.0.0.1", port, context, name, lambda _: Outgoing("GET", "/x"), timeout=within, most=1000)


async def refusal(port: int, context: ssl.SSLContext, **more: object) -> FairleadError:
    with pytest.raises(FairleadError) as caught:
        await ask(port, context, **more)  # type: ignore[arg-type]
    return caught.value


async def test_the_request_is_made_from_the_certificate_of_this_connection(root: Root, leaf: Pair) -> None:
    shown: list[bytes] = []

    def build(certificate: bytes) -> Outgoing:
        shown.append(certificate)
        return Outgoing("POST", "/api?x=1", {"content-type": "text/plain"}, b"body")

    async with serving(leaf) as server:
        answer = await request("127.0.0.1", server.port, root.pair.trusting(), NAME, build)
        assert shown == [leaf.der] == [answer.certificate]
        assert (answer.status, answer.body) == (200, b"hello")
        assert [value for name, value in answer.headers if name == "x"] == ["1", "2"]
        lines = server.heard.lower().split(b"\r\n")
        assert lines[0] == b"post /api?x=1 http/1.1"
        assert f"host: {NAME}:{server.port}".encode() in lines
        assert b"content-length: 4" in lines


async def test_what_build_raises_passes_and_nothing_was_sent(root: Root, leaf: Pair) -> None:
    def build(certificate: bytes) -> Outgoing:
        raise RuntimeError("not this certificate")

    async with serving(leaf) as server:
        with pytest.raises(RuntimeError, match="not this certificate"):
            await request("127.0.0.1", server.port, root.pair.trusting(), NAME, build)
        assert server.heard == b""


@pytest.mark.parametrize(("which", "name", "code"), [("other root", NAME, 20), ("expired", NAME, 10),
                                                     ("name", "another.fairlead.internal", 62)])
async def test_certificates_that_do_not_verify(root: Root, leaf: Pair, which: str, name: str, code: int) -> None:
    shown = root.leaf(days=-1) if which == "expired" else leaf
    trusting = Root().pair.trusting() if which == "other root" else root.pair.trusting()
    async with serving(shown) as server:
        error = await refusal(server.port, trusting, name=name)
        assert isinstance(error, CertificateRefused)
        assert (error.code, server.heard) == ("FL-PEER-CERTIFICATE", b"")
        # a root of the same name with another key is reported as a bad signature (7), an unknown one as 20 or 21
        assert error.verify_code in ({7, 20, 21} if which == "other root" else {code})


async def test_the_environment_has_no_say(root: Root, leaf: Pair, monkeypatch: pytest.MonkeyPatch,
                                          tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(root.pair.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with serving(leaf) as server:
        assert (await ask(server.port, root.pair.trusting())).status == 200
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        assert (await refusal(server.port, nobody)).code == "FL-PEER-CERTIFICATE"


async def test_nobody_there_and_nobody_answering(root: Root, leaf: Pair) -> None:
    async with serving(leaf) as server:
        port = server.port
    assert (await refusal(port, root.pair.trusting())).code == "FL-PEER-UNREACHABLE"
    async with serving(leaf, b"", hold=True) as server:
        error = await refusal(server.port, root.pair.trusting(), within=0.5)
        assert (error.code, "0.5 seconds" in error.message) == ("FL-PEER-UNREACHABLE", True)
    with pytest.raises(FairleadError) as caught:
        await request("a..b", 1, root.pair.trusting(), NAME, lambda _: Outgoing("GET", "/"))
    assert caught.value.code == "FL-PEER-UNREACHABLE"


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(("words", "why"), [
    (b"SSH-2.0-x\r\n\r\n", "no whole HTTP message"),
    (b"", "no whole HTTP message"),
    (HEAD + b"Content-Length: 9\r\n\r\nhell", "no whole HTTP message"),
    (HEAD + b"\r\nuntil I close", "how long"),
    (HEAD + b"Content-Length: 1001\r\n\r\n", "larger"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"190\r\n" + bytes(400) + b"\r\n") * 3, "larger"),
    (HEAD + b"X: " + b"y" * 40_000, "no whole HTTP message"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", "no whole HTTP message")])
async def test_answers_that_are_none(root: Root, leaf: Pair, words: bytes, why: str) -> None:
    # Endless answers are refused while they come: the server holds the connection open.
    async with serving(leaf, words, hold=why == "larger") as server:
        error = await refusal(server.port, root.pair.trusting())
        assert error.code == "FL-PEER-PROTOCOL"
        assert why in error.message


async def test_what_speaks_no_tls(root: Root) -> None:
    async def ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(ssh, "127.0.0.1", 0) as server:
        error = await refusal(server.sockets[0].getsockname()[1], root.pair.trusting())
        assert (error.code, "no TLS" in error.message) == ("FL-PEER-PROTOCOL", True)
