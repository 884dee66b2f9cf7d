"""What is sent through a tunnel, and what answers behind it: ``python -m fairlead.cli.bench.load KIND ...``.

Each is a process of its own, without any of the product's code, so that no tunnel is measured together with what loads
it. ``bulk`` and ``echo`` serve until they are ended. The others measure for a given time, after a given time without
measuring, and print one JSON object. The first byte of a connection to ``bulk`` says what it is for: ``S`` we send, and
it throws away what comes (MSG_TRUNC: without a copy); ``R`` it sends without end; ``G`` it sends 1 GiB.

What a sink received is counted in a file that the sender maps, so both ends of the measured time are one process's.
"""

import argparse
import errno
import json
import mmap
import selectors
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairlead.cli.bench.usage import cpu_s, families, resident_mib, total

BLOCK = 1 << 20
PING = b"p" * 64
PATIENCE_S = 60.0
"""A peer that says nothing for so long has failed."""
BACKLOG = 1024
_WORD = 8
_SLICE_S = 0.1
"""A slow reader reads so often."""


class Counter:
    """Bytes, in a file that another process reads: one aligned word, which is written whole.

    Not by `struct`, which makes it zero before it writes it: a reader would see that.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._word = memoryview(mmap.mmap(file.fileno(), _WORD)).cast("Q")

    @staticmethod
    def make(path: Path) -> None:
        """The file, at zero."""
        path.write_bytes(bytes(_WORD))

    @property
    def value(self) -> int:
        """So far."""
        return self._word[0]

    def add(self, more: int) -> None:
        """Only one process adds."""
        self._word[0] += more


# -- what answers -----------------------------------------------------------------------------------------------------

def serve(host: str, port: int, serving: Callable[[socket.socket, Any], None]) -> None:
    """Accept connections, and let *serving* do the next thing at each that is ready."""
    with socket.create_server((host, port), backlog=BACKLOG) as listening, selectors.DefaultSelector() as selector:
        listening.setblocking(False)
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    _accept(listening, selector)
                    continue
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    serving(sock, selector)
                except BlockingIOError:
                    continue
                except (OSError, EOFError):
                    selector.unregister(sock)
                    sock.close()


def _accept(listening: socket.socket, selector: selectors.BaseSelector) -> None:
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ, "new")


def bulk(host: str, port: int, counter: Path) -> None:
    """Take, or give, as much as goes."""
    count, room, block = Counter(counter), bytearray(BLOCK), bytes(BLOCK)
    left: dict[socket.socket, int] = {}

    def serving(sock: socket.socket, selector: selectors.BaseSelector) -> None:
        match selector.get_key(sock).data:
            case "sink":
                took = sock.recv_into(room, BLOCK, socket.MSG_TRUNC)
                if not took:
                    raise EOFError
                count.add(took)
            case "source":
                sock.send(block)
            case "gigabyte":
                left[sock] -= sock.send(block)
                if left[sock] <= 0:
                    raise EOFError
            case _:
                wanted = sock.recv(1)
                if wanted == b"S":
                    selector.modify(sock, selectors.EVENT_READ, "sink")
                elif wanted == b"R":
                    selector.modify(sock, selectors.EVENT_WRITE, "source")
                elif wanted == b"G":
                    left[sock] = 1 << 30
                    selector.modify(sock, selectors.EVENT_WRITE, "gigabyte")
                else:
                    raise EOFError

    serve(host, port, serving)


def echo(host: str, port: int) -> None:
    """Give back what came."""
    def serving(sock: socket.socket, _: selectors.BaseSelector) -> None:
        came = sock.recv(4096)
        if not came:
            raise EOFError
        sock.send(came)

    serve(host, port, serving)


# -- what asks --------------------------------------------------------------------------------------------------------

def _connected(host: str, port: int, first: bytes = b"") -> socket.socket:
    sock = socket.create_connection((host, port), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if first:
        sock.sendall(first)
    return sock


class Window:
    """The measured time, and what the processes of the tunnel used in it."""

    def __init__(self, options: argparse.Namespace, counted: Callable[[], int]) -> None:
        self._pids = families(options.pids)
        self._counted = counted
        self._opens = time.monotonic() + options.warm
        self._seconds: float = options.seconds
        self._before: tuple[float, int, float] | None = None

    @property
    def open(self) -> bool:
        """Whether it has begun."""
        return self._before is not None

    def over(self) -> dict[str, float] | None:
        """The figures once the time is over; to be called all the time."""
        now = time.monotonic()
        if self._before is None:
            if now >= self._opens:
                self._before = now, self._counted(), total(cpu_s, self._pids)
            return None
        began, count, cpu = self._before
        if now < began + self._seconds:
            return None
        return {"seconds": now - began, "count": self._counted() - count, "cpu_s": total(cpu_s, self._pids) - cpu}


def send(options: argparse.Namespace) -> dict[str, float]:
    """Bytes that a sink received."""
    counter, block = Counter(options.counter), bytes(BLOCK)
    window = Window(options, lambda: counter.value)
    return _moving(options, window, b"S", selectors.EVENT_WRITE, lambda sock: sock.send(block))


def receive(options: argparse.Namespace) -> dict[str, float]:
    """Bytes received from a source."""
    room, total = bytearray(BLOCK), 0

    def take(sock: socket.socket) -> int:
        nonlocal total
        took = sock.recv_into(room, BLOCK, socket.MSG_TRUNC)
        total += took
        return took

    return _moving(options, Window(options, lambda: total), b"R", selectors.EVENT_READ, take)


def _moving(options: argparse.Namespace, window: Window, first: bytes, event: int,
            move: Callable[[socket.socket], int]) -> dict[str, float]:
    with selectors.DefaultSelector() as selector:
        for _ in range(options.streams):
            sock = _connected(options.host, options.port, first)
            sock.setblocking(False)
            selector.register(sock, event)
        while True:
            for key, _ in selector.select(0.01):
                assert isinstance(key.fileobj, socket.socket)
                if not move(key.fileobj):
                    raise ConnectionResetError(errno.ECONNRESET, "a stream ended")
            if (found := window.over()) is not None:
                return found


def ping(options: argparse.Namespace) -> dict[str, float]:
    """Round trips of 64 bytes, one after the other; *every* milliseconds, or at once (0)."""
    window, times = Window(options, lambda: len(times)), list[float]()
    sock = _connected(options.host, options.port)
    begun = 0
    while (found := window.over()) is None:
        began = time.perf_counter()
        sock.sendall(PING)
        missing = len(PING)
        while missing:
            came = len(sock.recv(missing))
            if not came:
                raise ConnectionResetError(errno.ECONNRESET, "the stream ended")
            missing -= came
        took = time.perf_counter() - began
        times.append(took)
        begun = begun or (len(times) if window.open else 0)
        if options.every:
            time.sleep(max(0.0, options.every / 1000 - took))
    measured = sorted(times[begun:] or times)
    return found | {f"p{percent}_us": measured[min(len(measured) - 1, len(measured) * percent // 100)] * 1e6
                    for percent in (50, 99)}


def connect(options: argparse.Namespace) -> dict[str, float]:
    """Connections of which each sends a byte and gets it back before it is closed; so many *streams* at a time."""
    done = failed = 0
    window = Window(options, lambda: done)
    place = options.host, options.port
    with selectors.DefaultSelector() as selector:
        def begin() -> None:
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if sock.connect_ex(place) not in (0, errno.EINPROGRESS):
                raise ConnectionError(f"no connection to {place[0]}:{place[1]}")
            selector.register(sock, selectors.EVENT_WRITE)

        for _ in range(options.streams):
            begin()
        while (found := window.over()) is None:
            for key, events in selector.select(0.01):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    if events & selectors.EVENT_WRITE:
                        sock.send(b"c")
                        selector.modify(sock, selectors.EVENT_READ)
                        continue
                    came = bool(sock.recv(1))
                except OSError:
                    came = False
                done, failed = done + came, failed + (not came)
                selector.unregister(sock)
                sock.close()
                begin()
    return found | {"failed": failed}


def slow(options: argparse.Namespace) -> dict[str, float]:
    """Read *rate* bytes a second from a source of 1 GiB; how far the tunnel's processes grew meanwhile, MiB."""
    at_first = total(resident_mib, families(options.pids))
    sock, read, most = _connected(options.host, options.port, b"G"), 0, 0.0
    began = time.monotonic()
    while (past := time.monotonic() - began) < options.seconds:
        while read < options.rate * past:
            took = len(sock.recv(min(65536, int(options.rate * past) - read + 1)))
            if not took:
                raise ConnectionResetError(errno.ECONNRESET, "the stream ended")
            read += took
        most = max(most, total(resident_mib, families(options.pids)) - at_first)
        time.sleep(_SLICE_S)
    return {"seconds": past, "count": read, "grown_mib": most}


ASK = {"send": send, "receive": receive, "ping": ping, "connect": connect, "slow": slow}


def main(arguments: list[str]) -> None:
    """Serve, or measure and print."""
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument("kind", choices=["bulk", "echo", *ASK])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--counter", type=Path)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--warm", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=1e6)
    parser.add_argument("--pids", type=int, nargs="*", default=[])
    options = parser.parse_args(arguments)
    if options.kind == "bulk":
        bulk(options.host, options.port, options.counter)
    elif options.kind == "echo":
        echo(options.host, options.port)
    else:
        try:
            found = ASK[options.kind](options)
        except OSError as error:
            sys.exit(f"{options.kind} at {options.host}:{options.port}: {error}")
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
