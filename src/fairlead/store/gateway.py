"""etcd's JSON gateway: one request, one try, one clear answer about what became of it.

Rules, and the fault that each stops:

- An answer is `GatewayRefused` only for the codes with which etcd says that the request was not done, for good.
  Everything else that is no success, and no answer at all, is `GatewayUnavailable`: whether the request happened is
  not known. A caller that took a lost answer for a no would do things twice.
- Nothing is tried a second time here. Who calls knows what may be repeated.
- An endpoint that failed is left for the next one, by the first of many requests that fail there; those that fail
  later change nothing. After a while the first endpoint is asked again: it is the nearest.
- Requests about keys, leases and watches say that they need a leader: a member that has lost its own says so at once,
  and ends its watches, where it would otherwise be silent.
- A whole answer has a time and a size; a stream has a longest silence and a longest line. A member that is frozen, or
  drips, holds nobody up.
- No proxies, no environment; certificates as the caller's context says.
"""

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

import httpx2

from fairlead.base import strict

MOST_ANSWER = 64 << 20
"""Bytes of one answer, or of one object of a stream."""
RETURN_S = 30.0
"""After so many seconds without a failure the first endpoint is asked again."""
GRACE_S = 5.0
"""For calls under way when there is another context; one that rewrites a database may break off."""
NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}

INVALID, NOT_FOUND, EXISTS, FORBIDDEN, EXHAUSTED, PRECONDITION, RANGE, UNKNOWN_CALL, WHO = 3, 5, 6, 7, 8, 9, 11, 12, 16
FINAL = frozenset((INVALID, NOT_FOUND, EXISTS, FORBIDDEN, EXHAUSTED, PRECONDITION, RANGE, UNKNOWN_CALL, WHO))
"""gRPC's codes of refusals: the request was not done, and will not be."""
PASSING = "too many requests"  # said with EXHAUSTED, and over in a moment


class GatewayRefused(Exception):
    """etcd answered: no. *code* is gRPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class GatewayUnavailable(Exception):
    """No answer, or one that says that there is no leader or no quorum; whether the request happened is not known."""


class _Connections(httpx2.AsyncHTTPTransport):
    """A connection that is lost in the very moment in which it is made is lost, and no fault of ours."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:  # anyio asks the socket, which its transport has given up, for its peer
            raise httpx2.ConnectError("the connection was lost at once", request=request) from error


