"""Resetting a connection of a local program, so that it does not take a part for the whole."""

import contextlib
import socket
import struct

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: close sends RST


def resetting(sock: socket.socket) -> None:
    """Have the close of *sock* reset the connection."""
    with contextlib.suppress(OSError):  # it has just gone
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def reset(sock: socket.socket) -> None:
    """Close *sock* at once; its other end sees a reset."""
    resetting(sock)
    sock.close()
