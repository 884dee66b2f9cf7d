"""One forwarded connection: a local socket and a channel, and nothing else. No task, no future, no timer.

Rules, and what each prevents:

1. Pull: the local socket is read only when the channel's window and the connection take what is read. A peer that does
   not read stops the program that sends, through every hop; what waits here for a program that does not read is one
   window at most, and it is granted anew only when it was passed on.
2. An end of file goes through each way by itself: half-closed connections work.
3. An end that goes away before its end of file was cut. The other end is reset, not closed: nobody takes a part for
   the whole.
4. A channel is closed when the program has taken everything that came: until then it counts, and one that outlives its
   connection is cut. So a peer that fills windows and goes leaves nothing behind, however often it comes.
5. What the protocol forbids in this state (data beyond the window or after the end of file, a second answer to an
   open, a window above what 32 bits hold) ends the connection (RFC 4254 sections 5.1 to 5.3).
"""

import contextlib
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    OPEN_CONNECT_FAILED,
)
from asyncssh.packet import SSHPacket, String, UInt32

from fairlead.base.errors import FairleadError
from fairlead.transport.accelerated.packets import DATA_AT
from fairlead.transport.accelerated.poller import BROKEN, ENDING, READABLE, WRITABLE
from fairlead.transport.options import FAST_PACKET, QUANTUM, WINDOW
from fairlead.transport.refusals import lost, refused
from fairlead.transport.resets import resetting

if TYPE_CHECKING:
    from fairlead.transport.accelerated.link import Link
    from fairlead.transport.connection import Ended

_PARTS = 4
"""A window is granted anew by so many parts: by halves, two processes that share cores wait for each other."""
LEAST = 6
"""Where the payload of the shortest message about a channel ends: padding length, type, number."""
NUMBER = struct.Struct(">I").unpack_from
_CONFIRMED = struct.Struct(">III").unpack_from
_ADJUST = struct.Struct(">BII").pack
_MESSAGE = struct.Struct(">BI").pack
_OPENED = struct.Struct(">BIIII").pack
_ASK = struct.Struct(">III").pack
_MOST_WINDOW = (1 << 32) - 1

_NOBODY = String("127.0.0.1") + UInt32(0)
"""Who connected here: nobody's business (RFC 4254 section 7.2 wants a place)."""

_KIND = {kind: bytes((MSG_CHANNEL_OPEN,)) + String(kind) for kind in (b"direct-tcpip", b"forwarded-tcpip")}

_ASKED, _CONNECTING, _OPEN, _GONE = range(4)


@lru_cache(maxsize=1024)
def _destination(host: str, port: int) -> bytes:
    """Where a channel is to lead, and on whose behalf."""
    return String(host) + UInt32(port) + _NOBODY


