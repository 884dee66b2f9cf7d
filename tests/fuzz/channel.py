"""A stream of the accelerated path, told what a script says: by its peer, by its program, and in which order.

A script is a list of steps of five bytes: what happens, and two numbers. The first byte of all says who opened the
channel. What must be true: a peer's fault is a ProtocolError and nothing else; the program gets a beginning of what the
peer sent, and an end of file only behind all of it; nothing is sent beyond the window that the peer gave, behind an end
of file or behind a close; no more is taken than was granted; and in the end somebody hears, once, how it went.
"""

import contextlib
import socket
import struct
from types import SimpleNamespace
from typing import Any

import asyncssh
from asyncssh.packet import PacketDecodeError

from fairlead.base.errors import FairleadError
from fairlead.transport.accelerated.packets import DATA_AT, HEAD, LEAST_PADDING, TAG, Opener, Padding, Sealer
from fairlead.transport.accelerated.poller import BROKEN, READABLE, WRITABLE
from fairlead.transport.accelerated.stream import Stream
from fairlead.transport.connection import Meter
from fairlead.transport.options import FAST_PACKET, WINDOW

OPENED, FAILED, ADJUST, DATA, EXTENDED, EOF, CLOSE, REQUEST, SUCCESS, FAILURE = range(91, 101)
OURS, THEIRS = 3, 5
_STEP = struct.Struct(">BHH")
_HELLO = bytes(range(256)) * 1024


class _Link:
    """Where a stream expects its link: it notes what is sent."""

    def __init__(self) -> None:
        self.poller: Any = SimpleNamespace(now=1.0, plain=memoryview(bytearray(1 << 18)), watch=lambda *_: None,
                                           forget=lambda _: None)
        self.connection: Any = SimpleNamespace(add_channel=lambda _: OURS, remove_channel=self._removed)
        self.meter = Meter()
        self.packet = FAST_PACKET
        self.sending = True
        self.sent: list[bytes] = []
        self.refused = self.removed = 0

    def _removed(self, number: int) -> None:
        assert number == OURS
        self.removed += 1

    def control(self, payload: bytes) -> None:
        assert not self.removed or payload[0] == 90, "something is said of a channel that is no more"
        self.sent.append(payload)

    def data(self, channel: int, size: int) -> None:
        assert channel == THEIRS
        self.sent.append(b"%c%b" % (DATA, bytes(self.poller.plain[DATA_AT:DATA_AT + size])))

    def refuse(self, *_: object) -> None:
        self.refused += 1

    def queue(self, stream: Stream, *, fresh: bool) -> None:
        """A turn of its own: the script gives it one with its next step."""

    @staticmethod
    def window(present: int, _: float) -> int:
        return present


