"""How much of a stream may be under way: decided by what the path was seen to carry. Numbers in, decisions out.

Whatever lies in a buffer between two programs is latency for whatever comes behind it, and whatever is missing there is
throughput lost. The kernel knows both figures that decide: the shortest round trip of the path, and what the peer has
acknowledged.

Rules, and the harm each prevents:

1. A window grows only by what was consumed, and only as fast as it limits: a program that does not read has no more
   waiting for it than it has shown to take.
2. A rate is believed once it has stopped growing. Before that there is no budget: one made of a rate on its way up
   would be what holds it down.
3. A budget is made of the path's shortest round trip, not of its present one: that contains our own queue, and a
   budget made of it would feed on itself.
4. A path shorter than a millisecond is left alone: nothing queues there for long, and each limit costs throughput. Its
   windows grow once, for two processes that share a core wait for each other less often; not more, for on such a path
   what is under way is the delay of everything beside it.
"""

from fairlead.transport.options import FAST_PACKET, MOST_WINDOW

NEAR_S = 0.001
"""Paths with a shorter round trip are left alone."""
NEAR_WINDOW = 1024 * 1024
LEAST_BUDGET = 64 * 1024
_MEMORY_S = 10.0
"""How long a rate is remembered."""
_GAIN = 1.5
"""Round trips of data under way: 1.25 loses throughput where packets are lost, 2 doubles the queue."""
_SHORTEST_S = 0.015
"""What counts as a round trip at least: acknowledgements come late, and in bunches, however short the path."""
_SHORTEST_SAMPLE_S = 0.01
_GROWTH = 1.25
_SETTLED = 3
"""Samples without growth after which a rate is believed."""
_SLOW = 12_500_000
"""Bytes in a second below which packets are to be short, for others wait behind each of them."""
_SLOW_PACKET = 16 * 1024
_SLOW_UNSENT = 32 * 1024
_FAST_UNSENT = 128 * 1024
_UNSENT_S = 0.008
"""What a fast path may take beyond that: so much longer a byte waits, and so late may this process wake up."""


def window(present: int, elapsed: float, min_rtt: float | None) -> int:
    """The receive window in bytes of a stream that has consumed half of *present* in *elapsed* seconds."""
    if min_rtt is None or elapsed >= 2 * max(min_rtt, NEAR_S):
        return present
    return min(2 * present, MOST_WINDOW) if min_rtt >= NEAR_S else max(present, NEAR_WINDOW)


class Pace:
    """What one connection may have under way. Times in seconds, of any one clock; sizes in bytes."""

    def __init__(self) -> None:
        self.min_rtt: float | None = None
        """The shortest round trip; None when it is not known."""
        self._rates: list[tuple[float, float]] = []
        """When, and how many bytes in a second; falling, so the first is the highest."""
        self._unchanged = 0
        self._since = 0.0
        self._acknowledged = 0
        self._pressed = False

    @property
    def step(self) -> float:
        """Seconds between two looks at the path."""
        return max(self.min_rtt or 0.0, _SHORTEST_SAMPLE_S)

    @property
    def rate(self) -> float | None:
        """What the path carries, in bytes in a second; None while that is not known."""
        return self._rates[0][1] if self._rates and self._unchanged >= _SETTLED else None

    @property
    def _far(self) -> bool:
        return self.min_rtt is not None and self.min_rtt >= NEAR_S

    @property
    def budget(self) -> int | None:
        """Bytes that may be on their way, not acknowledged; None for as many as the kernel takes."""
        if self.min_rtt is None or not self._far or self.rate is None:
            return None
        return max(LEAST_BUDGET, int(_GAIN * self.rate * max(self.min_rtt + 0.001, _SHORTEST_S)))

    @property
    def unsent(self) -> int:
        """Bytes that the kernel is to take beyond what it sends at once; 0 for its own choice."""
        if not self._far:
            return 0
        return _SLOW_UNSENT if self._slow else max(_FAST_UNSENT, int((self.rate or 0) * _UNSENT_S))

    @property
    def packet(self) -> int:
        """Bytes of data in one packet."""
        return _SLOW_PACKET if self._far and self._slow else FAST_PACKET

    @property
    def _slow(self) -> bool:
        return self.rate is not None and self.rate < _SLOW

    def seen(self, now: float, min_rtt: float | None, acknowledged: int, under_way: int, *, stopped: bool) -> None:
        """The path as it is *now*: *acknowledged* in all, *under_way* not yet; *stopped*: no more was taken."""
        self.min_rtt = min_rtt
        pressed = stopped or under_way >= LEAST_BUDGET
        elapsed = now - self._since
        if self._pressed and pressed and elapsed < self.step:
            return
        if self._pressed and pressed:  # otherwise the program was what limited
            self._sampled(now, (acknowledged - self._acknowledged) / elapsed)
        self._since, self._acknowledged, self._pressed = now, acknowledged, pressed
        while self._rates and self._rates[0][0] < now - _MEMORY_S:
            del self._rates[0]
        if not self._rates:
            self._unchanged = 0

    def _sampled(self, now: float, rate: float) -> None:
        if not self._rates or rate >= _GROWTH * self._rates[0][1]:
            self._unchanged = 0
        else:
            self._unchanged += 1
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((now, rate))

    def pause(self, under_way: int) -> float:
        """Seconds until one more packet fits into the budget, with *under_way* bytes on their way; 0 when one does."""
        budget, rate = self.budget, self.rate
        if budget is None or not rate or under_way + self.packet <= budget:
            return 0.0
        return max(0.001, (under_way + self.packet - budget) / rate)
