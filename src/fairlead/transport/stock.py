"""The stock path: asyncio's transports and asyncssh's own channels, joined. It forwards wherever Python runs.

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
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.constants import MSG_CHANNEL_EOF, OPEN_CONNECT_FAILED
from asyncssh.packet import SSHPacket

from fairlead.transport.carried import Carried
from fairlead.transport.channel import Filling
from fairlead.transport.connection import Abandonable, Ended, Guarded
from fairlead.transport.opening import opening
from fairlead.transport.options import CONNECT_TIMEOUT, MOST_PACKET, WINDOW
from fairlead.transport.peer import Target
from fairlead.transport.refusals import lost
from fairlead.transport.resets import resetting


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
            resetting(self._transport.get_extra_info("socket"))
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


class ChannelEnd(Filling, asyncssh.SSHTCPSession[bytes]):
    """An SSH channel as an end of a stream. It keeps the connection's meter and stops when the connection is full."""

    def __init__(self, connection: Guarded) -> None:
        self._connection = connection
        self._channel: StreamChannel | None = None
        self._join: Join | None = None
        self._stopped = False
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


class StreamChannel(Abandonable, asyncssh.SSHTCPChannel[bytes]):
    """The channel of one forwarded connection, which knows whether its end was orderly."""

    _ended = False
    _close_follows = False

    @property
    def complete(self) -> bool:
        """Whether the peer's EOF came and every byte before it was passed on.

        asyncssh tells the session of an EOF only if no CLOSE follows while data waits for a slow reader; and data
        that waits when the connection breaks is lost without a word. Both are told apart here: a cut is never taken
        for an end.
        """
        return self._ended and not self._recv_buf

    def close(self) -> None:
        """Close it when everything is sent. asyncssh would forget an EOF that still waits for the peer's window."""
        if self._send_state == "eof_pending":
            self._close_follows = True
        else:
            super().close()

    def _flush_send_buf(self) -> None:
        super()._flush_send_buf()
        if self._close_follows and self._send_state == "eof":
            self._close_follows = False
            super().close()

    def _note_eof(self, kind: int, number: int, packet: SSHPacket) -> None:
        self._process_eof(kind, number, packet)
        self._ended = True  # only one that was well formed

    _packet_handlers = {  # noqa: RUF012 - asyncssh's name and shape
        **asyncssh.SSHTCPChannel._packet_handlers,  # noqa: SLF001
        MSG_CHANNEL_EOF: _note_eof,
    }


class StockStreams:
    """The streams of one connection, each a task."""

    name = "stock"

    def __init__(self, connection: Guarded) -> None:
        self._connection = connection

    def channel(self) -> StreamChannel:
        """A new channel for one forwarded connection. Raises ChannelOpenError when the connection is gone."""
        self._connection.expect_packets(MOST_PACKET)
        return StreamChannel(self._connection, asyncio.get_running_loop(), None, "strict", WINDOW, MOST_PACKET)

    def carry(self, sock: socket.socket, kind: bytes, host: str, port: int, ended: Ended) -> Carried:
        """See `connection.Streams`."""
        return Carried(self._carry(sock, kind, host, port), ended)

    def deliver(self, target: Target, peer: int, window: int, most: int) -> None:
        """See `connection.Streams`."""
        self.channel().process_open(peer, window, min(most, MOST_PACKET), self._deliver(target))

    async def _carry(self, sock: socket.socket, kind: bytes, host: str, port: int) -> None:
        local, far = await local_end(sock), ChannelEnd(self._connection)

        async def connect(_: Join) -> None:
            def start(channel: StreamChannel) -> Awaitable[Any]:
                ask = channel.connect if kind == b"direct-tcpip" else channel.accept
                return ask(lambda: far, host, port, "127.0.0.1", 0)

            await opening(self._connection, self.channel, start, f"{host}:{port}")

        await joined(local, far, connect)

    async def _deliver(self, target: Target) -> ChannelEnd:
        near, far = LocalEnd(), ChannelEnd(self._connection)
        answers = await connected(near, target)
        if not answers or self._connection.gone:
            near.abort()
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "connect failed")
        join = Join(far, near)
        near.joined(join)
        far.joined(join)
        return far


async def local_end(sock: socket.socket) -> LocalEnd:
    """The end that is *sock*, which is connected. Raises Refused FL-STREAM-LOST when it has gone already."""
    end = LocalEnd()
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: end, sock)
    except OSError as error:
        sock.close()
        raise lost() from error
    return end


async def joined(near: LocalEnd, far: LocalEnd | ChannelEnd, connect: Callable[[Join], Awaitable[None]]) -> None:
    """Have *connect* make the far end, and wait until both are finished.

    Raises what *connect* raises, and Refused FL-STREAM-LOST when the far end went before its time; both ends have been
    reset then.
    """
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


async def connected(end: LocalEnd, target: Target) -> bool:
    """Connect *end* to *target*; whether it answers in time."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await loop.create_connection(lambda: end, target.host, target.port)
    except (OSError, TimeoutError):
        return False
    return True
