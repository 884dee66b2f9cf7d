"""The listener, over real sockets: what it presents, whom it counts, whom it cuts, and what it lets nobody see."""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from fairlead.base.errors import OperatorError
from fairlead.portal.listener import (
    Application,
    Limits,
    Listener,
    Place,
    Presented,
    Receive,
    Send,
    bind_tcp,
    bind_unix,
    serve,
    server_identity,
)
from tests.unit.client.certificates import NAME, Pair, Root

LIMITS = Limits(handshake_s=30.0, request_s=20.0, body_bytes=1000)  # room for a busy machine
PLAIN = b"GET /where HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(eq=False)
class Counted:
    count: "Count"
    yields: Callable[[], bool]

    def served(self) -> None:
        self.leave()

    def leave(self) -> None:
        if self in self.count.inside:
            self.count.inside.remove(self)
            self.count.changed.set()


class Count:
    """An admission that can be looked into."""

    def __init__(self, most: int = 100, *, yielding: bool = False) -> None:
        self.most = most
        self.yielding = yielding
        self.inside: list[Counted] = []
        self.refused = 0
        self.changed = asyncio.Event()

    def enter(self, source: str, yields: Callable[[], bool]) -> Place | None:
        if len(self.inside) >= self.most and not self._room():
            self.refused += 1
            return None
        self.inside.append(Counted(self, yields))
        return self.inside[-1]

    def _room(self) -> bool:
        gone = next((place for place in tuple(self.inside) if place.yields()), None) if self.yielding else None
        if gone is not None:
            gone.leave()
        return gone is not None

    async def empty(self) -> None:
        async with asyncio.timeout(5):
            while self.inside:
                self.changed.clear()
                await self.changed.wait()


async def answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def describe(scope: Any, receive: Receive, send: Send) -> None:
    """Reads the body and says what the listener said of the connection."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    seen = scope["extensions"]["fairlead"]
    certificate = seen["certificate"] and seen["certificate"].hex()
    await answer(send, json.dumps({**seen, "certificate": certificate, "size": size, "path": scope["path"]}).encode())


@asynccontextmanager
async def listening(app: Application = describe, *, presented: Presented | None = None, limits: Limits = LIMITS,
                    admission: Count | None = None) -> AsyncIterator[tuple[Listener, int]]:
    sockets = bind_tcp(["127.0.0.1"], 0, "--port")
    port = sockets[0].getsockname()[1]
    listener = await serve(app, sockets, presented=presented, limits=limits, admission=admission or Count())
    try:
        yield listener, port
    finally:
        await listener.close(0.0)


async def talk(port: int, data: bytes, context: ssl.SSLContext | None = None) -> tuple[bytes, ssl.SSLObject | None]:
    """Everything that the listener says on one connection until it closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context,
                                                   server_hostname=NAME if context else None)
    try:
        writer.write(data)
        heard = b""
        with contextlib.suppress(ConnectionError):  # a listener that has not read everything may reset
            async with asyncio.timeout(30):
                while chunk := await reader.read(65536):
                    heard += chunk
        return heard, writer.get_extra_info("ssl_object")
    finally:
        writer.transport.abort()


def body_of(heard: bytes) -> Any:
    return json.loads(heard.partition(b"\r\n\r\n")[2])


def identity_of(pair: Pair) -> Any:
    return server_identity(pair.certificate, pair.key)


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


async def test_tls_tells_the_application_what_this_connection_was_shown(root: Root) -> None:
    leaf = root.leaf()
    async with listening(presented=Presented(identity_of(leaf))) as (_, port):
        heard, tls = await talk(port, PLAIN, root.pair.trusting())
        assert tls is not None
        assert tls.version() == "TLSv1.3"
        assert tls.getpeercert(binary_form=True) == leaf.der
        said = body_of(heard)
        assert said == {"certificate": hashlib.sha256(leaf.der).hexdigest(), "source": "127.0.0.1", "peer_uid": None,
                        "size": 0, "path": "/where"}
        head = heard.partition(b"\r\n\r\n")[0].lower()
        assert b"server:" not in head
        assert b"connection: close" in head
        assert tls.session is None or not tls.session.has_ticket
        old = root.pair.trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await talk(port, PLAIN, old)


