"""Opening a channel of asyncssh's, and what may come of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import asyncssh
from asyncssh.packet import PacketDecodeError

from fairlead.transport.connection import Guarded
from fairlead.transport.options import OPEN_TIMEOUT
from fairlead.transport.refusals import lost, refused


class Opened(Protocol):
    """A channel that may be given up while it opens."""

    def abandon(self) -> None:
        """Close it now, or as soon as it is open."""
        ...


Made = TypeVar("Made", bound=Opened)


async def opening(connection: Guarded, make: Callable[[], Made], start: Callable[[Made], Awaitable[Any]],
                  what: str) -> None:
    """Make a channel on *connection* and open it. Raises Refused FL-STREAM-REFUSED or FL-STREAM-LOST."""
    channel: Made | None = None
    done = False
    try:
        channel = make()
        async with asyncio.timeout(OPEN_TIMEOUT):
            await start(channel)
        done = True
    except asyncssh.ChannelOpenError as error:
        if connection.gone:
            raise lost() from error
        raise refused(what, error.reason) from error
    except TimeoutError as error:
        raise refused(what, "no answer") from error
    except (asyncssh.Error, PacketDecodeError, OSError) as error:
        raise lost() from error
    finally:
        if channel and not done:
            channel.abandon()
