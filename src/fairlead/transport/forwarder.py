"""Joins two ends of a stream: a local TCP connection with an SSH channel, or with another local connection.

Rules, and what each prevents:

1. An end that can take no more stops the other from reading, all the way to the program that sends: memory for a
   stream is bounded by the channel's window and two socket buffers, however slow the reader (net-ssh #1003).
2. An end of file goes through each way by itself: half-closed connections work.
3. An end that goes away before its end of file was cut. The other end is reset, not closed: nobody takes a part for
   the whole.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.constants import OPEN_CONNECT_FAILED

from fairlead.transport.channel import lost
from fairlead.transport.connection import Guarded, StreamChannel
from fairlead.transport.options import CONNECT_TIMEOUT, MOST_PACKET
from fairlead.transport.peer import Target
from fairlead.transport.tunnel import Tunnel, refused

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: close sends RST


class End(Protocol):
    """One end of a stream, as the join uses it. All calls are harmless when it has gone."""

    def put(self, data: bytes) -> None:
        """Send *data* out at this end."""
        ...

    def finish(self) -> None:
        """Send the end of file out at this end."""
        ...

    def close(self) -> None:
        """Let go of it when what was put is out."""
        ...

    def abort(self) -> None:
        """Reset it."""
        ...

    def hold(self) -> None:
        """Stop reading from it."""
        ...

    def release(self) -> None:
        """Read from it."""
        ...


class Join:
    """Two ends of one stream. Each reports to `received`, `ended`, `full`, `drained` and `gone` with itself."""

    def __init__(self, near: End, far: End) -> None:
        self._near = near
        self._far = far
        self._ended: set[End] = set()
        self._gone: set[End] = set()
        self._cut_by_far = False
        self._finished: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Both ends are there: let the bytes move. One that left in the meantime takes the other with it."""
        for end in (self._near, self._far):
            if end in self._gone:
                self._other(end).abort()
                return
        self._near.release()
        self._far.release()

    async def finished(self) -> bool:
        """Wait until both ends are gone; whether the far end did not go before its time."""
        return await self._finished

    def received(self, end: End, data: bytes) -> None:
        """Bytes came in at *end*."""
        self._other(end).put(data)

    def ended(self, end: End) -> None:
        """No more bytes come in at *end*."""
        if end in self._ended:
            return
        self._ended.add(end)
        self._other(end).finish()
        if len(self._ended) == 2:
            self._near.close()
            self._far.close()

    def full(self, end: End) -> None:
        """*end* takes no more for now."""
        self._other(end).hold()

    def drained(self, end: End) -> None:
        """*end* takes more again."""
        self._other(end).release()

    def gone(self, end: End) -> None:
        """*end* is no more."""
        if end in self._gone:
            return
        self._gone.add(end)
        other = self._other(end)
        if other not in self._gone:
            if end in self._ended:
                other.close()
            else:
                self._cut_by_far = end is self._far
                other.abort()
        elif not self._finished.done():
            self._finished.set_result(not self._cut_by_far)

    def _other(self, end: End) -> End:
        return self._far if end is self._near else self._near


