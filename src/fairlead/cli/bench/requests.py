"""One request, again and again, over connections that stay: ``python -m fairlead.cli.bench.requests FILE``.

The same client for every server. It looks at the status and the length of an answer only: it shares the machine with
the server, and what it costs is taken from each of them. Its last line is one JSON object.
"""

import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
THERE = "all are there"
"""Said when every connection stands, before the first request."""
MOST_ANSWER = 4 * 1024 * 1024
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True)
class Task:
    """What a process of clients does."""

    host: str
    port: int
    certificates: str
    """A file of those that the server's has to come from."""
    request: str
    """As it goes over the wire. It may hold a cookie or a password, so the file is ours alone."""
    connections: int
    seconds: float
    warm_s: float
    """What is asked before so long has passed does not count."""

    def save(self, path: Path) -> Path:
        """The file."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))
        return path


class Connection:
    """TLS 1.3 to a server, over which one request follows the other. Raises OSError."""

    def __init__(self, host: str, port: int, certificates: str) -> None:
        context = ssl.create_default_context(cafile=certificates)
        context.check_hostname = False  # the file names the one server that is meant
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        sock = socket.create_connection((host, port), timeout=PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = context.wrap_socket(sock)
        self._room = memoryview(bytearray(MOST_ANSWER))

    def ask(self, request: bytes) -> tuple[int, bytes, memoryview]:
        """Status, head and body of the answer; the body until the next request. Raises OSError, ValueError."""
        self._sock.sendall(request)
        came, head = 0, b""
        while _END not in head:
            came += self._more(came)
            head = bytes(self._room[:came])
        head = head.partition(_END)[0]
        begins = len(head) + len(_END)
        ends = begins + int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0])
        while came < ends:
            came += self._more(came)
        return int(head[9:12]), head, self._room[begins:ends]

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _more(self, came: int) -> int:
        took = self._sock.recv_into(self._room[came:])
        if not took:
            raise ConnectionResetError("the server hung up")
        return took


class Clients:
    """So many at a time, each on a connection and a thread of its own, and what they met with."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._request = task.request.encode()
        self._begin = threading.Barrier(task.connections)
        self._opens = 0.0
        self.took: list[float] = []
        """Seconds of each request that was asked and answered in the measured time."""
        self.failed: Counter[str] = Counter()

    def run(self) -> dict[str, Any]:
        """All of it."""
        threads = [threading.Thread(target=self._one, daemon=True) for _ in range(self._task.connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times = sorted(self.took)
        return {"count": len(times), "per_s": len(times) / self._task.seconds, "failed": dict(self.failed)} | {
            f"p{percent}_us": times[min(len(times) - 1, len(times) * percent // 100)] * 1e6 if times else None
            for percent in (50, 99)}

    def _one(self) -> None:
        try:
            connection = Connection(self._task.host, self._task.port, self._task.certificates)
            if self._begin.wait(PATIENCE_S) == 0:
                sys.stdout.write(f"{THERE}\n")
                sys.stdout.flush()
            opens = time.perf_counter() + self._task.warm_s
            closes = opens + self._task.seconds
            while (began := time.perf_counter()) < closes:
                status, _, _ = connection.ask(self._request)
                ended = time.perf_counter()
                if status != 200:
                    self.failed[str(status)] += 1
                elif opens <= ended <= closes:
                    self.took.append(ended - began)
            connection.close()
        except (OSError, ValueError, threading.BrokenBarrierError) as error:
            self.failed[type(error).__name__] += 1
            self._begin.abort()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(Clients(Task(**json.loads(Path(sys.argv[1]).read_text()))).run()) + "\n")
