"""The transport of one SSH connection: asyncssh's underneath the handshake, and our streams' from there on.

asyncssh does versions, key exchange, authentication and global requests, and sessions. It is given this object where
asyncio would give it a socket's transport. What comes in is taken apart here, packet by packet, as soon as there are
keys; the packets of our streams stay here, each other one is handed to asyncssh as it came, with what was opened of it.

Rules, and the attack each stops:

1. A packet is opened once, by the one `Opener` of its direction, and before anybody looks at it. asyncssh sees exactly
   what was authenticated; what fails is answered as asyncssh does: a disconnect, and the end.
2. Nothing of a stream is sent or taken before the peer has proven its key, and nothing is sent during a key exchange
   (RFC 4253 section 7.1): it waits, and so does the program that sends it.
3. While asyncssh thinks about a packet, those behind it wait.
4. Nothing is read from a program while the socket takes no more. What is written all the same (answers) is bounded:
   a peer that makes us answer and does not read is cut.
5. Keys are changed by volume and by time, whoever sends.
6. No more of streams is on its way than the path carries (`pace`): the next stream's first byte waits behind it.
"""

import asyncio
import contextlib
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import asyncssh
from asyncssh.constants import (
    DEFAULT_LANG,
    MSG_CHANNEL_LAST,
    MSG_CHANNEL_OPEN,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.packet import PacketDecodeError, SSHPacket

from fairlead.transport.accelerated import kernel, pace
from fairlead.transport.accelerated.library import Incoming
from fairlead.transport.accelerated.packets import DATA_AT, HEAD, OVERHEAD, TAG, Sealer
from fairlead.transport.accelerated.poller import ENDING, READABLE, WRITABLE, Poller
from fairlead.transport.accelerated.stream import LEAST, NUMBER, Stream
from fairlead.transport.options import (
    CONNECT_TIMEOUT,
    FAST_PACKET,
    HIGH_WATER,
    LOW_WATER,
    MOST_CHANNELS,
    MOST_UNSENT,
    OPEN_TIMEOUT,
)
from fairlead.transport.peer import Target
from fairlead.transport.reach import reached

if TYPE_CHECKING:
    from fairlead.transport.connection import Ended, Guarded

_READ = 512 * 1024
"""Bytes that are taken from the peer in one turn."""
_CORK = 96 * 1024
"""Bytes that wait for the end of the turn; more go out at once."""
_TURN = 512 * 1024
"""Bytes of streams that are sent in one turn."""
_SMALL = 4096
_NO_LIMIT = float("inf")


class Link(asyncio.Transport):
    """The socket of a connection, what waits to be sent on it, and its streams."""

    __slots__ = (
        "_allowed", "_arrived", "_asked", "_blocked", "_closed", "_cork", "_end", "_ending", "_full", "_heard",
        "_held", "_incoming", "_longest", "_look_at", "_marked", "_named", "_opening", "_out", "_own", "_pace",
        "_paused", "_pausing", "_proven", "_queue", "_readable", "_sealed", "_sealer", "_sent", "_sock", "_start",
        "_taken", "_thinking", "_turning", "_unsent", "_view", "_waited", "connection", "meter", "packet", "poller",
        "sending",
    )
    name = "accelerated"

    def __init__(self, poller: Poller, sock: socket.socket, connection: "Guarded") -> None:
        extra: dict[str, object] = {"socket": sock}
        for name, ask in (("peername", sock.getpeername), ("sockname", sock.getsockname)):
            with contextlib.suppress(OSError):  # it has just been reset
                extra[name] = ask()
        super().__init__(extra)
        self.poller = poller
        self.connection = connection
        self.meter = connection.meter
        self.packet = FAST_PACKET
        """Bytes of data in one packet, by what the path carries."""
        self._sock = sock
        self._closed = False
        # What the path carries.
        self._pace = pace.Pace()
        self._cork = _CORK
        self._unsent = 0
        self._sent = 0
        self._look_at = 0.0
        """When the kernel is asked again, unless more is sent than `_allowed` before."""
        self._allowed: float = _NO_LIMIT
        """What may have been sent in all before it is seen whether it is too much."""
        self._pausing: asyncio.TimerHandle | None = None
        """While more is on its way than the path carries."""
        self._arrived = -1
        self._waited = 0.0
        """Bytes that had arrived when it was last waited for more of them, and for how many seconds it was."""
        # Coming in.
        self._held = b""
        """The beginning of a packet, or what waits for asyncssh."""
        self._own = False
        """Whether packets are taken apart here."""
        self._incoming: Incoming | None = None
        self._longest = 0
        self._proven = False
        self._thinking = False
        """Whether asyncssh has not finished with the last packet."""
        self._paused = False
        self._readable = False
        self._ending = False
        self._taken = 0
        """Packets that asyncssh did not see and has not counted."""
        self._heard = poller.now
        # Going out.
        self._sealer: Sealer | None = None
        """None before there are keys, and during each key exchange."""
        self._sealed = 0
        """Bytes since asyncssh, which counts them for the next key exchange, was told."""
        self.sending = False
        """Whether data of streams is taken now."""
        self._out = bytearray()
        self._view = memoryview(self._out)
        self._start = self._end = 0
        self._blocked = False
        self._full = False
        self._marked = False
        self._turning = False
        self._queue: deque[Stream] | None = None
        """Who waits for a turn to send, where somebody does."""
        # What is looked after once a second.
        self._opening: list[Stream] = []
        self._asked = 0
        self._named: set[asyncio.Task[None]] = set()
        """Connect to services that are known by a name."""

    def begin(self) -> None:
        """Start talking."""
        self.poller.joined(self)
        self.connection.connection_made(self)
        if not self._closed:
            self.poller.watch(self._sock, self)

    # Coming in.

    def ready(self, events: int) -> None:
        """Something may have happened to the socket."""
        if events & WRITABLE and self._blocked:
            self._blocked = False
            self._decide()
            self.flush()
            self._serve()
        if events & READABLE:
            self._readable = True
            if events & ENDING:
                self._ending = True
            self._read()

    def turn(self) -> None:
        """Go on with what waits."""
        self._turning = False
        if self._closed:
            return
        if self._held and not self._thinking and not self._paused:
            held, self._held = self._held, b""
            self.poller.wire[:len(held)] = held
            self._take(len(held))
        if self._readable:
            self._read()
        self._serve()

    def fail(self, bug: Exception) -> None:
        """A fault of ours: the connection ends, as asyncssh would end it."""
        self.connection.internal_error(cast("Any", (type(bug), bug, bug.__traceback__)))

    def _read(self) -> None:
        if self._closed or self._paused or self._thinking:
            return
        wire, held = self.poller.wire, self._held
        kept = len(held)
        if kept >= _READ:  # asyncssh thought about a packet before it: that comes first, and the buffer has an end
            self._again()
            return
        wire[:kept] = held
        try:
            got = self._sock.recv_into(wire[kept:kept + _READ])
        except BlockingIOError:
            self._readable = False
            return
        except OSError as error:
            self._lost(error)
            return
        if not got:
            self._lost(None)
            return
        self._heard = self.poller.now
        self._asked = 0
        self._held = b""
        # A short read means that nothing is left, unless an end has been seen that is still to be read.
        self._readable = got == _READ or self._ending
        self._take(kept + got)
        if self._readable and not self._thinking:
            self._again()

    def _take(self, end: int) -> None:
        """Take apart the first *end* bytes of the common buffer."""
        connection, start = self.connection, 0
        try:
            while start < end and not connection.gone and not self._thinking:
                if self._own:
                    taken = self._packet(start, end)
                    if not taken:
                        break
                    start += taken
                else:
                    connection.data_received(bytes(self.poller.wire[start:end]))
                    start, end = 0, self._adopt()
        except PacketDecodeError as error:
            connection.violated(asyncssh.ProtocolError(str(error)))
        except asyncssh.DisconnectError as error:
            connection.violated(error)
        if start < end and not self._closed:
            self._held = bytes(self.poller.wire[start:end])

    def _adopt(self) -> int:
        """After asyncssh has taken bytes itself: whether packets are ours from here on. What it has left over."""
        if self.connection.gone or not self.connection.between_packets:
            self._thinking = self.connection.thinking
            return 0
        self._refresh()
        if not self._incoming:
            return 0
        self._own = True
        rest = self.connection.left_over()
        self.poller.wire[:len(rest)] = rest
        return len(rest)

    def resumed(self, rest: bytes) -> None:
        """asyncssh has finished with a packet that it thought about; *rest* is what came behind it."""
        self._held = rest + self._held
        self._refresh()
        self._again()

    def _packet(self, start: int, end: int) -> int:
        """Handle one packet; its length on the wire, 0 when it is not there yet."""
        wire, opened, incoming = self.poller.wire, self.poller.opened, self._incoming
        assert incoming
        length = incoming.opener.open(wire, start, end, opened, self._longest)
        if not length:
            return 0
        whole = HEAD + length + TAG
        kind, payload = opened[1], length - opened[0]
        if kind == MSG_CHANNEL_OPEN and self._proven:
            self._taken += 1
            self.connection.channel_asked(SSHPacket(bytes(opened[2:payload])))
            return whole
        if MSG_CHANNEL_OPEN < kind <= MSG_CHANNEL_LAST and payload >= LEAST:
            stream = self.connection.channel(NUMBER(opened, 2)[0])
            if type(stream) is Stream:
                self._taken += 1
                stream.told(kind, opened, payload)
                return whole
        connection = self.connection
        connection.passed_over(self._taken)
        self._taken = 0
        incoming.opened = bytes(opened[:length])
        connection.data_received(bytes(wire[start:start + whole]))
        self._refresh()
        return whole

    def _refresh(self) -> None:
        """See what asyncssh has come to: nothing but a packet of its own changes it."""
        connection = self.connection
        self._thinking = connection.thinking
        self._proven = connection.proven
        self._longest = connection.longest
        incoming = connection.incoming
        self._incoming = incoming if isinstance(incoming, Incoming) else None

    # Going out.

    def keyed(self, sealer: Sealer) -> None:
        """New keys for what we send: whatever waited for them goes on."""
        self._sealer = sealer
        self._decide()
        if self._queue:
            self._again()

    def unkeyed(self) -> None:
        """A key exchange has begun."""
        self._sealer = None
        self._decide()

    def _decide(self) -> None:
        self.sending = self._sealer is not None and not self._blocked and not self._pausing and not self._closed

    def queue(self, stream: Stream, *, fresh: bool) -> None:
        """Have *stream* pump in its turn. One that has just woken up goes before those that used up a quantum."""
        if not stream.queued:
            stream.queued = True
            if self._queue is None:
                self._queue = deque()
            if fresh:
                self._queue.appendleft(stream)
            else:
                self._queue.append(stream)
            if self.sending:
                self._again()

    def _serve(self) -> None:
        if not (queue := self._queue):
            return
        end = self.meter.bytes_out + _TURN
        for _ in range(len(queue)):
            if not queue or not self.sending:
                return
            if self.meter.bytes_out > end:
                self._again()
                return
            stream = queue.popleft()
            stream.queued = False
            stream.pump(fresh=False)

    def data(self, channel: int, size: int) -> None:
        """Send the first *size* bytes behind `DATA_AT` in the common buffer."""
        assert self._sealer
        self._room(DATA_AT + size + OVERHEAD)
        self._end = end = self._sealer.seal_data(channel, self.poller.plain, size, self._view, self._end)
        self._sealed += size
        self.meter.bytes_out += size
        if end - self._start >= self._cork:
            self.flush()
        elif not self._marked:
            self._marked = True
            self.poller.written(self)

    def control(self, payload: bytes) -> None:
        """Send a message about a channel; it waits for the end of a key exchange."""
        if self.connection.gone:
            return
        if self._sealer is None:
            self.connection.send_packet(payload[0], payload[1:])
            return
        packet = self._sealer.seal_payload(payload)
        self._sealed += len(packet)
        self.write(packet)

    def refuse(self, peer: int, code: int, reason: str) -> None:
        """Tell the peer that a channel is not opened."""
        self.connection.send_channel_open_failure(peer, code, reason, DEFAULT_LANG)

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Send *data*, sealed already, at the end of this turn."""
        if self._closed:
            return
        size = len(data)
        self._room(size)
        self._view[self._end:self._end + size] = data
        self._end += size
        if self._end - self._start > HIGH_WATER and not self._blocked:
            self.flush()
        waiting = self._end - self._start
        if waiting > HIGH_WATER and not self._closed:
            if waiting > MOST_UNSENT:
                self._lost(asyncssh.ConnectionLost("the peer sends and does not read"))
                return
            if not self._full:
                self._full = True
                self.connection.pause_writing()
        if not self._marked:
            self._marked = True
            self.poller.written(self)

    def _room(self, size: int) -> None:
        """Have *size* bytes free at the end of the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
        if self._end + size > len(self._out):
            waiting = self._end - self._start
            larger = bytearray(max(_SMALL, 2 * len(self._out) if size > _SMALL else len(self._out), waiting + size))
            larger[:waiting] = self._view[self._start:self._end]
            self._out, self._view = larger, memoryview(larger)
            self._start, self._end = 0, waiting

    def flush(self) -> None:
        """Send what was written, as far as the socket takes it."""
        self._marked = False
        if self._sealed:
            sealed, self._sealed = self._sealed, 0
            self.connection.sealed(sealed)
        if self._closed or self._blocked or self._start == self._end:
            return
        try:
            sent = self._sock.send(self._view[self._start:self._end])
        except BlockingIOError:
            self._blocked = True
            self._decide()
            return
        except OSError as error:
            self._lost(error)
            return
        self._start += sent
        self._sent += sent
        if self._start < self._end:
            self._blocked = True
            self._decide()
        if self._sent > self._allowed or self.poller.now >= self._look_at:
            self._look()
        if self._full and self._end - self._start <= LOW_WATER:
            self._full = False
            self.connection.resume_writing()

    # What the path carries.

    def _look(self) -> None:
        """Ask the kernel how the path is, and wait when more is on its way than it carries."""
        under_way = kernel.under_way(self._sock)
        if under_way is None:
            self._allowed, self._look_at = _NO_LIMIT, _NO_LIMIT
            return
        path, now = self._pace, self.poller.now
        if now >= self._look_at:
            path.seen(now, kernel.min_rtt(self._sock), self._sent - under_way, under_way,
                      stopped=self._blocked or self._pausing is not None)
            self._look_at = now + path.step
            self.packet = path.packet
            self._cork = min(_CORK, self.packet)
            if path.unsent != self._unsent:
                self._unsent = path.unsent
                kernel.limit_unsent(self._sock, self._unsent)
        budget = path.budget
        self._allowed = _NO_LIMIT if budget is None else self._sent - under_way + budget - self.packet
        if (wait := path.pause(under_way)) and not self._pausing:
            arrived = self._sent - under_way
            if arrived == self._arrived:  # nothing comes through: there is less and less hurry to see that again
                wait = max(wait, min(2 * self._waited, path.step))
            self._arrived, self._waited = arrived, wait
            self._pausing = self.poller.loop.call_later(wait, self._go_on)
            self._decide()

    def _go_on(self) -> None:
        """Some of what was on its way should have arrived."""
        self._pausing = None
        self.poller.now = self.poller.loop.time()  # a rate made of an older time would be too high, and is remembered
        self._look()
        self._decide()
        if self._queue:
            self._again()

    # Streams.

    def carry(self, sock: socket.socket, kind: bytes, host: str, port: int, ended: "Ended") -> Stream:
        """Take *sock*, which is connected and does not block, to *host*:*port* as the peer knows it.

        *ended* hears once how it went. Raises ChannelOpenError when the connection is gone.
        """
        stream = Stream(self, sock, self.poller.now + OPEN_TIMEOUT, ended)
        self._expect()
        self._opening.append(stream)
        stream.ask(kind, host, port)
        return stream

    def deliver(self, target: Target, peer: int, window: int, most: int) -> None:
        """Connect to *target* for the channel *peer* of the peer, and answer it."""
        if not _is_address(target.host):
            if len(self._named) >= MOST_CHANNELS:
                raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
            task = self.poller.loop.create_task(self._deliver_by_name(target, peer, window, most))
            self._named.add(task)
            task.add_done_callback(self._named.discard)
            return
        try:
            family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, error.strerror or "no socket") from error
        place = target.host, target.port
        failure = sock.connect_ex(place)
        if failure == errno.EINPROGRESS:
            failure = sock.connect_ex(place)  # a service of this host has answered by now
        if failure not in (0, errno.EALREADY):
            sock.close()
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "connect failed")
        stream = self._answered(sock, peer, window, most)
        if failure:
            self._opening.append(stream)
        else:
            stream.connected()

    async def _deliver_by_name(self, target: Target, peer: int, window: int, most: int) -> None:
        """The same where a resolver must be asked, for whom nobody else waits."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                sock = await reached(target.host, target.port)
        except (OSError, UnicodeError):
            self.refuse(peer, OPEN_CONNECT_FAILED, "connect failed")
            return
        with contextlib.suppress(asyncssh.ChannelOpenError):  # the connection has gone meanwhile
            self._answered(sock, peer, window, most).connected()

    def _answered(self, sock: socket.socket, peer: int, window: int, most: int) -> Stream:
        """The stream of *sock*, which connects to a service. Raises ChannelOpenError when the connection is gone."""
        try:
            stream = Stream(self, sock, self.poller.now + CONNECT_TIMEOUT)
        except asyncssh.ChannelOpenError:
            sock.close()
            raise
        self._expect()
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.answer(peer, window, most)
        return stream

    def _expect(self) -> None:
        """From the first stream on packets may be long."""
        if self._longest < FAST_PACKET:
            self.connection.expect_packets(FAST_PACKET)
            self._longest = self.connection.longest

    def window(self, present: int, elapsed: float) -> int:
        """The window that a stream should have, which has consumed half of *present* in *elapsed* seconds."""
        return pace.window(present, elapsed, self._pace.min_rtt)

    # Once a second.

    def sweep(self, now: float) -> None:
        """Give up what is overdue, ask a silent peer for a sign of life, let go of a buffer that is not in use."""
        if self._opening:
            self._opening = [stream for stream in self._opening if not stream.overdue(now)]
        if self._start == self._end and self._out:
            self._out = bytearray()
            self._view = memoryview(self._out)
            self._start = self._end = 0
        self._queue = self._queue or None
        self.connection.rekey_when_old(now)
        self._asked = self.connection.look_after(now - self._heard, self._asked)

    # The end.

    def _lost(self, error: Exception | None) -> None:
        if not self._closed:
            self._shut()
            self.connection.connection_lost(error)

    def _shut(self) -> None:
        self._closed = True
        if self._pausing:
            self._pausing.cancel()
            self._pausing = None
        self._decide()
        self.poller.left(self)
        self.poller.forget(self._sock)
        self._sock.close()
        self._queue = None
        self._held = b""
        for task in self._named:
            task.cancel()

    def abort(self) -> None:
        """Close at once; what the socket takes without waiting is still sent."""
        if not self._closed:
            self.flush()
        if not self._closed:
            self._shut()

    def close(self) -> None:
        """Close at once: asyncssh closes its connections when everything was said."""
        self.abort()

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._end - self._start

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are those of `options`."""

    def can_write_eof(self) -> bool:
        """SSH ends by a message."""
        return False

    def pause_reading(self) -> None:
        """Take nothing from the peer for now."""
        self._paused = True

    def resume_reading(self) -> None:
        """Take from the peer again."""
        self._paused = False
        self._readable = True
        self._again()

    def is_reading(self) -> bool:
        """Whether what the peer sends is taken."""
        return not self._paused and not self._closed

    def _again(self) -> None:
        if not self._turning and not self._closed:
            self._turning = True
            self.poller.again(self)


def _is_address(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True