class LocalEnd(asyncio.Protocol):
    """A TCP connection on this machine. It is not read until it is joined; who gets one must join or abort it."""

    def __init__(self, accepted: "Callable[[LocalEnd], None] | None" = None) -> None:
        self._accepted = accepted
        self._transport: asyncio.Transport | None = None
        self._join: Join | None = None
        self._early: list[bytes] = []
        self._flowing = False
        self._held = False
        self._full = False
        self._ended = False
        self._gone = False

    def joined(self, join: Join) -> None:
        """Report to *join* from now on."""
        self._join = join
        if self._gone:
            join.gone(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = cast("asyncio.Transport", transport)
        # Python 3.11 reads on when paused in here, uvloop when paused later: whatever comes early is kept.
        asyncio.get_running_loop().call_soon(self._pause)
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._accepted:
            self._accepted(self)

    def _pause(self) -> None:
        if not self._flowing:
            self.hold()

    def data_received(self, data: bytes) -> None:
        """Bytes from the program."""
        if self._flowing and self._join:
            self._join.received(self, data)
        else:
            self._early.append(data)
            self.hold()

    def eof_received(self) -> bool:
        """The program sends no more, and may still read."""
        self._ended = True
        if self._flowing and self._join:
            self._join.ended(self)
        return True

    def pause_writing(self) -> None:
        """The program does not read."""
        self._full = True
        if self._join:
            self._join.full(self)

    def resume_writing(self) -> None:
        """The program reads again."""
        self._full = False
        # Not in this very call: what comes then may close the transport, and asyncio would say twice that it is lost.
        asyncio.get_running_loop().call_soon(self._drained)

    def _drained(self) -> None:
        if self._join and not self._full and not self._gone:
            self._join.drained(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The socket is closed."""
        self._gone = True
        if self._join:
            self._join.gone(self)

    @property
    def _open(self) -> asyncio.Transport | None:
        return self._transport if self._transport and not self._transport.is_closing() else None

    def put(self, data: bytes) -> None:
        """Send *data* to the program."""
        if transport := self._open:
            transport.write(data)

    def finish(self) -> None:
        """Tell the program that no more comes."""
        if transport := self._open:
            with contextlib.suppress(OSError):  # it has just been reset
                transport.write_eof()

    def close(self) -> None:
        """Close when everything is written."""
        if transport := self._open:
            transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport and not self._gone:
            with contextlib.suppress(OSError):
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def hold(self) -> None:
        """Stop reading."""
        self._held = True
        if transport := self._open:
            transport.pause_reading()

    def release(self) -> None:
        """Read, unless there is nothing more to read: asyncio would report the end again."""
        self._held = False
        if not self._flowing and self._join:
            self._flowing = True
            for data in self._early:
                self._join.received(self, data)
            self._early.clear()
            if self._ended:
                self._join.ended(self)
        if not self._held and not self._ended and (transport := self._open):
            transport.resume_reading()


class ChannelEnd(asyncssh.SSHTCPSession[bytes]):
    """An SSH channel as an end of a stream. It keeps the connection's meter and stops when the connection is full."""

    def __init__(self, connection: Guarded) -> None:
        self._connection = connection
        self._channel: StreamChannel | None = None
        self._join: Join | None = None
        self._stopped = False
        self._full = False
        self._started = False

    def joined(self, join: Join) -> None:
        """Report to *join* from now on."""
        self._join = join

    def connection_made(self, chan: Any) -> None:
        """The channel is open."""
        self._channel = chan

    def session_started(self) -> None:
        """Bytes may move."""
        assert self._join
        self._started = True
        self._connection.meter.streams += 1
        self._connection.senders.add(self)
        self._join.start()
        self.weigh()

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002
        """Bytes from the peer."""
        self._connection.meter.bytes_in += len(data)
        assert self._join
        self._join.received(self, data)

    def eof_received(self) -> bool:
        """The peer sends no more; we may."""
        assert self._join
        self._join.ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The channel is no more."""
        self._connection.senders.discard(self)
        if self._started:
            self._started = False
            self._connection.meter.streams -= 1
        assert self._join
        if self._channel and self._channel.complete:
            self._join.ended(self)
        self._join.gone(self)

    def pause_writing(self) -> None:
        """The peer's window and our share of buffer are used up."""
        self._full = True
        self.weigh()

    def resume_writing(self) -> None:
        """The peer takes more."""
        self._full = False
        self.weigh()

    def weigh(self) -> None:
        """See whether the channel and the connection take more."""
        stop = self._full or self._connection.full
        if stop != self._stopped and self._join:
            self._stopped = stop
            if stop:
                self._join.full(self)
            else:
                self._join.drained(self)

    def put(self, data: bytes) -> None:
        """Send *data* to the peer, in packets that are not too long."""
        if not self._channel or self._channel.is_closing():
            return
        self._connection.meter.bytes_out += len(data)
        if len(data) <= MOST_PACKET:
            self._channel.write(data)
        else:
            for start in range(0, len(data), MOST_PACKET):
                self._channel.write(data[start:start + MOST_PACKET])

    def finish(self) -> None:
        """Tell the peer that no more comes."""
        if self._channel and not self._channel.is_closing():
            self._channel.write_eof()

    def close(self) -> None:
        """Close the channel when everything is sent."""
        if self._channel:
            self._channel.close()

    def abort(self) -> None:
        """Close the channel at once; the peer sees no end of file before it."""
        if self._channel:
            self._channel.abort()

    def hold(self) -> None:
        """Take no more bytes from the peer for now."""
        if self._channel:
            self._channel.pause_reading()

    def release(self) -> None:
        """Take bytes from the peer."""
        if self._channel and self._started:
            self._channel.resume_reading()


def accept(handler: Callable[[LocalEnd], None]) -> Callable[[], LocalEnd]:
    """A protocol factory for ``loop.create_server``. *handler* gets each connection and sees that it is carried."""
    return lambda: LocalEnd(handler)


async def carry(local: LocalEnd, tunnel: Tunnel, host: str, port: int) -> None:
    """Take *local* through *tunnel* to what the peer knows as *host*:*port*; returns when both directions are finished.

    Raises Refused FL-STREAM-REFUSED (the peer would not, or nothing listens there) and FL-STREAM-LOST (cut); *local*
    has been reset then. Cancelled, it resets both.
    """
    far = ChannelEnd(tunnel.connection)
    opening = tunnel.open_direct if tunnel.direction == "out" else tunnel.open_forwarded
    await _join(local, far, lambda _: opening(far, host, port))


async def bridge(local: LocalEnd, target: Target) -> None:
    """The same without SSH: the owner of a service serves it to itself. Raises as `carry` does."""
    far = LocalEnd()

    async def connect(join: Join) -> None:
        if not await _connected(far, target):
            raise refused(target.service, "the service does not answer")
        join.start()

    await _join(local, far, connect)


async def deliver(connection: Guarded, target: Target) -> ChannelEnd:
    """Connect to *target* for a channel that the peer opens. Raises ChannelOpenError when nothing answers."""
    near, far = LocalEnd(), ChannelEnd(connection)
    answers = await _connected(near, target)
    if not answers or connection.gone:
        near.abort()
        raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "connect failed")
    join = Join(far, near)
    near.joined(join)
    far.joined(join)
    return far


async def _join(near: LocalEnd, far: LocalEnd | ChannelEnd, connect: Callable[[Join], Awaitable[None]]) -> None:
    join = Join(near, far)
    far.joined(join)
    near.joined(join)
    orderly = False
    try:
        await connect(join)
        orderly = await join.finished()
    finally:
        if not orderly:
            near.abort()
            far.abort()
    if not orderly:
        raise lost()


async def _connected(end: LocalEnd, target: Target) -> bool:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await loop.create_connection(lambda: end, target.host, target.port)
    except (OSError, TimeoutError):
        return False
    return True
