"""A link with weather: ``python -m fairlead.cli.netns.link SEED NAMESPACE DEVICE NAMESPACE DEVICE``.

The program makes one TUN device in each of two network namespaces and carries the packets between them. Each way has
settings of its own, and they change while packets are under way: a line on stdin,
``{"way": 0, "set": {"delay_ms": 30}}``, is answered with the way's counters; an empty ``set`` only asks. Way 0 leads
from the first namespace to the second. The end of stdin is the end of the link, and of both devices.

A packet that arrives is lost by a cut or by chance, waits in the queue for the wire (if a rate is set), and is then
delayed. Packets never overtake one another: where the delay shrinks, later ones wait for earlier ones.
"""

import fcntl
import json
import math
import os
import random
import select
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fairlead.cli.netns.namespace import inside

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_LARGEST = 65536
_TOGETHER = 64
"""Packets that are taken from one device before anything else gets its turn."""


@dataclass(frozen=True, slots=True)
class Weather:
    """The settings of one way."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """The delay of a packet is up to so much longer, by chance."""
    loss: float = 0.0
    """The share of packets that are lost by chance."""
    rate_mbit: float = 0.0
    """What the wire carries in a second, IP headers included; 0 is as much as comes."""
    queue_ms: float = 100.0
    """How long a full queue takes to drain at that rate. What comes to a full queue is lost."""
    cut: bool = False
    """Nothing arrives, nor does what was under way; nobody is told."""


@dataclass(slots=True)
class Counters:
    """Of one way, since the beginning."""

    packets: int = 0
    """That entered it, lost ones included."""
    size: int = 0
    """Their bytes."""
    arrived: int = 0
    """Packets that left it at the other end."""
    lost: int = 0
    """By chance."""
    overflowed: int = 0
    """Lost because the queue was full."""
    cut: int = 0
    """Lost to a cut, or because the device at the other end is down."""


class Way:
    """From one device to the other."""

    def __init__(self, source: int, target: int, seed: str) -> None:
        self.source, self.target = source, target
        self.counters = Counters()
        self.weather = Weather()
        self._luck = random.Random(f"{seed} loss")  # noqa: S311 - weather, the same for each seed
        self._jitter = random.Random(f"{seed} jitter")  # noqa: S311
        self._queue: deque[bytes] = deque()
        """For the wire; the first one is on it."""
        self._queued = 0
        self._off_wire = 0.0
        """When the first one has left the wire."""
        self._flight: deque[tuple[float, bytes]] = deque()
        """What has left the wire, and when it is due at the other end."""

    def change(self, weather: Weather, now: float) -> None:
        """From now on; what is in flight keeps its time."""
        before, self.weather = self.weather, weather
        if weather.cut:
            self.counters.cut += len(self._queue) + len(self._flight)
            self._queue.clear()
            self._flight.clear()
            self._queued = 0
        elif self._queue and weather.rate_mbit != before.rate_mbit:
            self._off_wire = now + self._on_wire_s(self._queue[0])
            self.move(now)

    def take(self, now: float) -> None:
        """The packets that have come."""
        for _ in range(_TOGETHER):
            try:
                packet = os.read(self.source, _LARGEST)
            except BlockingIOError:
                return
            self._enter(packet, now)

    def _enter(self, packet: bytes, now: float) -> None:
        weather, counters = self.weather, self.counters
        counters.packets += 1
        counters.size += len(packet)
        if weather.cut:
            counters.cut += 1
        elif weather.loss and self._luck.random() < weather.loss:
            counters.lost += 1
        elif not weather.rate_mbit:
            self._launch(packet, now)
        elif self._queue and self._queued + len(packet) > weather.rate_mbit * weather.queue_ms * 125:
            counters.overflowed += 1
        else:
            if not self._queue:
                self._off_wire = now + self._on_wire_s(packet)
            self._queue.append(packet)
            self._queued += len(packet)

    def _on_wire_s(self, packet: bytes) -> float:
        return len(packet) * 8e-6 / self.weather.rate_mbit if self.weather.rate_mbit else 0.0

    def _launch(self, packet: bytes, now: float) -> None:
        weather = self.weather
        due = now + weather.delay_ms / 1000
        if weather.jitter_ms:
            due += self._jitter.uniform(0, weather.jitter_ms) / 1000
        if self._flight:
            due = max(due, self._flight[-1][0])
        self._flight.append((due, packet))

    def move(self, now: float) -> None:
        """Whatever is due, from the queue into flight and out of it."""
        queue, flight = self._queue, self._flight
        while queue and self._off_wire <= now:
            packet = queue.popleft()
            self._queued -= len(packet)
            self._launch(packet, self._off_wire)
            if queue:
                self._off_wire += self._on_wire_s(queue[0])
        while flight and flight[0][0] <= now:
            try:
                os.write(self.target, flight.popleft()[1])
                self.counters.arrived += 1
            except OSError:
                self.counters.cut += 1

    def next(self) -> float:
        """When something is due."""
        return min(self._off_wire if self._queue else math.inf, self._flight[0][0] if self._flight else math.inf)


def _device(namespace: str, name: str) -> int:
    with inside(Path(namespace)):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def main(seed: str, *ends: str) -> None:
    """Carry packets until nobody asks any more."""
    one, other = _device(*ends[:2]), _device(*ends[2:])
    ways = [Way(one, other, f"{seed} there"), Way(other, one, f"{seed} back")]
    asked = b""
    while True:
        wait = min(way.next() for way in ways) - time.monotonic()
        ready, _, _ = select.select([one, other, 0], [], [], max(wait, 0) if wait < math.inf else None)
        now = time.monotonic()
        for way in ways:
            if way.source in ready:
                way.take(now)
            way.move(now)
        if 0 in ready:
            if not (chunk := os.read(0, 65536)):
                return
            *lines, asked = (asked + chunk).split(b"\n")
            for line in lines:
                _answer(ways, json.loads(line))


def _answer(ways: list[Way], question: dict[str, object]) -> None:
    match question:
        case {"way": int(number), "set": dict(settings)}:
            way = ways[number]
            if settings:
                way.change(replace(way.weather, **settings), time.monotonic())
            sys.stdout.write(json.dumps(asdict(way.counters)) + "\n")
            sys.stdout.flush()
        case _:
            raise ValueError(f"not a question: {question}")


if __name__ == "__main__":
    main(*sys.argv[1:])
