"""What may be under way, over paths that are made of numbers."""

from collections import deque
from dataclasses import dataclass, field

import pytest

from fairlead.transport.accelerated.pace import LEAST_BUDGET, NEAR_WINDOW, Pace, window
from fairlead.transport.options import FAST_PACKET, MOST_WINDOW, WINDOW

RTT = 0.07
GIGABIT, SLOW = 125_000_000, 1_250_000
TICK = 0.001
PLENTY = 16 << 20


@dataclass
class Path:
    """A bottleneck with a queue without end, a sender that always has more, and acknowledgements a round trip later.

    The kernel takes three times what the path holds: the budget alone is to keep the queue short.
    """

    rate: float
    rtt: float = RTT
    pace: Pace = field(default_factory=Pace)
    now: float = 0.0
    sent: int = 0
    delivered: float = 0.0
    acknowledged: float = 0.0
    look_at: float = 0.0
    returning: deque[tuple[float, float]] = field(default_factory=deque)
    longest_queue: float = 0.0

    def __post_init__(self) -> None:
        self.kernel = max(1 << 20, 3 * self.rate * self.rtt)

    def run(self, seconds: float) -> float:
        """Bytes in a second that came out."""
        before, self.longest_queue = self.delivered, 0.0
        for _ in range(round(seconds / TICK)):
            self._tick()
        return (self.delivered - before) / seconds

    def _tick(self) -> None:
        self.now += TICK
        while self.returning and self.returning[0][0] <= self.now:
            self.acknowledged = self.returning.popleft()[1]
        while self.sent - self.acknowledged < self.kernel and not self.pace.pause(int(self.sent - self.acknowledged)):
            self.sent += self.pace.packet
        self.delivered = min(float(self.sent), self.delivered + self.rate * TICK)
        self.returning.append((self.now + self.rtt, self.delivered))
        self.longest_queue = max(self.longest_queue, self.sent - self.delivered)
        if self.now >= self.look_at:
            self.pace.seen(self.now, self.rtt, int(self.acknowledged), int(self.sent - self.acknowledged), stopped=True)
            self.look_at = self.now + self.pace.step


@pytest.mark.parametrize("rate", [SLOW, 12_000_000, GIGABIT])
@pytest.mark.parametrize("rtt", [0.005, 0.02, RTT, 0.2])
def test_a_path_is_full_and_its_queue_short(rate: float, rtt: float) -> None:
    path = Path(rate, rtt)
    path.run(5)
    assert path.run(5) >= 0.95 * rate
    beyond = 1.7 * rate * max(rtt + 0.001, 0.015) - rate * rtt  # a sample of ten ticks may hold eleven
    assert path.longest_queue <= max(LEAST_BUDGET, beyond) + path.pace.packet


def test_a_path_is_full_from_its_first_seconds_on() -> None:
    path = Path(GIGABIT)
    path.run(0.5)
    assert path.run(2) >= 0.95 * GIGABIT


def test_a_path_that_becomes_slow_and_fast_again() -> None:
    path = Path(GIGABIT)
    path.run(3)
    assert path.pace.packet == FAST_PACKET
    assert path.pace.unsent == pytest.approx(0.008 * GIGABIT, rel=0.02)
    path.rate = SLOW
    path.run(25)
    assert path.run(5) >= 0.95 * SLOW
    assert path.longest_queue <= 0.65 * SLOW * RTT + path.pace.packet
    assert (path.pace.packet, path.pace.unsent) == (16 * 1024, 32 * 1024)
    path.rate = GIGABIT
    path.run(2)
    assert path.run(2) >= 0.95 * GIGABIT
    assert path.pace.packet == FAST_PACKET
    assert path.pace.unsent == pytest.approx(0.008 * GIGABIT, rel=0.02)


@pytest.mark.parametrize("rate", [SLOW, GIGABIT])
def test_a_near_path_is_left_alone(rate: float) -> None:
    pace = Pace()
    for step in range(100):
        pace.seen(step * 0.01, 0.0009, int(step * 0.01 * rate), PLENTY, stopped=True)
    assert pace.rate == pytest.approx(rate, rel=0.01)
    assert (pace.budget, pace.pause(PLENTY), pace.unsent, pace.packet) == (None, 0.0, 0, FAST_PACKET)


def test_an_unknown_path_has_no_budget() -> None:
    pace = Pace()
    assert (pace.budget, pace.pause(PLENTY), pace.unsent, pace.packet) == (None, 0.0, 0, FAST_PACKET)
    pace.seen(0.0, RTT, 0, PLENTY, stopped=True)
    assert (pace.budget, pace.pause(PLENTY), pace.unsent, pace.packet) == (None, 0.0, 128 * 1024, FAST_PACKET)


def test_a_program_with_little_to_say_does_not_make_its_path_slow() -> None:
    pace = Pace()
    for step in range(100):
        pace.seen(step * RTT, RTT, step * 64, 64, stopped=False)
    assert (pace.rate, pace.packet) == (None, FAST_PACKET)


def test_a_rate_on_its_way_up_makes_no_budget() -> None:
    pace, acknowledged = Pace(), 0
    for step, rate in enumerate([0, 1, 2, 4, 8, 8, 8, 8, 10, 10, 10, 10]):
        acknowledged += rate * 1_000_000
        pace.seen(float(step), RTT, acknowledged, PLENTY, stopped=True)
        assert (pace.budget is not None) == (step in (7, 11))


def test_a_short_path_has_a_budget_for_late_acknowledgements() -> None:
    pace = Pace()
    for step in range(10):
        pace.seen(float(step), 0.002, step * 100_000_000, PLENTY, stopped=True)
    assert pace.budget == 1.5 * 100_000_000 * 0.015


def test_what_was_seen_is_forgotten() -> None:
    path = Path(SLOW)
    path.run(5)
    assert path.pace.budget
    path.pace.seen(path.now + 10.1, RTT, path.sent, 0, stopped=False)
    assert path.pace.budget is None


def test_a_window_grows_only_while_it_limits() -> None:
    assert window(WINDOW, 2 * RTT - 0.001, RTT) == 2 * WINDOW
    assert window(WINDOW, 2 * RTT, RTT) == WINDOW
    assert window(MOST_WINDOW, 0.0, RTT) == MOST_WINDOW
    assert window(WINDOW, 0.0, 0.0009) == NEAR_WINDOW
    assert window(NEAR_WINDOW, 0.0, 0.0009) == NEAR_WINDOW
    assert window(WINDOW, 0.0021, 0.0009) == WINDOW
    assert window(WINDOW, 0.0, None) == WINDOW