async def test_certificates_are_swapped_under_load(root: Root) -> None:
    pairs = [root.leaf() for _ in range(5)]
    presented, now = Presented(identity_of(pairs[0])), 1000.0
    answered, again, done = 0, asyncio.Event(), asyncio.Event()
    hashes = {hashlib.sha256(pair.der).hexdigest() for pair in pairs}

    async def client(port: int) -> None:
        nonlocal answered
        trusting = root.pair.trusting()
        while not done.is_set():
            heard, tls = await talk(port, PLAIN, trusting)
            assert tls is not None
            shown = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
            assert body_of(heard)["certificate"] == shown
            assert shown in hashes
            answered += 1
            again.set()

    async with listening(presented=presented) as (_, port), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(client(port))
        try:
            for turn in range(1, 51):
                again.clear()
                with pytest.raises(OperatorError, match="do not belong together"):
                    server_identity(pairs[turn % 5].certificate, pairs[(turn + 1) % 5].key)
                presented.swap(identity_of(pairs[turn % 5]), now + turn)
                async with asyncio.timeout(30):
                    await again.wait()
            heard, _ = await talk(port, PLAIN, root.pair.trusting())
            assert body_of(heard)["certificate"] == hashlib.sha256(pairs[0].der).hexdigest()
        finally:
            done.set()
    assert answered >= 50


def test_a_certificate_is_recognised_for_a_minute_after_it_went(root: Root) -> None:
    old, new = identity_of(root.leaf()), identity_of(root.leaf())
    presented = Presented(old)
    assert presented.recognises(old.certificate_hash, 0.0)
    assert not presented.recognises(new.certificate_hash, 0.0)
    presented.swap(new, 100.0)
    assert presented.recognises(new.certificate_hash, 1e9)
    assert presented.recognises(old.certificate_hash, 160.0)
    assert not presented.recognises(old.certificate_hash, 160.1)


