"""Forwards a connection of a local program: through a tunnel, or to a service of this very node.

Which way the bytes take, and what slow readers, half-closes and resets come to, is the business of the path that the
tunnel runs on: `stock` or `accelerated`.
"""

import asyncio
import socket
from collections.abc import Callable

import asyncssh

from fairlead.base.errors import FairleadError
from fairlead.transport.connection import Carrying
from fairlead.transport.peer import Target
from fairlead.transport.refusals import lost, refused
from fairlead.transport.resets import reset
from fairlead.transport.stock import Join, LocalEnd, connected, joined, local_end
from fairlead.transport.tunnel import Tunnel


def forward(sock: socket.socket, tunnel: Tunnel, host: str, port: int,
            ended: Callable[[FairleadError | None], None]) -> Carrying:
    """Take *sock*, connected and not blocking, through *tunnel* to what the peer knows as *host*:*port*.

    *sock* is no longer the caller's. *ended* hears once that both directions are finished: with None, or with Refused
    FL-STREAM-REFUSED (the peer would not, or nothing listens there) or FL-STREAM-LOST (cut); *sock* has been reset
    then. Raises the same, and leaves *sock* alone.
    """
    if tunnel.direction == "in" and (host, port) not in tunnel.reverses:
        raise refused(f"{host}:{port}")
    kind = b"direct-tcpip" if tunnel.direction == "out" else b"forwarded-tcpip"
    try:
        return tunnel.connection.streams.carry(sock, kind, host, port, ended)
    except asyncssh.ChannelOpenError as error:
        raise lost() from error


async def carry(sock: socket.socket, tunnel: Tunnel, host: str, port: int) -> None:
    """The same for one that waits: returns when both directions are finished, and raises what `forward` tells.

    Cancelled, it resets both.
    """
    over: asyncio.Future[FairleadError | None] = asyncio.get_running_loop().create_future()
    try:
        carrying = forward(sock, tunnel, host, port, lambda error: None if over.done() else over.set_result(error))
    except FairleadError:
        reset(sock)
        raise
    try:
        error = await over
    except BaseException:
        carrying.abort()
        raise
    if error:
        raise error


async def bridge(sock: socket.socket, target: Target) -> None:
    """The same without SSH: the owner of a service serves it to itself. Raises as `carry` does."""
    local, far = await local_end(sock), LocalEnd()

    async def connect(join: Join) -> None:
        if not await connected(far, target):
            raise refused(target.service, "the service does not answer")
        join.start()

    await joined(local, far, connect)