class _Play:
    """A stream between its peer and its program."""

    def __init__(self, *, asked: bool) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.program = socket.socket()
            self.program.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.program.connect(listening.getsockname())
            ours, _ = listening.accept()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.program.setblocking(False)
        ours.setblocking(False)
        self.link = _Link()
        self.ended: list[FairleadError | None] = []
        self.said, self.heard = bytearray(), bytearray()
        """By the peer, and by the program of it."""
        self.end_said = self.end_heard = self.silent = self.reset = False
        self.room = 0
        """What the peer has said that it takes."""
        self.stream = Stream(self.link, ours, 2.0, self.ended.append)  # type: ignore[arg-type]
        if asked:
            self.stream.ask(b"direct-tcpip", "127.0.0.1", 1)
        else:
            self.stream.answer(THEIRS, 0, 1000)
            self.stream.connected()

    def step(self, what: int, one: int, two: int) -> None:
        """One thing happens. Raises what ends a connection."""
        size = one << (two & 3)
        match what % 13:
            case 0 | 1:
                self._peer(DATA, struct.pack(">I", size) + _HELLO[:size])
            case 2:
                self._peer(ADJUST, struct.pack(">HH", one, two))
            case 3:
                self._peer(EOF, b"")
            case 4:
                self._peer(CLOSE, b"")
            case 5:
                self._peer(OPENED, struct.pack(">III", THEIRS, one, two))
            case 6:
                self._write(_HELLO[:size])
                self.stream.ready(READABLE)
            case 7:
                self._listen(two)
                self.stream.ready(WRITABLE)
            case 8:
                self.silent = True
                with contextlib.suppress(OSError):
                    self.program.shutdown(socket.SHUT_WR)
                self.stream.ready(READABLE)
            case 9:
                self.program.close()
                self.stream.ready(READABLE | WRITABLE | BROKEN)
            case 10:
                self.link.sending = bool(one & 1)
                self.stream.queued = False
                self.stream.pump(fresh=bool(two & 1))
            case 11:
                self._peer(REQUEST, struct.pack(">I4sB", 4, b"name", one & 1))
            case _:
                self._peer(one & 255, struct.pack(">HH", one, two)[:two & 7] + _HELLO[:two >> 8])
        self._check()

    def _peer(self, kind: int, rest: bytes) -> None:
        payload = struct.pack(">BBI", 4, kind, OURS) + rest
        if self.link.removed:
            return  # the connection knows no such channel, and says so itself
        if kind == ADJUST and len(rest) == 4:
            self.room += struct.unpack(">I", rest)[0]
        elif kind == OPENED and len(rest) == 12:
            self.room += struct.unpack_from(">I", rest, 4)[0]
        self.stream.told(kind, memoryview(payload), len(payload))
        if kind == DATA:
            self.said += rest[4:]
        self.end_said |= kind == EOF

    def _write(self, data: bytes) -> None:
        try:
            if not self.silent and not self.reset:
                self.program.send(data)
        except BlockingIOError:
            pass
        except OSError:
            self.reset = True  # the kernel says it once, and reports an end to whoever asks again

    def _listen(self, least: int) -> None:
        try:
            while not self.reset and (data := self.program.recv(least or 65536)):
                self.heard += data
            self.end_heard = not self.reset
        except BlockingIOError:
            pass
        except OSError:
            self.reset = True

    def _check(self) -> None:
        sent = self.link.sent
        kinds = [message[0] for message in sent]
        given = sum(struct.unpack(">I", message[5:9])[0] for message in sent if message[0] == ADJUST)
        assert len(self.said) <= WINDOW + given, "more was taken than was granted"
        assert sum(len(message) - 1 for message in sent if message[0] == DATA) <= self.room, "more than the peer takes"
        assert kinds.count(EOF) <= 1
        assert kinds.count(CLOSE) <= 1
        if EOF in kinds:
            assert DATA not in kinds[kinds.index(EOF):], "data behind the end"
        if CLOSE in kinds:
            assert kinds[-1] == CLOSE, "something behind the close"
        assert self.said.startswith(self.heard), "the program hears what was not said"
        assert not self.end_heard or (self.end_said and self.said == self.heard), "an end where there was none"
        assert len(self.ended) <= 1

    def over(self) -> None:
        """The connection ends."""
        if not self.link.removed:
            self.stream.process_connection_close(None)
        self._listen(0)
        self._check()
        assert self.link.removed == 1
        assert self.link.meter.streams == 0
        assert len(self.ended) == 1
        self.program.close()


def channel(data: bytes) -> bool:
    """A script."""
    play = _Play(asked=bool(data[:1] and data[0] & 1))
    try:
        for start in range(1, min(len(data), 1000) - 4, 5):
            play.step(*_STEP.unpack_from(data, start))
    except (asyncssh.ProtocolError, PacketDecodeError):
        return False
    finally:
        play.over()
    return True


def packet(data: bytes) -> bool:
    """The bytes of a connection: as they are, and under the seal of a peer who pads as he likes."""
    plain, wire = memoryview(bytearray(1 << 18)), memoryview(bytearray(data))
    key, iv = bytes(16), bytes(12)
    with contextlib.suppress(asyncssh.ProtocolError, asyncssh.MACError):
        assert not Opener(key, iv).open(wire, 0, len(wire), plain, FAST_PACKET), "nobody sealed it"
    whole = data[:len(data) & ~15]
    sealed = memoryview(Sealer(key, iv, Padding()).seal(struct.pack(">I", len(whole)), whole))
    for end in (HEAD - 1, HEAD, len(sealed) - 1):
        with contextlib.suppress(asyncssh.ProtocolError):
            assert not Opener(key, iv).open(sealed, 0, end, plain, FAST_PACKET), "not all of it is there"
    try:
        length = Opener(key, iv).open(sealed, 0, len(sealed), plain, FAST_PACKET)
    except asyncssh.ProtocolError:
        return False
    assert plain[:length] == whole
    assert length == len(sealed) - HEAD - TAG
    assert LEAST_PADDING <= whole[0] < length - 1
    return True
