"""A live SSH connection between two nodes, from either end, without anything of asyncssh in it."""

import asyncio
from collections.abc import Callable
from typing import Literal

from asyncssh.constants import DISC_BY_APPLICATION

from fairlead.base.errors import printable
from fairlead.base.once import Once
from fairlead.transport.channel import Channel, GuardedClientChannel, Session
from fairlead.transport.connection import Guarded
from fairlead.transport.opening import opening
from fairlead.transport.options import MOST_PACKET
from fairlead.transport.peer import Peer, Target
from fairlead.transport.refusals import lost, refused

Place = tuple[str, int]
"""A host and a port, exactly as the peer spelled them."""
_LOOK_S = 0.05


class Tunnel:
    """An authenticated connection. It never comes back: whoever wants another dials again."""

    def __init__(self, connection: Guarded, peer: Peer, direction: Literal["in", "out"], address: str,
                 since: int) -> None:
        self.peer = peer
        """Its user sets another fingerprint when the other side has proven another key of the node."""
        self.proven = ""
        """Fingerprint of our own key that the other side knows us by, where we dialled."""
        self.direction = direction
        self.address = address
        """``host:port`` of the other end."""
        self.since = since
        """Microseconds since the epoch."""
        self.epoch = 0
        """Set by its user: which login of the node this is."""
        self.cipher = str(connection.get_extra_info("send_cipher", ""))
        self.closed = Once()
        self.reason = ""
        """Why it ended; empty while it lives and when it ended in order."""
        self.reverses: dict[Place, Callable[[], Target | None] | None] = {}
        """What was asked of us ("in", values None) or by us ("out") with tcpip-forward, and where it leads."""
        self.connection = connection
        """For this room only."""

    @property
    def kex(self) -> str:
        """The key exchange that made the keys in use."""
        return self.connection.kex_name

    @property
    def session_id(self) -> bytes:
        """What only the two ends of this connection have in common: the hash of its first key exchange (RFC 4253,
        section 7.2).
        """
        return self.connection.session_id

    @property
    def transport(self) -> str:
        """Which way its streams take: ``stock`` or ``accelerated``."""
        return self.connection.streams.name

    @property
    def streams(self) -> int:
        """Forwarded connections that are open now."""
        return self.connection.meter.streams

    @property
    def bytes_in(self) -> int:
        """Bytes that streams brought from the peer."""
        return self.connection.meter.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes that streams took to the peer."""
        return self.connection.meter.bytes_out

    def close(self, reason: str) -> None:
        """End it at once, with everything that runs through it. The peer is shown *reason*."""
        if self.closed.is_set() or self.connection.gone:
            return
        self.reason = reason
        self.connection.disconnect(DISC_BY_APPLICATION, printable(reason, 200))

    async def wait_closed(self) -> None:
        """Wait until it has ended."""
        await self.closed.wait()

    async def idle(self) -> None:
        """Wait until no stream is open; for a daemon that is about to end and opens no more."""
        while self.streams and not self.closed.is_set():  # noqa: ASYNC110 - once in the life of a daemon
            await asyncio.sleep(_LOOK_S)

    def ended(self, error: Exception | None) -> None:
        """For this room only: the connection is no more."""
        if error and not self.reason:
            self.reason = printable(getattr(error, "reason", "") or str(error) or type(error).__name__, 200)
        self.reverses.clear()
        self.closed.set()

    async def subsystem(self, name: str) -> Channel:
        """Open the subsystem *name* of the peer. Raises Refused FL-STREAM-REFUSED or FL-STREAM-LOST."""
        session = Session(self.connection)

        def make() -> GuardedClientChannel:
            self.connection.expect_packets(MOST_PACKET)
            return GuardedClientChannel(self.connection, asyncio.get_running_loop())

        await opening(self.connection, make, lambda channel: channel.start(session, name), f"the subsystem {name}")
        return session.channel

    async def request_reverse(self, host: str, port: int, target: Callable[[], Target | None]) -> None:
        """Ask the peer to hand us the connections to *host*:*port*. Each goes where *target* says when it comes.

        A connection for any other place, or one for which *target* gives None, is refused. Raises Refused.
        """
        place = host, port
        if place in self.reverses:
            raise refused(f"{host}:{port}")
        self.reverses[place] = target  # first: the peer may connect as soon as it has answered
        granted = False
        try:
            granted = await self.connection.ask(b"tcpip-forward", host, port)
        finally:
            if not granted:
                self.reverses.pop(place, None)
        if not granted:
            raise lost() if self.connection.gone else refused(f"{host}:{port}")

    async def cancel_reverse(self, host: str, port: int) -> None:
        """Take no more connections to *host*:*port*; those that are open stay."""
        if self.reverses.pop((host, port), None) and not self.connection.gone:
            await self.connection.ask(b"cancel-tcpip-forward", host, port)