def test_keys_never_touch_a_disk_and_never_ask(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, certfile: str, *more: Any, **named: Any) -> None:
        read.append(str(Path(certfile).readlink()))
        assert named["password"] == b""  # without one OpenSSL asks at the terminal for that of an encrypted key
        load(self, certfile, *more, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    leaf = root.leaf()
    assert server_identity(leaf.certificate, leaf.key).certificate_der == leaf.der
    assert read[0].startswith("/memfd:")
    for certificate, key in ((leaf.certificate, b""), (b"nonsense", leaf.key), (b"", b"")):
        with pytest.raises(OperatorError) as caught:
            server_identity(certificate, key)
        assert caught.value.code == "FL-CERT-PAIR"


async def test_plain_http_on_a_tls_port_gets_no_byte(root: Root) -> None:
    async with listening(presented=Presented(identity_of(root.leaf()))) as (_, port):
        assert await talk(port, PLAIN) == (b"", None)


async def test_half_open_handshakes_are_counted_and_freed(root: Root) -> None:
    admission = Count(most=3)
    async with listening(presented=Presented(identity_of(root.leaf())), admission=admission,
                         limits=replace(LIMITS, handshake_s=0.5)) as (listener, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        heard, _ = await talk(port, b"")  # the fourth is turned away before any TLS
        assert (heard, admission.refused, len(admission.inside)) == (b"", 1, 3)
        await admission.empty()
        assert len(listener) == 0
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        heard, _ = await talk(port, PLAIN, root.pair.trusting())
        assert body_of(heard)["path"] == "/where"


async def test_who_owes_us_bytes_makes_room_and_a_whole_request_does_not(root: Root) -> None:
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Receive, send: Send) -> None:
        running.set()
        await finish.wait()
        await answer(send, b"done")

    admission = Count(most=2, yielding=True)
    async with listening(slow, presented=Presented(identity_of(root.leaf())), admission=admission,
                         limits=replace(LIMITS, connections=2)) as (listener, port):
        asked = asyncio.create_task(talk(port, PLAIN, root.pair.trusting()))
        await running.wait()
        half_open, _ = await asyncio.open_connection("127.0.0.1", port)
        for context in (root.pair.trusting(), root.pair.trusting()):  # one in the place of the other
            slow_one, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
            async with asyncio.timeout(30):
                assert await half_open.read() == b""
            assert (admission.refused, len(admission.inside)) == (0, 2)
            half_open = slow_one
        writer.write(PLAIN)
        finish.set()
        async with asyncio.timeout(30):
            assert b"done" in (await asked)[0]
            assert b"done" in await slow_one.read()
        await admission.empty()
        assert len(listener) == 0


async def test_each_end_of_a_connection_is_counted_once(root: Root) -> None:
    admission = Count()
    async with listening(presented=Presented(identity_of(root.leaf())), admission=admission) as (_, port):
        await talk(port, PLAIN, root.pair.trusting())
        await talk(port, b"garbage" * 10)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.abort()
        await admission.empty()
        _, writer = await asyncio.open_connection("127.0.0.1", port)  # still open when the listener closes
    writer.transport.abort()
    assert admission.inside == []


async def test_the_listener_has_a_limit_of_its_own() -> None:
    async with listening(limits=replace(LIMITS, connections=1)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await talk(port, PLAIN) == (b"", None)
        writer.close()


@pytest.mark.parametrize("start", [
    b"", b"GET /", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"])
async def test_a_request_that_drips_is_cut(start: bytes) -> None:
    async with listening(limits=replace(LIMITS, request_s=0.5)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        heard = asyncio.create_task(reader.read())
        async with asyncio.timeout(5):
            while not heard.done():  # bytes keep coming, well within the deadline of each
                if b"chunked" in start:
                    writer.write(b"1\r\nx\r\n")
                elif start:
                    writer.write(b"x")
                await asyncio.wait([heard], timeout=0.05)
        with contextlib.suppress(ConnectionError):
            assert heard.result() == b""
        writer.close()


async def test_a_later_request_on_a_kept_connection_has_its_deadline_too() -> None:
    async with listening(limits=replace(LIMITS, request_s=0.5, keep_alive=True)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(PLAIN)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: close" not in head.lower()
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.write(PLAIN[:10])
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        writer.close()


async def test_who_does_not_read_his_answer_is_cut() -> None:
    gone = asyncio.Event()

    async def endless(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                if (scope["extensions"] is None) or gone.is_set():
                    return
                await asyncio.sleep(0)
        finally:
            gone.set()

    admission = Count()
    async with listening(endless, limits=replace(LIMITS, request_s=0.3), admission=admission) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(PLAIN)
        await admission.empty()
        gone.set()
        writer.close()


async def test_a_body_over_the_limit_is_answered_unread() -> None:
    async with listening() as (_, port):
        heard, _ = await talk(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert heard.startswith(b"HTTP/1.1 413 ")
        assert b"x-content-type-options: nosniff" in heard.lower()
        assert body_of(heard)["code"] == "FL-HTTP-TOO-LARGE"
        heard, _ = await talk(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + bytes(1000))
        assert body_of(heard)["size"] == 1000


def test_what_comes_after_the_answer_is_not_read_for_long(root: Root) -> None:
    def pour(port: int) -> None:
        with root.pair.trusting().wrap_socket(socket.create_connection(("127.0.0.1", port), 30),
                                              server_hostname=NAME) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10737418240\r\n\r\n")
            while True:
                sock.sendall(bytes(1000))

    async def pouring() -> None:
        async with listening(presented=Presented(identity_of(root.leaf())),
                             limits=replace(LIMITS, request_s=60.0)) as (_, port):
            poured = asyncio.ensure_future(asyncio.to_thread(pour, port))
            async with asyncio.timeout(10):
                await asyncio.wait([poured])
            assert isinstance(poured.exception(), OSError)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the daemons run; asyncio's own hangs up
        runner.run(pouring())


async def test_an_endless_body_is_answered_where_the_count_runs_over() -> None:
    seen: list[str] = []

    async def swallow(scope: Any, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        seen.append(message["type"])
        await answer(send, b"all of it")

    async with listening(swallow) as (_, port):
        chunk = b"190\r\n" + bytes(400) + b"\r\n"
        heard, _ = await talk(port, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        assert heard.startswith(b"HTTP/1.1 413 ")
        assert b"all of it" not in heard
        assert seen == ["http.disconnect"]


async def test_a_body_is_only_called_for_when_it_will_be_read() -> None:
    async with listening() as (_, port):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
        heard, _ = await talk(port, head + b"5000\r\n\r\n")
        assert heard.startswith(b"HTTP/1.1 413 ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"5\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"12345")
        assert body_of(await reader.read())["size"] == 5
        writer.close()


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" * 20 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 300_000,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"])
async def test_what_is_not_http_is_refused_and_not_logged(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as logs:
        async with listening() as (_, port):
            heard, _ = await talk(port, data)
    if len(data) < 100_000:  # after much unread data the kernel may reset before the answer is read
        assert heard.startswith(b"HTTP/1.1 400 ")
        assert body_of(heard)["code"] == "FL-HTTP-FORMAT"
    assert (logs, caplog.records) == ([], [])


async def test_garbage_in_a_body_ends_the_connection_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def early(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] != "/early":
            await describe(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with listening(early) as (_, port):
        for end in (b"zz\r\n", b"5\r\nab"):
            heard, _ = await talk(
                port, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + end + b"\xff" * 99)
            assert heard.startswith(b"HTTP/1.1 400 ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"zz\r\n")  # its answer is on its way already: no second one may follow
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                assert await reader.read() == b""
        writer.close()
        assert body_of((await talk(port, PLAIN))[0])["path"] == "/where"
    assert caplog.records == []


async def test_a_fault_after_the_answer_leaves_the_connection_alone() -> None:
    async def late(scope: Any, receive: Receive, send: Send) -> None:
        await answer(send, b"answer")
        if scope["path"] == "/where":
            raise ValueError("after the answer")

    with capture_logs() as logs:
        async with listening(late, limits=replace(LIMITS, keep_alive=True)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for request in (PLAIN, PLAIN.replace(b"/where", b"/")):
                writer.write(request)
                await reader.readuntil(b"answer")
            writer.close()
    assert [entry["event"] for entry in logs] == ["request.failed"]


async def test_a_fault_of_ours_is_logged_and_not_shown() -> None:
    async def broken(scope: Any, receive: Receive, send: Send) -> None:
        raise ValueError("the secret")

    async def mute(scope: Any, receive: Receive, send: Send) -> None:
        return

    for app in (broken, mute):
        with capture_logs() as logs:
            async with listening(app) as (_, port):
                heard, _ = await talk(port, PLAIN)
        assert heard.startswith(b"HTTP/1.1 500 ")
        assert body_of(heard)["code"] == "FL-INTERNAL"
        assert b"secret" not in heard
        assert [entry["event"] for entry in logs] == ["request.failed"]


async def test_closing_lets_a_running_request_end_and_cuts_what_does_not() -> None:
    running, finish = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Receive, send: Send) -> None:
        running.set()
        await finish.wait()
        await answer(send, b"done")

    for drain, expected in ((5.0, b"done"), (0.1, b"")):
        running.clear()
        finish.clear()
        async with listening(slow, limits=replace(LIMITS, keep_alive=True)) as (listener, port):
            asked = asyncio.create_task(talk(port, PLAIN))
            await running.wait()
            closing = asyncio.create_task(listener.close(drain))
            if expected:
                await asyncio.wait([closing], timeout=0.2)
                assert not closing.done()
                finish.set()
            async with asyncio.timeout(4):
                await closing
                assert (await asked)[0].partition(b"\r\n\r\n")[2] == expected
            assert len(listener) == 0
            with pytest.raises(ConnectionRefusedError):
                await talk(port, PLAIN)


async def test_the_control_socket_knows_its_peer(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir(mode=0o700)
    before = os.umask(0)
    try:
        sock = bind_unix(folder, "control.sock")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600
    listener = await serve(describe, [sock], presented=None, limits=LIMITS, admission=None)
    handle = os.open(folder, os.O_RDONLY)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/control.sock")
        writer.write(PLAIN)
        said = body_of(await reader.read())
        assert (said["peer_uid"], said["source"], said["certificate"]) == (os.getuid(), None, None)
        writer.close()
        with pytest.raises(OperatorError) as caught:
            bind_unix(folder, "control.sock")
        assert caught.value.code == "FL-ALREADY-RUNNING"
        assert str(os.getpid()) in caught.value.message
    finally:
        os.close(handle)
        await listener.close(0.0)
    starting = os.open(folder, os.O_RDONLY)  # another daemon, in the middle of the same
    fcntl.flock(starting, fcntl.LOCK_EX)
    with pytest.raises(OperatorError) as caught:
        bind_unix(folder, "control.sock")
    assert caught.value.code == "FL-ALREADY-RUNNING"
    os.close(starting)
    bind_unix(folder, "control.sock").close()  # what a dead daemon left is replaced
    (folder / "file").write_text("precious")
    with pytest.raises(OperatorError):
        bind_unix(folder, "file")
    assert (folder / "file").read_text() == "precious"


def test_every_address_gets_the_same_port() -> None:
    sockets = bind_tcp([], 0, "--api-port")
    try:
        ports = {sock.getsockname()[1] for sock in sockets}
        assert len(ports) == 1
        assert [sock.getsockname()[0] for sock in sockets] in (["0.0.0.0", "::"], ["0.0.0.0"])
    finally:
        for sock in sockets:
            sock.close()


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without(family: int = -1, *more: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "not here")
        return real(family, *more, **named)

    monkeypatch.setattr(socket, "socket", without)
    sockets = bind_tcp([], 0, "--api-port")
    assert [sock.getsockname()[0] for sock in sockets] == ["0.0.0.0"]
    sockets[0].close()
    with pytest.raises(OperatorError):
        bind_tcp(["::1"], 0, "--api-port")


def test_a_taken_port_names_its_holder_and_the_flag() -> None:
    [held] = bind_tcp(["127.0.0.1"], 0, "--portal-port")
    port = held.getsockname()[1]
    try:
        for hosts in (["127.0.0.1"], []):
            with pytest.raises(OperatorError) as caught:
                bind_tcp(hosts, port, "--portal-port")
            line = caught.value.line()
            assert caught.value.code == "FL-PORT-TAKEN"
            assert f"pid {os.getpid()} (" in line
            assert str(port) in line
            assert "--portal-port" in line
    finally:
        held.close()


def test_a_port_that_is_not_permitted_and_an_address_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("203.0.113.1", "nonsense"):
        with pytest.raises(OperatorError) as caught:
            bind_tcp([host], 0, "--api-port")
        assert caught.value.code == "FL-LISTEN-ADDRESS"

    class Bare(socket.socket):
        def bind(self, address: Any, /) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Bare)
    with pytest.raises(OperatorError) as caught:
        bind_tcp(["127.0.0.1"], 443, "--api-port")
    assert caught.value.code == "FL-PORT-PERMISSION"
    assert "CAP_NET_BIND_SERVICE" in caught.value.line()
    assert "--api-port" in caught.value.line()


