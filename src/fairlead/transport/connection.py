"""The guards around asyncssh's connections, for both ends. Nothing outside this room sees them.

asyncssh finds the handler of a channel type or a request by its name (``getattr``): what it learns to do, it does.
Here two gates stand before that, and what they do not name is refused.

Rules, and the attack each stops:

1. No keys without strict key exchange: `send_newkeys` refuses first (Terrapin, CVE-2023-48795). The peer's offer of it
   is part of what the host key signs, so nobody in the middle can take it away unnoticed.
2. Channel types and global requests pass an allow-list. All else gets one answer, the same for "forbidden" and "does
   not exist", so that refusals draw no map. (asyncssh ends the connection for some; a peer could tell them apart.)
3. Every answer is given at once: no queue of requests that a peer can fill (asyncssh keeps one without a limit).
4. Packets are as small as the protocol allows until a channel is opened; a length field reserves no memory beyond that.
5. Streams stop reading when the connection is full, and a peer that makes us answer and does not read, or does not
   end a key exchange, for which answers wait, is cut: asyncssh buffers without limit.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.constants import (
    MSG_CHANNEL_OPEN,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.packet import SSHPacket, String, UInt32
from asyncssh.session import SSHSession

from fairlead.base.errors import FairleadError
from fairlead.transport.accelerated.library import opened_with, sealed_with
from fairlead.transport.options import (
    HIGH_WATER,
    LOW_WATER,
    MOST_CHANNELS,
    MOST_DEFERRED,
    MOST_EARLY_PACKET,
    MOST_PACKET,
    MOST_UNSENT,
)
from fairlead.transport.peer import Target

if TYPE_CHECKING:
    from fairlead.transport.accelerated.link import Link

KEEPALIVE = b"keepalive@openssh.com"
MOST_HOST_BYTES = 255

Wanted = Target | tuple[Any, SSHSession[bytes]]
"""What a peer may have: a stream to a service, or a channel of asyncssh's with what serves it."""

Ended = Callable[[FairleadError | None], None]
"""Hears, once, that a stream is over at both ends, and why, if not in order."""


@dataclass(slots=True)
class Meter:
    """What passed through a connection's streams."""

    streams: int = 0
    """Open now."""
    bytes_in: int = 0
    """From the peer."""
    bytes_out: int = 0
    """To the peer."""


class Sender(Protocol):
    """Something that sends on a connection and can stop."""

    def weigh(self) -> None:
        """The connection became full, or takes more again."""
        ...


class Carrying(Protocol):
    """A stream on its way."""

    def abort(self) -> None:
        """Reset both ends."""
        ...


class Streams(Protocol):
    """The forwarded connections of one SSH connection: the way that they take."""

    name: str
    """``stock`` or ``accelerated``."""

    def carry(self, sock: socket.socket, kind: bytes, host: str, port: int, ended: Ended) -> Carrying:
        """Open a channel of *kind* (RFC 4254 section 7.2) to what the peer knows as *host*:*port* for *sock*.

        *sock* is connected and does not block; it is no longer the caller's. Raises ChannelOpenError when the
        connection is gone, and leaves *sock* alone.
        """
        ...

    def deliver(self, target: Target, peer: int, window: int, most: int) -> None:
        """Connect to *target* for the channel that the peer opens and calls *peer*, and answer it.

        *window* and *most* are what the peer takes: bytes in all, and of data in one packet. Raises ChannelOpenError.
        """
        ...


def refusal() -> asyncssh.ChannelOpenError:
    """The one answer for everything that is forbidden or does not exist."""
    return asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "refused")


