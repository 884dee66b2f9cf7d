"""The machine under a stage: what is free on it, what listens, what answers."""

import http.client
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fairlead.base.sockets import Listening, listening
from fairlead.cli.stage.processes import Failed

PATIENCE_S = 20.0
_INTERVAL_S = 0.02
_PORTS = range(20_000, 32_000)
"""Below what the kernel hands to outgoing connections."""
_POOL_VIEW = range(64, 128)
"""Second bytes of 127.64.0.0/10, where a fairlead that is installed on this machine would be."""

T = TypeVar("T")


def until(what: str, look: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
    """The first true answer of *look*, as an operator looks again and again. Raises Failed: not *what* in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds:g} s: {what}")
        time.sleep(_INTERVAL_S)


def get(host: str, port: int, path: str, seconds: float = 5.0) -> bytes | None:
    """What HTTP serves there; None: nobody answers, or not with that."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return body if answer.status == 200 else None
    connection.close()
    return None


def answers(host: str, port: int) -> bool:
    """Whether a connection is accepted there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def free_ports() -> Iterator[int]:
    """High ports that nothing on this machine has now, each once."""
    for port in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
        if _is_free(port):
            yield port


def free_views() -> Iterator[str]:
    """Networks inside 127.0.0.0/8 in which nobody listens, each once."""
    taken = {0, 255, *_POOL_VIEW, *(one.address.packed[1] for one in sockets() if one.address.is_loopback)}
    octets = [octet for octet in range(256) if octet not in taken]
    for octet in secrets.SystemRandom().sample(octets, len(octets)):
        yield f"127.{octet}.0.0/16"


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET) as probe:
        probe.bind(("", port))
        return True
    return False


def sockets(pid: int | str = "self") -> list[Listening]:
    """The listening TCP sockets of the whole machine, or of the network namespace of the process *pid*."""
    found: list[Listening] = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            found += listening(Path("/proc", str(pid), "net", name).read_text())
    return found
