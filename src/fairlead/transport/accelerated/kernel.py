"""What the kernel knows of a TCP connection, and how much it takes beyond what it can send. It fails soft.

SO_SNDBUF and SO_RCVBUF are never set: that ends the kernel's own adaptation to the path.
"""

import contextlib
import fcntl
import socket
import struct
import termios

_INFO = 192
_WORD = struct.Struct("=I").unpack_from
_SEGMENT_AT, _SACKED_AT = 16, 28  # tcpi_snd_mss, tcpi_sacked
_MIN_RTT_AT = 148  # tcpi_min_rtt, since Linux 4.6
_UNKNOWN = (1 << 32) - 1
_SIZE = struct.Struct("=i")
_NOTSENT_LOWAT = 25  # which Python's socket does not have on every machine


def min_rtt(sock: socket.socket) -> float | None:
    """The shortest round trip in seconds; None when the kernel does not know."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO)
        found = int(_WORD(info, _MIN_RTT_AT)[0])
    except (OSError, struct.error):
        return None
    return None if found in (0, _UNKNOWN) else found / 1e6


def under_way(sock: socket.socket) -> int | None:
    """Bytes that were given to *sock* and have not arrived; None when the kernel does not say.

    What the peer has beyond a hole has arrived: counted with the hole, each lost packet would look like a full path.
    """
    try:
        waiting = int(_SIZE.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_SIZE.size)))[0])
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO)
        return max(0, waiting - int(_WORD(info, _SACKED_AT)[0]) * int(_WORD(info, _SEGMENT_AT)[0]))
    except (OSError, ValueError, struct.error):
        return None


def limit_unsent(sock: socket.socket, size: int) -> None:
    """Have *sock* take *size* bytes beyond what it can send at once; 0 for what the machine is set to."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, size)
