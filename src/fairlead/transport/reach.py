"""Connecting to a place that has a name, without keeping anybody waiting meanwhile."""

import asyncio
import socket


async def reached(host: str, port: int) -> socket.socket:
    """A socket that is connected to the first of the addresses of *host* that answers, and does not block.

    Raises OSError; UnicodeError for what cannot be a name.
    """
    loop = asyncio.get_running_loop()
    error = OSError("no address")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # nobody is asked
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, place in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as this:
            error = this
            continue
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, place)
        except OSError as this:
            sock.close()
            error = this
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error