class Guarded(SSHConnection):
    """An SSH connection that does nothing but what its two gates name."""

    streams: Streams
    """Set by the `way` before the first byte."""
    link: "Link | None" = None
    """The transport, where it is ours."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kex_name = ""
        self.meter = Meter()
        self.full = False
        self.senders: set[Sender] = set()
        self.handlers: set[asyncio.Task[Any]] = set()
        self._max_recv_pktlen = MOST_EARLY_PACKET
        self._signs: list[asyncio.Future[Any]] = []
        """Of life, that the peer was asked for and has not given."""

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None

    # What the ends fill in.

    def global_requested(self, name: bytes, packet: SSHPacket) -> bool | bytes:  # noqa: ARG002
        """Whether a global request is granted, or with what answer it is."""
        return False

    def channel_wanted(self, kind: bytes, packet: SSHPacket) -> Wanted:  # noqa: ARG002
        """The channel for a request to open one. Raises ChannelOpenError."""
        raise refusal()

    # What the accelerated path looks at and counts. It is asyncssh's state: here, and for keys in `library`.

    @property
    def proven(self) -> bool:
        """Whether the peer is who it is."""
        return self._auth_complete

    @property
    def session_id(self) -> bytes:
        """The hash of the first key exchange."""
        return self._session_id

    @property
    def incoming(self) -> Any:
        """What opens packets of the peer now."""
        return self._recv_encryption

    @property
    def longest(self) -> int:
        """The longest packet that the peer may send."""
        return self._max_recv_pktlen

    @property
    def between_packets(self) -> bool:
        """Whether asyncssh waits for the beginning of a packet."""
        return self._recv_handler == self._recv_pkthdr

    @property
    def thinking(self) -> bool:
        """Whether asyncssh takes nothing until it has finished with a packet; `Link.resumed` is called then."""
        return self._recv_handler not in (self._recv_version, self._recv_pkthdr, self._recv_packet)

    def left_over(self) -> bytes:
        """Take what asyncssh was given and has not looked at."""
        rest, self._inpbuf = self._inpbuf, b""
        return rest

    def channel(self, number: int) -> object:
        """The channel that we call *number*."""
        return self._channels.get(number)

    def count(self, kind: type) -> int:
        """How many channels of that *kind* there are."""
        return sum(isinstance(one, kind) for one in self._channels.values())

    def channel_asked(self, packet: SSHPacket) -> None:
        """The peer wants a channel. Raises ProtocolError, PacketDecodeError."""
        self._auth_final = True  # as asyncssh notes: from now on it tolerates no request to log in
        self._gate_channel_open(MSG_CHANNEL_OPEN, 0, packet)

    def passed_over(self, packets: int) -> None:
        """So many packets came that asyncssh did not see."""
        self._recv_seq = (self._recv_seq + packets) & 0xFFFFFFFF

    def sealed(self, size: int) -> None:
        """So many bytes were sealed without asyncssh; begins a key exchange when it is time for one (RFC 4253, 9)."""
        self._rekey_bytes_sent += size
        if self._rekey_bytes_sent >= self._rekey_bytes and self._kex_complete:
            self._rekey()

    def rekey_when_old(self, now: float) -> None:
        """Begin a key exchange when the keys are old; *now* is by the monotonic clock."""
        if self._auth_complete and self._kex_complete and self._rekey_seconds and now >= self._rekey_time:
            self._rekey()

    def _rekey(self) -> None:
        if not self.gone:
            self._send_kexinit()
            self._kexinit_sent = True

    def violated(self, error: asyncssh.DisconnectError) -> None:
        """The peer broke the protocol: tell it, and end."""
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)

    def look_after(self, silent_s: float, asked: int) -> int:
        """Ask a peer that is silent for a sign of life; how often since it was heard, of which *asked* is so far.

        Ends when too many were not answered, whatever else the peer says.
        """
        interval = self._keepalive_interval
        if not self._auth_complete or not interval or silent_s < interval * (asked + 1):
            return asked
        self._signs = [sign for sign in self._signs if not sign.done()]
        if len(self._signs) >= self._keepalive_count_max:
            self.connection_lost(asyncssh.ConnectionLost("the peer does not answer to keepalives"))
        else:
            sign = self._loop.create_future()
            self._signs.append(sign)
            self._global_request_waiters.append(sign)
            self._send_global_request(KEEPALIVE, want_reply=True)
        return asked + 1

    # The gates.

    def _gate_global_request(self, _type: int, _id: int, packet: SSHPacket) -> None:
        name = packet.get_string()
        reply = packet.get_boolean()
        granted = name == KEEPALIVE or self.global_requested(name, packet)
        if reply and isinstance(granted, bytes):
            self.send_packet(MSG_REQUEST_SUCCESS, granted)
        elif reply:
            self.send_packet(MSG_REQUEST_SUCCESS if granted else MSG_REQUEST_FAILURE)

    def _gate_channel_open(self, _type: int, _id: int, packet: SSHPacket) -> None:
        kind = packet.get_string()
        sender, window, size = packet.get_uint32(), packet.get_uint32(), packet.get_uint32()
        if not size:
            raise asyncssh.ProtocolError("a channel without packets")
        try:
            if len(self._channels) >= MOST_CHANNELS:
                raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
            wanted = self.channel_wanted(kind, packet)
            if isinstance(wanted, Target):
                self.streams.deliver(wanted, sender, window, size)
            else:
                channel, session = wanted
                channel.process_open(sender, window, min(size, MOST_PACKET), session)
        except asyncssh.ChannelOpenError as error:
            self.send_channel_open_failure(sender, error.code, error.reason, error.lang)

    _packet_handlers = {  # noqa: RUF012 - asyncssh's name and shape
        **SSHConnection._packet_handlers,  # noqa: SLF001
        MSG_GLOBAL_REQUEST: _gate_global_request,
        MSG_CHANNEL_OPEN: _gate_channel_open,
    }

    def expect_packets(self, size: int) -> None:
        """Take packets with *size* bytes of data from now on."""
        self._update_recv_pktlen(size)

    async def ask(self, name: bytes, host: str, port: int) -> bool:
        """Make a global request about *host* and *port* and wait for the answer."""
        answer, _ = await self._make_global_request(name, String(host), UInt32(port))
        return answer == MSG_REQUEST_SUCCESS

    # asyncssh's own steps.

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        """The key exchange is done; without strict rules it comes to nothing."""
        if not self._strict_kex:
            raise asyncssh.KeyExchangeFailed("strict key exchange is required")
        if self._kex:
            self.kex_name = self._kex.algorithm.decode("ascii")
        super().send_newkeys(k, h)
        if self.link:
            outgoing = sealed_with(self._send_encryption, self.link.poller.padding)
            self._send_encryption = cast("Any", outgoing)
            self._next_recv_encryption = cast("Any", opened_with(self._next_recv_encryption))
            if self._kex_complete:  # what waited may have begun the next one already
                self.link.keyed(outgoing.sealer)

    def _send_kexinit(self) -> None:
        super()._send_kexinit()
        if self.link:
            self.link.unkeyed()

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """Send a packet. asyncssh hides each behind an empty one, which is of no use with AES-GCM."""
        if pkttype != MSG_IGNORE or not self.link:
            super().send_packet(pkttype, *args, handler=handler)
            if len(self._deferred_packets) > MOST_DEFERRED and not self.gone:
                self.connection_lost(asyncssh.ConnectionLost("the peer asks and does not end its key exchange"))

    def log_sent_packet(self, *_: Any) -> None:
        """Nothing: names and sizes of packets are nobody's business, and asyncssh words them before it looks."""

    def log_received_packet(self, *_: Any) -> None:
        """Nothing, likewise."""

    def _finish_recv_packet(self, pkttype: int, seq: int, _task: "asyncio.Task[None] | None" = None,
                            is_async: bool = False) -> None:
        if not self.link or not is_async:
            super()._finish_recv_packet(pkttype, seq, _task, is_async)
            return
        rest = self.left_over()
        super()._finish_recv_packet(pkttype, seq, _task, is_async)
        self.link.resumed(rest)

    def _set_keepalive_timer(self) -> None:
        if not self.link:  # which looks after all connections in one sweep
            super()._set_keepalive_timer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        super().connection_made(transport)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """Bytes from the peer."""
        if self._transport and self._transport.get_write_buffer_size() > MOST_UNSENT:
            self.connection_lost(asyncssh.ConnectionLost("the peer sends and does not read"))
            return
        super().data_received(data, datatype)

    def pause_writing(self) -> None:
        """The socket takes no more: whoever sends waits."""
        self.full = True
        for sender in tuple(self.senders):
            sender.weigh()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.full = False
        for sender in tuple(self.senders):
            sender.weigh()


