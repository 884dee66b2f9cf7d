"""A daemon among others: signals, and what systemd is told (sd_notify(3))."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable


def restarting() -> str:
    """What systemd is told when the same service goes on as another program: ``STOPPING=1`` would have it end all."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(message: str) -> None:
    """Tell systemd, when it listens: ``READY=1``, ``STOPPING=1``, ``STATUS=...``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(message.encode())


def on_signals(stop: asyncio.Event, reload: Callable[[], None]) -> None:
    """SIGTERM and SIGINT set *stop*, SIGHUP calls *reload*, for the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
