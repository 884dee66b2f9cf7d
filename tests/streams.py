"""Streams of numbered lines through tunnels, which may not lose, double or reorder a byte while they are open."""

import contextlib
import hashlib
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.processes import Daemon, connect, free_port, listens, serving, until

PAUSE_S = 0.005
AGAIN_S = 0.2
SILENT_S = 30.0
WINDOW = 8
"""Lines under way."""


@dataclass(slots=True)
class Numbered:
    """One stream: a writer at one end, which is also the reader of what comes back from the other."""

    sock: socket.socket
    there: "queue.Queue[str]"
    """The hash of what has arrived at the other end, once that is all."""
    pause_s: float = PAUSE_S
    """Between two lines."""
    sent: int = 0
    _here: Any = field(default_factory=hashlib.sha256)
    _back: Any = field(default_factory=hashlib.sha256)
    _end: threading.Event = field(default_factory=threading.Event)
    _failure: list[BaseException] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """Write, and read, in threads."""
        self._threads = [threading.Thread(target=self._run, args=(work,), daemon=True)
                         for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """End it: both directions brought every byte, in order."""
        before = self.sent
        until(lambda: self._failure or self.sent > before, "the stream goes on")
        self._end.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "the stream stands still"
        assert not self._failure, self._failure
        assert self.sent > 0
        assert self._here.hexdigest() == self.there.get(timeout=20) == self._back.hexdigest(), "a byte was lost"

    def _run(self, work: Any) -> None:
        try:
            work()
        except OSError as error:
            self._failure.append(error)

    def _write(self) -> None:
        while not self._end.wait(self.pause_s):
            line = b"%019d\n" % self.sent
            self.sock.sendall(line)
            self._here.update(line)
            self.sent += 1
        self.sock.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        rest, expected = b"", 0
        while data := self.sock.recv(65536):
            self._back.update(data)
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            for line in lines:
                assert int(line) == expected, f"{line!r} where {expected} was due"
                expected += 1


def returning(there: "queue.Queue[str]") -> Callable[[socket.socket], None]:
    """A service that gives back what it gets; *there* is told the hash of all that came."""
    def back(sock: socket.socket) -> None:
        found, size = hashlib.sha256(), 0
        while data := sock.recv(65536):
            found.update(data)
            size += len(data)
            sock.sendall(data)
        if size:  # or it was only seen whether anybody is there
            there.put(found.hexdigest())

    return back


@contextlib.contextmanager
def numbered(controller: Daemon, engine: Daemon) -> Iterator[Numbered]:
    """A stream from the Controller to a service of *engine*'s, which gives back what it gets."""
    there: queue.Queue[str] = queue.Queue()
    with serving(returning(there)) as target:
        port = free_port()
        controller.cli("service", "add", f"numbers-{port}", "--node", engine.name, "--port", port, "--target",
                       f"127.0.0.1:{target}", "--allow", "controllers").done()
        host = controller.see(str(controller.node(engine.name)["internal_address"]))
        until(lambda: listens(host, port), "the service is reached")
        with connect(host, port) as sock:
            stream = Numbered(sock, there)
            stream.begin()
            yield stream


@dataclass(slots=True)
class Lasting:
    """A stream to a service that gives back what it gets, begun anew when it breaks; when it broke is noted."""

    open: Callable[[], socket.socket]
    """Another connection. Raises OSError."""
    lines: int = 0
    """That came back, in order, of all connections."""
    broke: list[float] = field(default_factory=list)
    """Seconds since the epoch."""
    _end: threading.Event = field(default_factory=threading.Event)
    _faults: list[BaseException] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Go on in a thread until `check`."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """End it: whatever came back was what had been sent, in order, and it goes on at the end."""
        before = self.lines
        until(lambda: self._faults or self.lines > before, "the stream goes on")
        self._end.set()
        assert self._thread is not None
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream stands still"
        assert not self._faults, self._faults

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                try:
                    sock = self.open()
                except OSError:
                    self._end.wait(AGAIN_S)
                    continue
                with sock:
                    sock.settimeout(SILENT_S)
                    before = self.lines
                    try:
                        self._talk(sock)
                    except OSError:
                        if self.lines > before:  # else it was never there: its tunnel was not
                            self.broke.append(time.time())
                        self._end.wait(AGAIN_S)
        except BaseException as fault:  # noqa: BLE001 - raised where the test sees it
            self._faults.append(fault)

    def _talk(self, sock: socket.socket) -> None:
        """Until the end. Raises OSError when it breaks."""
        awaited, rest, number = deque[bytes](), b"", 0
        while not self._end.wait(10 * PAUSE_S):
            line = b"%099d" % number
            number += 1
            awaited.append(line)
            sock.sendall(line + b"\n")
            while len(awaited) > WINDOW:
                data = sock.recv(65536)
                if not data:
                    raise ConnectionError("the stream ended")
                *lines, rest = (rest + data).split(b"\n")
                for found in lines:
                    due = awaited.popleft()
                    assert found == due, f"{found!r} came back in place of {due!r}"
                self.lines += len(lines)
