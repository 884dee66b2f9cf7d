"""Somebody in between: the network attacker, to be put before a portal or an SSH port.

He passes on what he gets, both ways, and keeps a record. He may change or cut one conversation as it passes (`harm`),
end TLS with whatever certificate he has and read what is inside (`certificate`), change what he reads (`asked`,
`spoiled`), and answer in the Controller's place (`answered`). He works in threads: both commands that are waited for
and tests in a loop meet him.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from fairlead.pki.verify import unverified_context
from fairlead.portal.listener import server_identity
from tests.processes import DEADLINE_S, connect, read_all, serving

Way = Literal["there", "back"]
Harm = Callable[[Way, int, bytes], bytes | None]
"""What becomes of a chunk that passes that way after so many bytes; None: the conversation is cut there."""


def flip(way: Way, at: int) -> Harm:
    """Change one bit of the byte at *at*."""
    def harm(passing: Way, before: int, data: bytes) -> bytes:
        if passing != way or not before <= at < before + len(data):
            return data
        here = at - before
        return data[:here] + bytes([data[here] ^ 1]) + data[here + 1:]

    return harm


def cut(way: Way, at: int) -> Harm:
    """Pass *at* bytes and no more."""
    def harm(passing: Way, before: int, data: bytes) -> bytes | None:
        if passing != way or before + len(data) <= at:
            return data
        return data[:at - before] or None

    return harm


def swap(ways: Collection[Way], old: bytes, new: bytes) -> Harm:
    """Put *new* wherever *old*, of the same length, passes in one piece."""
    assert len(old) == len(new)
    return lambda passing, _, data: data.replace(old, new) if passing in ways else data


@dataclass(slots=True)
class Conversation:
    """What was said on one connection, as it was said to him."""

    there: bytearray = field(default_factory=bytearray)
    back: bytearray = field(default_factory=bytearray)
    changed: bool = False


@dataclass(eq=False, slots=True)
class Between:
    """Between whoever connects to `port` and the real service at *target*."""

    target: tuple[str, int] = ("127.0.0.1", 0)
    port: int = 0
    harm: Harm | None = None
    """For the next connection only; he lets the others pass."""
    certificate: tuple[bytes, bytes] | None = None
    """Certificate (or chain) and key, PEM, with which he ends TLS."""
    asked: Callable[[bytes], bytes] = lambda request: request
    """What he makes of an HTTP request that he can read."""
    answered: Callable[[bytes], bytes] | None = None
    """What he answers to it; None: he asks the real service."""
    spoiled: Callable[[bytes], bytes] = lambda answer: answer
    """What he makes of the real service's answer."""
    conversations: list[Conversation] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def listening(self, host: str = "127.0.0.1", port: int = 0) -> Iterator["Between"]:
        """At work."""
        with serving(self._meet, host, port) as self.port:
            yield self

    def honest(self) -> None:
        """From now on he only listens."""
        self.harm = self.certificate = self.answered = None
        self.asked = self.spoiled = lambda message: message

    def _meet(self, sock: socket.socket) -> None:
        with self._turn:
            harm, self.harm = self.harm, None
            said = Conversation()
            self.conversations.append(said)
        if self.certificate is None:
            self._pass_on(sock, said, harm)
        else:
            self._read_along(sock, said, self.certificate)

    def _pass_on(self, sock: socket.socket, said: Conversation, harm: Harm | None) -> None:
        with connect(*self.target) as other:
            for one in (sock, other):
                one.settimeout(DEADLINE_S)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each answer waits for 40 ms

            def pump(way: Way, source: socket.socket, sink: socket.socket, record: bytearray) -> None:
                with contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        passed = data if harm is None else harm(way, len(record), data)
                        record += data
                        said.changed |= passed != data
                        if passed:
                            sink.sendall(passed)
                        if passed is None or len(passed) < len(data):
                            break
                    else:
                        sink.shutdown(socket.SHUT_WR)
                        return
                for one in (sock, other):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)

            thread = threading.Thread(target=pump, args=("there", sock, other, said.there), daemon=True)
            thread.start()
            pump("back", other, sock, said.back)
            thread.join()

    def _read_along(self, sock: socket.socket, said: Conversation, certificate: tuple[bytes, bytes]) -> None:
        context = server_identity(*certificate).context
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as near:
            request = _whole_request(near)
            said.there += request
            if self.answered is not None:
                answer = self.answered(request)
            else:
                with unverified_context().wrap_socket(connect(*self.target)) as far:
                    far.sendall(self.asked(request))
                    answer = read_all(far)
                said.back += answer
                answer = self.spoiled(answer)
            near.sendall(answer)
            near.unwrap()


def _whole_request(sock: ssl.SSLSocket) -> bytes:
    """Head and body; what there is when the peer ends early."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
        chunk = sock.recv(65536)
        if not chunk:
            break
        data += chunk
    return data


def _length(request: bytes) -> int:
    fields = dict(line.lower().split(b": ", 1) for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    return int(fields.get(b"content-length", b"0"))


def answer(status: int, body: bytes) -> bytes:
    """An HTTP answer of his own."""
    head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
