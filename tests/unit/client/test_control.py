"""The command line's client, against our own listener on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import FairleadError
from fairlead.client.control import SOCKET, ControlClient
from fairlead.portal.listener import Limits, Receive, Send, bind_unix, serve


async def daemon(scope: Any, receive: Receive, send: Send) -> None:
    """Answers as its path says, or with what it was asked."""
    body = (await receive())["body"]
    status, answer = 200, json.dumps({"method": scope["method"], "query": scope["query_string"].decode(),
                                      "body": json.loads(body) if body else None}).encode()
    if scope["path"] == "/refuse":
        status, answer = 403, b'{"error": "not you", "code": "FL-TEST", "remedy": "be somebody else"}'
    elif scope["path"] == "/strange":
        status, answer = 500, b"<html>"
    elif scope["path"] == "/other":
        status, answer = 400, b"[1]"
    elif scope["path"] == "/empty":
        status, answer = 204, b""
    elif scope["path"] == "/cut":
        raise SystemError
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[Path]:
    folder = tmp_path / ("longer than the address of a socket may be " * 5)
    folder.mkdir(mode=0o700)
    listener = await serve(daemon, [bind_unix(folder, SOCKET)], presented=None, limits=Limits(), admission=None)
    yield folder
    await listener.close(0.0)


async def code(call: Callable[..., Any], *given: Any) -> str:
    with pytest.raises(FairleadError) as caught:
        await asyncio.to_thread(call, *given)
    return caught.value.code


async def test_requests_and_answers(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    client = ControlClient(state)
    said = await asyncio.to_thread(client.get, "/x", name="a b", absent=None)
    assert said == {"method": "GET", "query": "name=a+b", "body": None} or said["query"] == "name=a%20b"
    assert (await asyncio.to_thread(client.post, "/x", {"a": 1}))["body"] == {"a": 1}
    assert (await asyncio.to_thread(client.put, "/x", [1]))["body"] == [1]
    assert (await asyncio.to_thread(client.delete, "/x"))["method"] == "DELETE"
    assert await asyncio.to_thread(client.get, "/empty") is None


async def test_refusals_come_as_they_were_meant(state: Path) -> None:
    client = ControlClient(state)
    with pytest.raises(FairleadError) as caught:
        await asyncio.to_thread(client.get, "/refuse")
    assert caught.value.line() == "not you; be somebody else [FL-TEST]"
    assert await code(client.get, "/strange") == "FL-DAEMON-ANSWER"
    assert await code(client.get, "/other") == "FL-DAEMON-ANSWER"
    assert await code(client.get, "/cut") == "FL-INTERNAL"


async def test_no_daemon(state: Path, tmp_path: Path) -> None:
    assert await code(ControlClient(tmp_path).get, "/x") == "FL-DAEMON-DOWN"
    bind_unix(tmp_path, SOCKET).close()  # a socket whose daemon has died
    assert await code(ControlClient(tmp_path).get, "/x") == "FL-DAEMON-DOWN"
    assert await code(ControlClient(tmp_path / "missing").get, "/x") == "FL-STATE-MISSING"


async def test_a_daemon_that_says_nothing(tmp_path: Path) -> None:
    with bind_unix(tmp_path, SOCKET):
        assert await code(ControlClient(tmp_path, timeout=0.2).get, "/x") == "FL-DAEMON-ANSWER"
