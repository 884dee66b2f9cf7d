"""A place that is named by number is reached without asking anybody; by name, the first address that answers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fairlead.transport.reach import reached


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_number_asks_no_resolver(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a few threads only; a thousand that are dialled at once would wait for one another there."""
    async def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("the resolver was asked")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", asked)
    with await reached("127.0.0.1", port) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)
        assert not sock.getblocking()


async def test_of_a_name_the_first_address_that_answers_is_taken(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in ("127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    with await reached("controller.example", port) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)


async def test_nobody_there_is_an_error() -> None:
    with socket.socket() as mine, pytest.raises(ConnectionRefusedError):
        mine.bind(("127.0.0.1", 0))  # and does not listen
        await reached("127.0.0.1", mine.getsockname()[1])
