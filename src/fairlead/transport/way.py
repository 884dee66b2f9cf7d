"""Which way the bytes of streams take: asyncssh's own (`Stock`) or ours (`Accelerated`). Same protocol, same peers."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Protocol

from fairlead.base.errors import OperatorError, printable
from fairlead.transport.accelerated.library import missing
from fairlead.transport.accelerated.link import Link
from fairlead.transport.accelerated.poller import Poller
from fairlead.transport.connection import Guarded
from fairlead.transport.stock import StockStreams

VARIABLE = "FAIRLEAD_TRANSPORT"
"""Set to ``stock`` in the environment, it keeps a daemon off the accelerated path."""


class Way(Protocol):
    """How SSH connections get at their sockets."""

    name: str
    """``stock`` or ``accelerated``."""

    async def take(self, sock: socket.socket, connection: Guarded) -> None:
        """Have *connection* talk over *sock*, which is connected and does not block, and is no longer the caller's."""
        ...

    def close(self) -> None:
        """Let go of everything, when the connections have ended."""
        ...


class Stock:
    """asyncio's transports and asyncssh's channels: works wherever Python does."""

    name = "stock"

    async def take(self, sock: socket.socket, connection: Guarded) -> None:
        """See `Way`."""
        connection.streams = StockStreams(connection)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)

    def close(self) -> None:
        """See `Way`."""


class Accelerated:
    """Our own sockets and channels, with one poller for all connections of the loop that runs."""

    name = "accelerated"

    def __init__(self) -> None:
        self._poller = Poller(asyncio.get_running_loop())

    async def take(self, sock: socket.socket, connection: Guarded) -> None:
        """See `Way`."""
        link = Link(self._poller, sock, connection)
        connection.streams = connection.link = link
        link.begin()

    def close(self) -> None:
        """See `Way`."""
        self._poller.close()


def choose(environment: Mapping[str, str]) -> Way:
    """The way of this process: accelerated, unless *environment* says otherwise or the libraries do not fit.

    That they do not fit is a warning in the log. Raises OperatorError FL-TRANSPORT for a wish that nobody knows.
    """
    wish = environment.get(VARIABLE) or "accelerated"
    if wish not in ("stock", "accelerated"):
        raise OperatorError("FL-TRANSPORT", f"{VARIABLE} is {printable(wish, 40)!r}",
                            "it is stock or accelerated; without it streams are accelerated")
    if wish == "stock":
        return Stock()
    if lacking := missing():
        logging.getLogger(__name__).warning("streams take the stock path: there is no %s", ", ".join(lacking))
        return Stock()
    return Accelerated()