class Abandonable:
    """A channel that we asked for and no longer want: it is closed when the peer opens it after all."""

    _send_state: str
    abandoned = False

    def abandon(self) -> None:
        """Close it now, or as soon as it is open."""
        self.abandoned = True
        if self._send_state != "closed":
            self.abort()

    def abort(self) -> None:
        """Close it at once."""
        super().abort()  # type: ignore[misc]

    def process_open_confirmation(self, send_chan: int, send_window: int, send_pktsize: int,
                                  packet: SSHPacket) -> None:
        """The peer opened it."""
        super().process_open_confirmation(  # type: ignore[misc]
            send_chan, send_window, min(send_pktsize, MOST_PACKET), packet)
        if self.abandoned:
            self.abort()


def host_and_port(packet: SSHPacket) -> tuple[str, int] | None:
    """The next two fields of *packet*; None unless a host of printable ASCII without spaces and a port of 1 to 65535.

    No spelling is made equal to another: ``localhost``, ``0``, ``*``, ``::``, a capital letter or a trailing dot name
    no service.
    """
    host, port = packet.get_string(), packet.get_uint32()
    if not 0 < len(host) <= MOST_HOST_BYTES or not host.isascii() or b" " in host or not 0 < port < 1 << 16:
        return None
    name = host.decode("ascii")
    return (name, port) if name.isprintable() else None

