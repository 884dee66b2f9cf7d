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
5. Streams stop reading when the connection is full, and a peer that makes us answer and does not read is cut: asyncssh
   buffers without limit.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.constants import (
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
)
from asyncssh.packet import SSHPacket, String, UInt32
from asyncssh.session import SSHSession

from fairlead.transport.options import (
    HIGH_WATER,
    LOW_WATER,
    MOST_CHANNELS,
    MOST_EARLY_PACKET,
    MOST_PACKET,
    MOST_UNSENT,
    WINDOW,
)

KEEPALIVE = b"keepalive@openssh.com"
MOST_HOST_BYTES = 255

Wanted = tuple[Any, SSHSession[bytes] | Awaitable[SSHSession[bytes]]]
"""A channel that a peer may have, and what serves it."""


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


def refusal() -> asyncssh.ChannelOpenError:
    """The one answer for everything that is forbidden or does not exist."""
    return asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "refused")


class Guarded(SSHConnection):
    """An SSH connection that does nothing but what its two gates name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kex_name = ""
        self.meter = Meter()
        self.full = False
        self.senders: set[Sender] = set()
        self.handlers: set[asyncio.Task[None]] = set()
        self._max_recv_pktlen = MOST_EARLY_PACKET

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None

    # What the ends fill in.

    def global_requested(self, name: bytes, packet: SSHPacket) -> bool:  # noqa: ARG002
        """Whether a global request is granted."""
        return False

    def channel_wanted(self, kind: bytes, packet: SSHPacket) -> Wanted:  # noqa: ARG002
        """The channel for a request to open one. Raises ChannelOpenError."""
        raise refusal()

    # The gates.

    def _gate_global_request(self, _type: int, _id: int, packet: SSHPacket) -> None:
        name = packet.get_string()
        reply = packet.get_boolean()
        granted = name == KEEPALIVE or self.global_requested(name, packet)
        if reply:
            self.send_packet(MSG_REQUEST_SUCCESS if granted else MSG_REQUEST_FAILURE)

    def _gate_channel_open(self, _type: int, _id: int, packet: SSHPacket) -> None:
        kind = packet.get_string()
        sender, window, size = packet.get_uint32(), packet.get_uint32(), packet.get_uint32()
        if not size:
            raise asyncssh.ProtocolError("a channel without packets")
        try:
            if len(self._channels) >= MOST_CHANNELS:
                raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
            channel, session = self.channel_wanted(kind, packet)
            channel.process_open(sender, window, min(size, MOST_PACKET), session)
        except asyncssh.ChannelOpenError as error:
            self.send_channel_open_failure(sender, error.code, error.reason, error.lang)

    _packet_handlers = {  # noqa: RUF012 - asyncssh's name and shape
        **SSHConnection._packet_handlers,  # noqa: SLF001
        MSG_GLOBAL_REQUEST: _gate_global_request,
        MSG_CHANNEL_OPEN: _gate_channel_open,
    }

    def stream_channel(self) -> "StreamChannel":
        """A new channel for one forwarded connection. Raises ChannelOpenError when the connection is gone."""
        self.expect_packets(MOST_PACKET)
        return StreamChannel(self, self._loop, None, "strict", WINDOW, MOST_PACKET)

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
        self._ended = True
        self._process_eof(kind, number, packet)

    _packet_handlers = {  # noqa: RUF012 - asyncssh's name and shape
        **asyncssh.SSHTCPChannel._packet_handlers,  # noqa: SLF001
        MSG_CHANNEL_EOF: _note_eof,
    }


def host_and_port(packet: SSHPacket) -> tuple[str, int] | None:
    """The next two fields of *packet*; None unless a host of printable ASCII without spaces and a port of 1 to 65535.

    No spelling is made equal to another: ``localhost``, ``0``, ``*``, ``::``, a capital letter or a trailing dot name
    no service.
    """
    host, port = packet.get_string(), packet.get_uint32()
    if not 0 < len(host) <= MOST_HOST_BYTES or not all(0x20 < byte < 0x7F for byte in host) or not 0 < port < 1 << 16:
        return None
    return host.decode("ascii"), port

