"""One edge-triggered poller for all sockets of the accelerated path, inside whatever event loop runs.

A transport and a protocol for each socket cost a forwarded connection more than its cryptography does: three callbacks
in the loop, a reader and a writer that come and go. Here a socket is registered once. What happened to all of them is
handled in one go, and only then is everything sent that came of it: one packet after the other goes into a connection's
buffer, and the buffer out by one call (a cork).

Rules, and what each prevents:

1. An event says that something may have changed, no more: whoever gets it tries. So one that is late, or meant for a
   socket whose number was given anew, does no harm.
2. A turn is bounded: who has more to do asks for another turn, and the loop gets one in between.
3. A fault in one socket's handler ends that one and is told to the loop; the others never notice.
4. No timer for each socket: once a second everybody is asked (`Watched`).
"""

import asyncio
import select
import socket
from typing import Protocol

from fairlead.transport.accelerated.packets import Padding

EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
BROKEN = select.EPOLLHUP | select.EPOLLERR
"""Reset, or both directions are closed."""
ENDING = BROKEN | select.EPOLLRDHUP
READABLE = ENDING | select.EPOLLIN
WRITABLE = select.EPOLLOUT
_TOGETHER = 256
_WIRE = 1 << 20
_PLAIN = 1 << 18
SWEEP_S = 1.0
SWEPT, APART_S = 400, 0.1
"""Connections that are swept before others get a turn, and how long these have it: every stream would wait for ten
thousand at once. So many take longer than a round."""


class Handler(Protocol):
    """Something with a socket."""

    def ready(self, events: int) -> None:
        """Something may have changed."""
        ...

    def fail(self, bug: Exception) -> None:
        """A call to it failed: it ends."""
        ...


class Watched(Handler, Protocol):
    """A connection: it also has turns, a buffer, and looks after itself."""

    def turn(self) -> None:
        """Go on with what did not fit into the last turn."""
        ...

    def flush(self) -> None:
        """Send what was written."""
        ...

    def sweep(self, now: float) -> None:
        """A second went by, of thousands of connections a few; *now* is the loop's time."""
        ...


class Poller:
    """The sockets, and the buffers that all connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.now = loop.time()
        """When the present turn began."""
        self.wire = memoryview(bytearray(_WIRE))
        """What came, sealed; valid within one call."""
        self.opened = memoryview(bytearray(_PLAIN))
        """A packet, opened; valid within one call."""
        self.plain = memoryview(bytearray(_PLAIN))
        """Data that will be sealed; valid within one call."""
        self.padding = Padding()
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._connections: set[Watched] = set()
        self._unsent: list[Watched] = []
        self._waiting: list[Watched] = []
        self._scheduled = False
        self._running = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._unswept: list[Watched] = []
        self._round_at = self.now
        """When the next round of sweeping begins."""
        loop.add_reader(self._epoll.fileno(), self._happened)

    def close(self) -> None:
        """Watch nothing any more. Connections should have ended before."""
        if self._epoll.closed:
            return
        if self._sweeping:
            self._sweeping.cancel()
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._handlers.clear()

    def watch(self, sock: socket.socket, handler: Handler) -> None:
        """Tell *handler* of everything that happens to *sock* from now on, and of how it is now."""
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), EVENTS)

    def forget(self, sock: socket.socket) -> None:
        """Tell nothing more; before *sock* is closed."""
        self._handlers.pop(sock.fileno(), None)  # the kernel forgets by itself what is closed

    def joined(self, connection: Watched) -> None:
        """Sweep *connection* too."""
        self._connections.add(connection)
        if self._sweeping is None:
            self._sweeping = self.loop.call_later(SWEEP_S, self._sweep)

    def left(self, connection: Watched) -> None:
        """It is no more."""
        self._connections.discard(connection)

    def written(self, connection: Watched) -> None:
        """Have *connection* flushed at the end of this turn. Once for each flush."""
        self._unsent.append(connection)
        if not self._running:
            self._schedule()

    def again(self, connection: Watched) -> None:
        """Give *connection* another turn. Once for each turn."""
        self._waiting.append(connection)
        if not self._running:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._later)

    def _later(self) -> None:
        self._scheduled = False
        self.now = self.loop.time()
        self._run(())

    def _happened(self) -> None:
        self.now = self.loop.time()
        self._run(self._epoll.poll(0, _TOGETHER))

    def _run(self, events: "list[tuple[int, int]] | tuple[()]") -> None:
        self._running = True
        handlers = self._handlers
        for number, what in events:
            if handler := handlers.get(number):
                try:
                    handler.ready(what)
                except Exception as bug:  # noqa: BLE001 - it is told to the loop
                    self._failed(handler, bug)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for connection in waiting:
                try:
                    connection.turn()
                except Exception as bug:  # noqa: BLE001 - it is told to the loop
                    self._failed(connection, bug)
        while self._unsent:
            connection = self._unsent.pop()
            try:
                connection.flush()
            except Exception as bug:  # noqa: BLE001 - it is told to the loop
                self._failed(connection, bug)
        self._running = False
        if self._waiting:
            self._schedule()

    def _failed(self, handler: Handler, bug: Exception) -> None:
        self.loop.call_exception_handler({"message": "the accelerated transport failed", "exception": bug})
        try:
            handler.fail(bug)
        except Exception as another:  # noqa: BLE001 - it is told to the loop
            self.loop.call_exception_handler({"message": "the accelerated transport failed", "exception": another})

    def _sweep(self) -> None:
        self.now = self.loop.time()
        if not self._unswept:
            self._unswept, self._round_at = list(self._connections), self.now + SWEEP_S
        swept, self._unswept = self._unswept[:SWEPT], self._unswept[SWEPT:]
        next_at = self.now + APART_S if self._unswept else max(self._round_at, self.now + APART_S)
        self._sweeping = self.loop.call_at(next_at, self._sweep) if self._connections else None
        for connection in swept:
            if connection in self._connections:
                try:
                    connection.sweep(self.now)
                except Exception as bug:  # noqa: BLE001 - it is told to the loop
                    self._failed(connection, bug)
