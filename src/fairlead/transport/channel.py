"""The bytes of a subsystem: a channel that waits when the other side does not read, and that buffers little.

Every request on a session channel but ``subsystem`` is refused before asyncssh sees it: no terminal, shell, command,
environment, agent, X11 or signal (asyncssh would accept and keep every environment variable that a peer sends).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

from fairlead.base.errors import FairleadError
from fairlead.base.once import Once
from fairlead.transport.connection import Abandonable, Guarded
from fairlead.transport.options import MOST_PACKET, WINDOW
from fairlead.transport.refusals import lost

Handler = Callable[["Channel"], Awaitable[None]]
"""Serves one channel until it returns; the channel is closed then."""

_BUFFER = 128 * 1024


class Channel:
    """A stream of bytes both ways. One task receives; any number send, each send is whole."""

    def __init__(self, connection: Guarded) -> None:
        self._connection = connection
        self._channel: Any = None
        self._came = bytearray()
        self._ended = False
        self._receiver: asyncio.Future[None] | None = None
        """Of the task that waits for something to come."""
        self._writable = True
        self._sender: asyncio.Future[None] | None = None
        """Of the task that waits until more may be sent."""
        self._turn = asyncio.Lock()
        self._closed = Once()

    async def receive(self) -> bytes:
        """Whatever came; ``b""`` at the end, whether the peer ended or the tunnel did."""
        while not self._came:
            if self._ended:
                return b""
            self._receiver = asyncio.get_running_loop().create_future()
            await self._receiver
        came = bytes(self._came)
        self._came.clear()
        if len(came) >= _BUFFER and not self._closed.is_set():
            self._channel.resume_reading()
        return came

    async def send(self, data: bytes, kind: int | None = None) -> None:
        """Send *data*; waits while the far side does not read. Raises Refused FL-STREAM-LOST.

        *kind*: of extended data (RFC 4254 section 5.2), for this room.
        """
        async with self._turn:
            for start in range(0, len(data), MOST_PACKET):
                while not self._writable:
                    self._sender = asyncio.get_running_loop().create_future()
                    await self._sender
                self._write(data[start:start + MOST_PACKET], kind)

    def send_now(self, data: bytes) -> bool:
        """Send *data* if nothing has to be waited for; whether it was sent. Raises Refused FL-STREAM-LOST."""
        if self._turn.locked() or not self._writable or len(data) > MOST_PACKET:
            return False
        self._write(data, None)
        return True

    def _write(self, data: bytes, kind: int | None) -> None:
        if self._closed.is_set():
            raise lost()
        try:
            self._channel.write(data, kind)
        except OSError as error:
            raise lost() from error

    @property
    def open(self) -> bool:
        """Whether anything can still be sent."""
        return not self._closed.is_set()

    def close(self) -> None:
        """End both directions; what was sent is still delivered."""
        if self._channel:
            self._channel.close()

    def exit(self, status: int) -> None:
        """End both directions and say how what served them has ended; for the end that serves."""
        if self._channel and not self._closed.is_set():
            self._channel.exit(status)

    async def wait_closed(self) -> None:
        """Wait until nothing moves any more."""
        await self._closed.wait()

    # What the session tells.

    def opened(self, channel: Any) -> None:
        """The SSH channel is there."""
        self._channel = channel

    def arrived(self, data: bytes) -> None:
        """Bytes from the peer."""
        self._came += data
        if len(self._came) >= _BUFFER:
            self._channel.pause_reading()
        _wake(self._receiver)

    def ended(self) -> None:
        """The peer sends no more."""
        self._ended = True
        _wake(self._receiver)

    def writable(self, yes: bool) -> None:
        """Whether more may be sent."""
        self._writable = yes
        if yes:
            _wake(self._sender)

    def gone(self) -> None:
        """The SSH channel is no more."""
        self._closed.set()
        self.writable(True)
        self.ended()


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting and not waiting.done():
        waiting.set_result(None)


class Filling:
    """A session that asyncssh tells when its channel is full: the peer's window, and our share of buffer."""

    _full = False

    def pause_writing(self) -> None:
        """The channel is full."""
        self._full = True
        self.weigh()

    def resume_writing(self) -> None:
        """The channel takes more."""
        self._full = False
        self.weigh()

    def weigh(self) -> None:
        """See whether the channel and the connection take more."""
        raise NotImplementedError


class Session(Filling, asyncssh.SSHServerSession[bytes], asyncssh.SSHClientSession[bytes]):
    """asyncssh's side of a `Channel`, at either end."""

    def __init__(self, connection: Guarded, grant: Callable[[str], Handler | None] | None = None) -> None:
        self.channel = Channel(connection)
        self._connection = connection
        self._grant = grant
        self._handler: Handler | None = None

    def connection_made(self, chan: Any) -> None:
        """The channel is open."""
        self.channel.opened(chan)
        self._connection.senders.add(self)
        self.weigh()

    def subsystem_requested(self, subsystem: str) -> bool:
        """Whether the peer may have *subsystem*."""
        self._handler = self._grant(subsystem) if self._grant else None
        return self._handler is not None

    def session_started(self) -> None:
        """The request was answered."""
        if self._handler:
            task = asyncio.get_running_loop().create_task(self._serve(self._handler))
            self._connection.handlers.add(task)
            task.add_done_callback(self._served)

    async def _serve(self, handler: Handler) -> None:
        try:
            await handler(self.channel)
        except FairleadError as error:
            logging.getLogger(__name__).info("a subsystem ended: %s", error.line())
        finally:
            self.channel.close()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._connection.handlers.discard(task)
        if not task.cancelled() and (bug := task.exception()):
            task.get_loop().call_exception_handler({"message": "a subsystem failed", "exception": bug, "task": task})

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002
        """Bytes from the peer."""
        self.channel.arrived(data)

    def eof_received(self) -> bool:
        """The peer sends no more; we may."""
        self.channel.ended()
        return True

    def weigh(self) -> None:
        """See whether the channel and the connection take more."""
        self.channel.writable(not self._full and not self._connection.full)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The channel is no more."""
        self._connection.senders.discard(self)
        self.channel.gone()


class GuardedServerChannel(asyncssh.SSHServerChannel[bytes]):
    """A session channel as we serve it: one request is known, ``subsystem``."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection, loop, False, False, False, 0, 0, None, "strict", WINDOW, MOST_PACKET)

    def _service_next_request(self) -> None:
        name, _, _ = self._request_queue[0]
        if name == "subsystem":
            super()._service_next_request()
        else:
            self._report_response(False)


class GuardedClientChannel(Abandonable, asyncssh.SSHClientChannel[bytes]):
    """A session channel as we ask for it. The other side has nothing to request on it, and no standard error."""

    _read_datatypes: set[int] = set()  # noqa: RUF012 - asyncssh's name and shape

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection, loop, "strict", None, "strict", WINDOW, MOST_PACKET)

    def _service_next_request(self) -> None:
        self._report_response(False)

    async def start(self, session: Session, name: str) -> None:
        """Open it and ask for the subsystem *name*. Raises asyncssh's errors."""
        await self.create(lambda: session, None, name, {}, False, None, None, {}, False, None, None, False, False)