class Stream:
    """A channel of a `Link`, which asyncssh's connection knows under its number as it knows its own."""

    __slots__ = (
        "_abandoned", "_consumed", "_counted", "_credit", "_deadline", "_ended", "_ending", "_got_close", "_got_eof",
        "_granted", "_link", "_most", "_number", "_outcome", "_peer", "_pending", "_readable", "_send_window",
        "_sent_close", "_sent_eof", "_since", "_sock", "_state", "_what", "_window", "queued",
    )

    def __init__(self, link: "Link", sock: socket.socket, deadline: float, ended: "Ended | None" = None) -> None:
        self._link = link
        self._sock: socket.socket | None = sock
        self._deadline = deadline
        """When an open that was not answered is given up, in the loop's time."""
        self._ended = ended
        self._state = _CONNECTING
        self._number = link.connection.add_channel(self)  # type: ignore[arg-type]
        self._peer = 0
        self._send_window = 0
        self._most = 0
        self._window = self._granted = WINDOW
        self._credit = 0
        self._consumed = 0
        self._since = link.poller.now
        """When the half of a window began that `_consumed` counts."""
        self._pending: bytearray | None = None
        self._outcome: FairleadError | None = None
        self._what = ""
        self._readable = self._ending = self._abandoned = False
        self._got_eof = self._got_close = self._sent_eof = self._sent_close = False
        self._counted = False
        self.queued = False
        """Waits for its turn to send."""

    # Opening.

    def ask(self, kind: bytes, host: str, port: int) -> None:
        """Ask the peer for *host*:*port*."""
        self._state = _ASKED
        self._what = f"{host}:{port}"
        self._link.control(b"".join((_KIND[kind], _ASK(self._number, WINDOW, FAST_PACKET), _destination(host, port))))
        assert self._sock
        self._link.poller.watch(self._sock, self)

    def answer(self, peer: int, window: int, most: int) -> None:
        """The peer asks; its service is being connected to."""
        self._peer, self._send_window, self._most = peer, window, min(most, FAST_PACKET)
        assert self._sock
        self._link.poller.watch(self._sock, self)

    def connected(self) -> None:
        """The service answered."""
        self._link.control(_OPENED(MSG_CHANNEL_OPEN_CONFIRMATION, self._peer, self._number, WINDOW, FAST_PACKET))
        self._open()

    def unanswered(self) -> None:
        """The service did not answer."""
        self._link.refuse(self._peer, OPEN_CONNECT_FAILED, "connect failed")
        self._leave()
        self._reset_local()

    def _open(self) -> None:
        self._state = _OPEN
        self._counted = True
        self._link.meter.streams += 1

    def overdue(self, now: float) -> bool:
        """Give an open up that was not answered in time; whether there is nothing more to wait for."""
        if self._state not in (_ASKED, _CONNECTING):
            return True
        if now < self._deadline:
            return False
        if self._state == _CONNECTING:
            self.unanswered()
        else:
            self._give_up(refused(self._what, "no answer"))
        return True

    def abort(self) -> None:
        """Reset both ends."""
        if self._state == _CONNECTING:
            self.unanswered()
        elif self._state == _ASKED:
            self._give_up(lost())
        else:
            self._outcome = self._outcome or lost()
            self._local_gone()
            self._tell(self._outcome)  # whoever aborts waits for no answer: the peer may never give one

    def _give_up(self, outcome: FairleadError | None) -> None:
        """Nobody waits for the answer any more: should it come, the channel is closed."""
        self._abandoned = True
        self._tell(outcome)
        self._reset_local()

    # The local socket.

    def ready(self, events: int) -> None:
        """Something may have happened to the local socket."""
        if events & ENDING:
            self._ending = True  # said once: also of a service that says all and ends before we look
        if self._state == _CONNECTING:
            if events & (WRITABLE | ENDING):
                self._tried()
            return
        if events & WRITABLE and self._pending is not None:
            self._pass_on()
        if events & READABLE and self._sock:
            self._readable = True
            if self._state == _ASKED and events & BROKEN:
                self._give_up(None)
                return
            if self._sent_eof and not self._got_eof and events & BROKEN:
                self._local_gone()  # nothing is read any more that would tell
            elif not self.queued:
                self.pump(fresh=True)

    def fail(self, bug: Exception) -> None:  # noqa: ARG002 - the poller has told of it
        """A fault of ours: the stream ends."""
        self.abort()

    def _tried(self) -> None:
        assert self._sock
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.unanswered()
            return
        try:
            self._sock.getpeername()
        except OSError:
            return  # not yet: an event before its time
        self.connected()
        self._readable = True
        self.pump(fresh=True)

    def pump(self, *, fresh: bool) -> None:
        """Send what the local socket has, one quantum at most. *fresh*: it has just woken up and goes first."""
        link = self._link
        if self._state != _OPEN or not self._readable or self._sent_eof or self._sent_close or self._got_close:
            return
        if not link.sending:
            link.queue(self, fresh=fresh)
            return
        sock, plain, left = self._sock, link.poller.plain, QUANTUM
        assert sock
        while True:
            size = min(self._most, link.packet)
            if size > self._send_window:
                size = self._send_window
            if size > left:
                size = left
            if size <= 0:
                if left <= 0:
                    link.queue(self, fresh=False)
                return
            try:
                got = sock.recv_into(plain[DATA_AT:DATA_AT + size])
            except BlockingIOError:
                self._readable = False
                return
            except OSError:
                self._local_gone()
                return
            if not got:
                self._readable = False
                self._sent_eof = True
                self._send(MSG_CHANNEL_EOF)
                self._settle()
                return
            self._send_window -= got
            left -= got
            link.data(self._peer, got)
            if got < size and not self._ending:  # drained, unless an end that came along is still to be read
                self._readable = False
                return
            if not link.sending:
                link.queue(self, fresh=False)
                return

    def _local_gone(self) -> None:
        """The program is no more, or is to see no more: both ends are let go of at once."""
        self._close()
        if self._got_close:
            self._leave()
        self._reset_local()

    def _pass_on(self) -> None:
        """Give the program what waits for it."""
        assert self._sock
        pending = self._pending
        assert pending is not None
        try:
            sent = self._sock.send(pending)
        except BlockingIOError:
            return
        except OSError:
            self._local_gone()
            return
        if sent == len(pending):
            self._pending = None
            self._passed_on(sent)
            self._settle()
        else:
            del pending[:sent]
            self._passed_on(sent)

    def _passed_on(self, size: int) -> None:
        """So much more may come."""
        self._credit += size
        if self._credit * _PARTS >= self._window and not self._sent_close and not self._got_eof:
            self._consumed += self._credit
            if self._consumed * 2 >= self._window:
                now = self._link.poller.now
                window = self._link.window(self._window, now - self._since)
                self._consumed, self._since = 0, now
                self._credit += window - self._window
                self._window = window
            self._granted += self._credit
            self._link.control(_ADJUST(MSG_CHANNEL_WINDOW_ADJUST, self._peer, self._credit))
            self._credit = 0

    def _settle(self) -> None:
        """Pass the peer's end on, if everything before it was passed on; close when there is nothing else to come."""
        if not self._got_eof or self._pending is not None:
            return
        if self._sent_eof or self._got_close:
            self._close()
            if self._got_close:
                self._leave()
            self._close_local()
        elif self._sock:
            with contextlib.suppress(OSError):  # it has just been reset
                self._sock.shutdown(socket.SHUT_WR)

    def _reset_local(self) -> None:
        if self._sock:
            resetting(self._sock)
        self._close_local()

    def _close_local(self) -> None:
        self._readable = False
        self._pending = None
        if self._sock:
            self._link.poller.forget(self._sock)
            self._sock.close()
            self._sock = None
        self._perhaps_over()

    # The channel.

    def _arrived(self, data: memoryview, size: int) -> None:
        if size > self._granted or self._got_eof or self._state != _OPEN:
            raise asyncssh.ProtocolError("data that was not to come")
        self._granted -= size
        self._link.meter.bytes_in += size
        if self._sock is None:
            return  # nobody is there to take it, and the close is on its way
        if self._pending is not None:
            self._pending += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._local_gone()
            return
        if sent < size:
            self._pending = bytearray(data[sent:])
        self._passed_on(sent)

    def told(self, kind: int, packet: memoryview, end: int) -> None:
        """A message of the peer about this channel, whose payload is ``packet[1:end]``; valid within this call.

        Raises ProtocolError, PacketDecodeError.
        """
        if kind == MSG_CHANNEL_DATA:
            if end < DATA_AT or (size := NUMBER(packet, 6)[0]) != end - DATA_AT:
                raise asyncssh.ProtocolError("data of a length that does not fit")
            self._arrived(packet[DATA_AT:end], size)
        elif kind == MSG_CHANNEL_WINDOW_ADJUST and end == LEAST + 4:
            self._send_window += NUMBER(packet, 6)[0]
            if self._send_window > _MOST_WINDOW or self._state != _OPEN or self._got_close:
                raise asyncssh.ProtocolError("a window that was not to come")
            if self._readable and not self.queued:
                self.pump(fresh=False)
        elif kind == MSG_CHANNEL_EOF and end == LEAST:
            if self._state != _OPEN or self._got_eof:
                raise asyncssh.ProtocolError("an end of file that was not to come")
            self._got_eof = True
            self._settle()
        elif kind == MSG_CHANNEL_CLOSE and end == LEAST:
            self._closed_by_peer()
        elif kind == MSG_CHANNEL_OPEN_CONFIRMATION and end == LEAST + 12:
            self._confirmed(*_CONFIRMED(packet, 6))
        elif kind == MSG_CHANNEL_OPEN_FAILURE:
            _code, reason = (fields := SSHPacket(bytes(packet[6:end]))).get_uint32(), fields.get_string()
            fields.get_string()
            fields.check_end()
            self._refused(reason.decode("utf-8", "replace"))
        elif kind == MSG_CHANNEL_REQUEST and self._state == _OPEN and not self._got_close:
            (fields := SSHPacket(bytes(packet[6:end]))).get_string()
            if fields.get_boolean() and not self._sent_close:  # behind it the peer knows no such channel
                self._send(MSG_CHANNEL_FAILURE)
        else:
            raise asyncssh.ProtocolError("a message that a stream does not know")

    def _confirmed(self, peer: int, window: int, most: int) -> None:
        if self._state != _ASKED or not most:
            raise asyncssh.ProtocolError("an answer that was not to come")
        self._peer, self._send_window, self._most = peer, window, min(most, FAST_PACKET)
        self._open()
        if self._abandoned:
            self._close()
        else:
            self.pump(fresh=True)

    def _refused(self, reason: str) -> None:
        if self._state != _ASKED:
            raise asyncssh.ProtocolError("an answer that was not to come")
        self._outcome = refused(self._what, reason)
        self._leave()
        self._reset_local()

    def _closed_by_peer(self) -> None:
        if self._state != _OPEN or self._got_close:
            raise asyncssh.ProtocolError("a close that was not to come")
        self._got_close = True
        if self._got_eof:
            self._settle()
            return
        if not self._sent_close:
            self._outcome = lost()
        self._local_gone()

    def _send(self, kind: int) -> None:
        self._link.control(_MESSAGE(kind, self._peer))

    def _close(self) -> None:
        if not self._sent_close and self._state == _OPEN:
            self._sent_close = True
            self._send(MSG_CHANNEL_CLOSE)

    def _leave(self) -> None:
        """The channel is no more."""
        if self._state == _GONE:
            return
        self._state = _GONE
        self._link.connection.remove_channel(self._number)
        self._perhaps_over()

    def _perhaps_over(self) -> None:
        if self._state == _GONE and self._sock is None:
            if self._counted:
                self._counted = False
                self._link.meter.streams -= 1
            self._tell(self._outcome)

    def _tell(self, outcome: FairleadError | None) -> None:
        ended, self._ended = self._ended, None
        if ended:
            ended(outcome)

    # What asyncssh asks of what it has in its table of channels.

    def process_connection_close(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection is no more."""
        whole = self._state == _OPEN and self._got_eof and self._pending is None
        if not whole:
            self._outcome = self._outcome or lost()
        self._leave()
        if whole:
            self._close_local()
        else:
            self._reset_local()

    def close(self) -> None:
        """The connection is about to close: nothing to be said for this channel alone."""
