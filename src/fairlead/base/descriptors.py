"""Open file descriptors: all that the system grants, and the last of them kept for ourselves.

Rules, and what each stops:

1. A connection is accepted only while more than `SPARE` descriptors are left: a flood leaves the store, the control
   socket and our own connections what they need, so an operator can still ask what is wrong.
2. No error of accept(2) ends a loop that accepts, and none makes it spin: it pauses, and goes on.
3. That it paused is said once a minute, however often it happens: strangers do not write our log.
"""

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

SPARE = 64
"""Kept for ourselves; of fewer than four times as many, a quarter."""
PAUSE_S = 0.1
SAID_FOR_S = 60.0
_TOGETHER = 64
"""Connections that are accepted before others get their turn."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = structlog.get_logger("fairlead.descriptors")


def take_all() -> None:
    """Raise this process's limit to the highest that it may have: many shells grant 1024 unless asked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def problems() -> list[str]:
    """A line when there are no descriptors left for new connections, for whoever asks how the node is."""
    try:
        lowest = os.dup(0)  # the kernel gives the lowest number that is free
    except OSError as error:
        return [_problem()] if error.errno in _EXHAUSTED else []
    os.close(lowest)
    return [_problem()] if lowest >= _enough() else []


async def accepting(listening: socket.socket, *, reserved: bool = False) -> AsyncIterator[tuple[socket.socket, Any]]:
    """Each connection to *listening*, with its address, until cancelled; the caller closes all three.

    *reserved*: it may take the last descriptors. That is for a door to which strangers do not come.
    """
    loop = asyncio.get_running_loop()
    door = _Door(listening, reserved=reserved)
    taken = 0
    while True:
        try:
            accepted = door.accept()
        except BlockingIOError:
            await readable(loop, listening)
            continue
        if not accepted:
            await asyncio.sleep(PAUSE_S)
            continue
        yield accepted
        taken = (taken + 1) % _TOGETHER
        if not taken:
            await asyncio.sleep(0)


class Acceptor:
    """Gives each connection to *listening* to *taken*, without a task, until it is closed; *listening* stays open."""

    def __init__(self, listening: socket.socket, taken: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._door = _Door(listening, reserved=False)
        self._taken = taken
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._ready)

    def close(self) -> None:
        """Accept nothing more; before *listening* is closed."""
        if self._pause:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._listening)

    def _ready(self) -> None:
        for _ in range(_TOGETHER):
            try:
                accepted = self._door.accept()
            except BlockingIOError:
                return
            if not accepted:
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(PAUSE_S, self._resume)
                return
            self._taken(accepted[0])

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._ready)


class _Door:
    """A listening socket and what was said of it."""

    def __init__(self, listening: socket.socket, *, reserved: bool) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._reserved = reserved
        self._said = float("-inf")

    def accept(self) -> tuple[socket.socket, Any] | None:
        """The next connection, which does not block; None: not now. Raises BlockingIOError when nobody is there."""
        while True:
            try:
                sock, address = self._listening.accept()
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that of a connection that is gone already (accept(2))
                reason = os.strerror(error.errno)
            else:
                if self._reserved or sock.fileno() < _enough():
                    sock.setblocking(False)
                    return sock, address
                sock.close()
                reason = "the last descriptors are kept"
            if time.monotonic() - self._said > SAID_FOR_S:
                self._said = time.monotonic()
                log.warning("listener.exhausted", code="FL-DESCRIPTORS", reason=reason,
                            at=str(self._listening.getsockname()))
            return None


def _enough() -> int:
    """The first number that is no longer given away."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit - min(SPARE, limit // 4)


def _problem() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"of {limit} descriptors only the last are left: new connections are refused [FL-DESCRIPTORS]"


async def readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Return when something is to be read from *sock*, or somebody to be accepted."""
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)  # now: its number may be another's a moment later


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
