"""The last descriptors are kept for ourselves, and no error of accept(2) ends or spins a loop that accepts."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from fairlead.base import descriptors


class Failing(socket.socket):
    """A listening socket with a bad time ahead."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            raise OSError(self.failures.pop(0), "refused by the test")
        return super().accept()


@pytest.fixture
def listening() -> Iterator[Failing]:
    with Failing(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.failures = []
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        yield sock


@contextlib.contextmanager
def nearly_all_taken() -> Iterator[None]:
    """A limit of so many that every number that is free is one of the last."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0) for _ in range(40)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 8, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for number in taken:
            os.close(number)


async def taken_from(listening: socket.socket, *, reserved: bool = False) -> None:
    """Wait for a connection, and end the loop."""
    connections = descriptors.accepting(listening, reserved=reserved)
    async for sock, _ in connections:
        assert not sock.getblocking()
        sock.close()
        break
    await connections.aclose()  # type: ignore[attr-defined]


async def test_errors_of_accept_are_said_once_and_survived(listening: Failing) -> None:
    listening.failures = [errno.EMFILE, errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]
    with capture_logs() as logs, socket.create_connection(listening.getsockname()):
        async with asyncio.timeout(30):
            await taken_from(listening)
    assert [(entry["event"], entry["code"]) for entry in logs] == [("listener.exhausted", "FL-DESCRIPTORS")]
    assert listening.failures == []


async def test_it_pauses_while_there_are_none(listening: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noting(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noting)
    listening.failures = [errno.EMFILE] * 20
    with socket.create_connection(listening.getsockname()):
        await taken_from(listening)
    assert pauses == [descriptors.PAUSE_S] * 20


async def test_the_last_descriptors_are_kept_and_asked_about(listening: Failing) -> None:
    assert descriptors.problems() == []
    with socket.create_connection(listening.getsockname()) as stranger, capture_logs() as logs:
        loop = asyncio.get_running_loop()
        stranger.setblocking(False)
        waiting = asyncio.create_task(taken_from(listening))
        with nearly_all_taken():
            assert await asyncio.wait_for(loop.sock_recv(stranger, 1), 30) == b""  # taken, and sent away
            assert not waiting.done()
            assert [problem.endswith("[FL-DESCRIPTORS]") for problem in descriptors.problems()] == [True]
            waiting.cancel()
            await asyncio.wait([waiting])
            with socket.create_connection(listening.getsockname()):
                await asyncio.wait_for(taken_from(listening, reserved=True), 30)
        with socket.create_connection(listening.getsockname()):
            await asyncio.wait_for(taken_from(listening), 30)
    assert descriptors.problems() == []
    assert [entry["event"] for entry in logs] == ["listener.exhausted"]


def test_none_left_at_all_is_a_problem_too() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        found = descriptors.problems()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(found) == 1


async def test_an_acceptor_pauses_and_goes_on_and_ends_when_it_is_told(
        listening: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "PAUSE_S", 0.01)
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    listening.failures = [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]
    acceptor = descriptors.Acceptor(listening, taken.put_nowait)
    with capture_logs() as logs, socket.create_connection(listening.getsockname()), socket.create_connection(
            listening.getsockname()):
        for _ in range(2):
            sock = await asyncio.wait_for(taken.get(), 30)
            assert not sock.getblocking()
            sock.close()
    assert [entry["event"] for entry in logs] == ["listener.exhausted"]
    listening.failures = [errno.EMFILE]
    with socket.create_connection(listening.getsockname()):
        while listening.failures:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        acceptor.close()  # in its pause
        await asyncio.sleep(0.05)
        assert taken.empty()