class _Client(httpx2.AsyncClient):
    """Connections made in one context."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        # The context of those who give none trusts nobody: the default one would read what the environment names.
        super().__init__(trust_env=False, timeout=None, transport=_Connections(
            verify=context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32)))
        self._calls = 0
        self.idle = asyncio.Event()
        """Set while no call is under way."""
        self.idle.set()

    @contextlib.contextmanager
    def busy(self) -> Iterator["_Client"]:
        """While a call is under way."""
        self._calls += 1
        self.idle.clear()
        try:
            yield self
        finally:
            self._calls -= 1
            if not self._calls:
                self.idle.set()


class Gateway:
    """A client of the members at *endpoints* (``https://127.64.0.1:2379``), in order of preference.

    *context*: whom to trust and who we are, for endpoints of https. *timeout_s*: for a whole answer, or the first
    object of a stream. End it with `close`.
    """

    def __init__(self, endpoints: Sequence[str], context: ssl.SSLContext | None = None, *,
                 timeout_s: float = 1.0) -> None:
        if not endpoints:
            raise ValueError("no endpoints")
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._timeout_s = timeout_s
        self._current = 0
        self._failed_at = 0.0
        self._client = _Client(context)

    def reach(self, endpoints: Sequence[str]) -> None:
        """From now on ask these, in order of preference."""
        if not endpoints:
            raise ValueError("no endpoints")
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)

    async def present(self, context: ssl.SSLContext) -> None:
        """From now on trust, and be, what *context* says: no connection of before is used again.

        Calls that are under way end as if nothing was; streams break off, for who reads them to go on where they were.
        """
        old, self._client = self._client, _Client(context)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await old.idle.wait()
        await old.aclose()

    async def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Send *body* to ``/v3/<path>`` (``kv/range``) of one endpoint, once.

        Raises GatewayRefused, GatewayUnavailable; after the latter the next call asks the next endpoint.
        """
        with self._one_endpoint() as endpoint, self._client.busy() as client:
            async with asyncio.timeout(timeout_s or self._timeout_s), client.stream(
                    "POST", f"{endpoint}/v3/{path}", json=body, headers=_headers(path)) as response:
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > MOST_ANSWER:
                        raise GatewayRefused(EXHAUSTED, "the answer is too long")
            answer = _object(bytes(content))
            if response.status_code != 200:
                raise _refusal(answer.get("code"), answer.get("message"))
            return answer

    async def stream(self, path: str, body: Mapping[str, Any], *,
                     quiet_s: float | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """The objects of an answer that goes on, such as a watch's.

        Raises GatewayUnavailable when it ends or is silent for *quiet_s* seconds, and GatewayRefused.
        """
        with self._one_endpoint() as endpoint:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(self._timeout_s):  # an answer's head comes with the first object
                    response = await stack.enter_async_context(self._client.stream(
                        "POST", f"{endpoint}/v3/{path}", json=body, headers=_headers(path)))
                pieces = response.aiter_bytes()
                rest = bytearray()
                while True:
                    async with asyncio.timeout(quiet_s):
                        piece = await anext(pieces, b"")
                    if not piece and response.status_code != 200:
                        answer = _object(bytes(rest))
                        raise _refusal(answer.get("code"), answer.get("message"))
                    if not piece:
                        raise GatewayUnavailable("the stream ended")
                    *lines, last = piece.split(b"\n")
                    for line in lines:
                        yield _result(_object(bytes(rest + line)))
                        rest.clear()
                    rest += last
                    if len(rest) > MOST_ANSWER:
                        raise GatewayUnavailable("an object of the stream is too long")

    async def close(self) -> None:
        """End every connection; what is under way fails."""
        await self._client.aclose()

    @contextlib.contextmanager
    def _one_endpoint(self) -> Iterator[str]:
        if self._client.is_closed:
            raise GatewayUnavailable("closed")
        used = self._pick()
        try:
            yield used
        except (httpx2.HTTPError, httpx2.StreamError, OSError, TimeoutError) as error:  # OSError: TLS has its own
            self._leave(used)
            raise GatewayUnavailable(f"{used}: {str(error) or type(error).__name__}") from error
        except GatewayUnavailable as error:
            self._leave(used)
            raise GatewayUnavailable(f"{used}: {error}") from error

    def _pick(self) -> str:
        if self._current and time.monotonic() - self._failed_at > RETURN_S:
            self._current = 0
        return self._endpoints[self._current % len(self._endpoints)]

    def _leave(self, used: str) -> None:
        if used == self._endpoints[self._current % len(self._endpoints)]:  # else another request has left it already
            self._current = (self._current + 1) % len(self._endpoints)
            self._failed_at = time.monotonic()


def encoded(data: bytes) -> str:
    """*data* as the gateway's JSON has it."""
    return base64.b64encode(data).decode("ascii")


def decoded(text: str) -> bytes:
    """The reverse of `encoded`; what is empty is left out of answers."""
    return base64.b64decode(text)


def _headers(path: str) -> Mapping[str, str]:
    """Those about members and their state must work without a leader."""
    return NEEDS_LEADER if path.startswith(("kv/", "lease/", "watch")) else {}


def _object(content: bytes) -> dict[str, Any]:
    try:
        answer = strict.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise GatewayUnavailable("the answer is none of etcd's")
    return answer


def _result(line: dict[str, Any]) -> dict[str, Any]:
    match line:
        case {"result": dict(result)}:
            return result
        case {"error": {"grpc_code": code, "message": message}}:
            raise _refusal(code, message)
        case _:
            raise GatewayUnavailable("the answer is none of etcd's")


def _refusal(code: Any, message: Any) -> Exception:
    if code in FINAL and PASSING not in str(message):
        return GatewayRefused(code, str(message))
    return GatewayUnavailable(str(message))
