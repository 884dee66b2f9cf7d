"""What counts as a no, what counts as no answer, and which member is asked next."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from fairlead.store import gateway
from fairlead.store.gateway import Gateway, GatewayRefused, GatewayUnavailable
from tests.processes import serving


def http(status: str, body: bytes) -> Callable[[socket.socket], None]:
    """A member that answers every request alike, once a connection."""
    def answer(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                     % (status.encode(), len(body), body))
    return answer


def hang_up(sock: socket.socket) -> None:
    sock.recv(65536)


def say_nothing(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def drip(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        sock.sendall(b" ")


@contextmanager
def members(*behaviours: Callable[[socket.socket], None]) -> Iterator[Sequence[str]]:
    with ExitStack() as stack:
        yield [f"http://127.0.0.1:{stack.enter_context(serving(behaviour))}" for behaviour in behaviours]


GOOD = http("200 OK", b'{"header":{"revision":"7"}}')


async def test_a_connection_that_is_lost_while_it_is_made_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library below says of it is no error of a connection: it finds no socket any more."""
    def lost(_: object, __: str) -> object:
        none: Any = None
        return none.getpeername()

    with members(GOOD) as [endpoint]:
        member = Gateway([endpoint])
        monkeypatch.setattr("httpcore2._backends.anyio.AnyIOStream.get_extra_info", lost)
        with pytest.raises(GatewayUnavailable, match="lost at once"):
            await member.call("kv/range", {})
        monkeypatch.undo()
        assert await member.call("kv/range", {})
        await member.close()


@pytest.mark.parametrize("behaviour", [
    hang_up, say_nothing, drip,
    http("200 OK", b""), http("200 OK", b"<html>"), http("200 OK", b"[]"), http("404 Not Found", b"Not Found\n"),
    http("503 Service Unavailable", b'{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}'),
    http("503 Service Unavailable", b'{"message":"etcdserver: request timed out","code":14}'),
    http("500 Internal Server Error", b'{"message":"transport is closing","code":13}'),
    http("429 Too Many Requests", b'{"message":"etcdserver: too many requests","code":8}'),
    http("400 Bad Request", b'{"message":"no code"}'),
])
async def test_what_is_no_clear_answer_is_none_and_another_member_is_asked_next(
        behaviour: Callable[[socket.socket], None]) -> None:
    with members(behaviour, GOOD) as endpoints:
        made = Gateway(endpoints, timeout_s=0.3)
        with pytest.raises(GatewayUnavailable, match=endpoints[0]):
            await asyncio.wait_for(made.call("kv/txn", {}), 30)
        assert await made.call("kv/txn", {}) == {"header": {"revision": "7"}}
        await made.close()


@pytest.mark.parametrize("code", [3, 5, 8, 9, 11])
async def test_what_etcd_refuses_is_refused(code: int) -> None:
    refuse = http("400 Bad Request", b'{"error":"etcdserver: no","message":"etcdserver: no","code":%d}' % code)
    with members(refuse, GOOD) as endpoints:
        made = Gateway(endpoints)
        for _ in range(2):  # by the same member: it is in order
            with pytest.raises(GatewayRefused, match="etcdserver: no") as refused:
                await made.call("kv/txn", {})
            assert refused.value.code == code
        await made.close()


async def test_an_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MOST_ANSWER", 1000)
    with members(http("200 OK", b'{"a":"%s"}' % (b"x" * 1000))) as endpoints:
        made = Gateway(endpoints)
        with pytest.raises(GatewayRefused, match="too long"):
            await made.call("kv/range", {})
        await made.close()


async def test_the_nearest_member_is_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with members(hang_up, GOOD) as endpoints:
        made = Gateway(endpoints)
        with pytest.raises(GatewayUnavailable):
            await made.call("kv/range", {})
        await made.call("kv/range", {})
        monkeypatch.setattr(gateway, "RETURN_S", 0)
        with pytest.raises(GatewayUnavailable):
            await made.call("kv/range", {})
        await made.close()


async def test_who_fails_late_sends_nobody_back() -> None:
    with members(hang_up, hang_up, GOOD) as endpoints:
        made = Gateway(endpoints)
        await _fail(made)
        await _fail(made)
        made._leave(endpoints[0])  # a request that began before the first one failed, and ends now
        assert await made.call("kv/range", {})
        await made.close()


async def _fail(made: Gateway) -> None:
    with pytest.raises(GatewayUnavailable):
        await made.call("kv/range", {})


async def test_members_are_believed_by_certificate_only() -> None:
    with members(say_nothing) as endpoints:
        made = Gateway([endpoint.replace("http:", "https:") for endpoint in endpoints],
                       ssl.create_default_context(), timeout_s=0.3)
        await _fail(made)
        await made.close()
        with pytest.raises(GatewayUnavailable, match="closed"):
            await made.call("kv/range", {})


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with members(GOOD) as endpoints:
        made = Gateway(endpoints)
        assert await made.call("kv/range", {})
        await made.close()


async def test_another_context_takes_nothing_from_a_call_that_is_under_way_and_ends_streams() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slowly(sock: socket.socket) -> None:
        request = sock.recv(65536)
        if b"/v3/watch" in request:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{\"result\":{}}\n")
            sock.recv(65536)
            return
        asked.set()
        go_on.wait(10)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")

    with members(slowly) as endpoints:
        made = Gateway(endpoints, timeout_s=5)
        stream = made.stream("watch", {}, quiet_s=10)
        assert await anext(stream) == {}
        call = asyncio.ensure_future(made.call("kv/range", {}))
        await asyncio.to_thread(asked.wait, 10)
        changing = asyncio.ensure_future(made.present(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))
        await asyncio.sleep(0)
        assert not changing.done()
        go_on.set()
        assert await call == {}
        await changing
        with pytest.raises(GatewayUnavailable):
            await anext(stream)
        assert await made.call("kv/range", {}) == {}
        await made.close()
