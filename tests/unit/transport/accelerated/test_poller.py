"""Every connection is swept about once in a second, and never so many at once that others have to wait for it."""

import asyncio

import pytest

from fairlead.transport.accelerated import poller as module
from fairlead.transport.accelerated.poller import SWEPT, Poller


class Turns:
    """Counts who was swept in each turn of the loop."""

    def __init__(self) -> None:
        self.turns: dict[float, int] = {}


class Swept:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.times = 0
        self.done = asyncio.Event()

    def ready(self, _: int) -> None: ...

    def fail(self, bug: Exception) -> None:
        raise bug

    def turn(self) -> None: ...

    def flush(self) -> None: ...

    def sweep(self, now: float) -> None:
        self.times += 1
        self._turns.turns[now] = self._turns.turns.get(now, 0) + 1
        self.done.set()


async def test_thousands_are_swept_a_few_at_a_time_and_each_in_its_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.05)
    monkeypatch.setattr(module, "APART_S", 0.01)
    poller, turns = Poller(asyncio.get_running_loop()), Turns()
    fleet = [Swept(turns) for _ in range(3 * SWEPT)]
    gone = Swept(turns)
    try:
        for one in (*fleet, gone):
            poller.joined(one)
        poller.left(gone)
        async with asyncio.timeout(10):
            for _ in range(2):
                for one in fleet:
                    await one.done.wait()
                    one.done.clear()
        assert max(turns.turns.values()) <= SWEPT
        assert max(one.times for one in fleet) - min(one.times for one in fleet) <= 1, "nobody before everybody was"
        assert gone.times == 0
    finally:
        poller.close()


async def test_a_few_are_swept_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.2)
    monkeypatch.setattr(module, "APART_S", 0.01)
    poller, turns = Poller(asyncio.get_running_loop()), Turns()
    one = Swept(turns)
    try:
        poller.joined(one)
        async with asyncio.timeout(10):
            while one.times < 3:
                await one.done.wait()
                one.done.clear()
        first, *_, last = turns.turns
        assert last - first >= 2 * 0.2 * 0.9
    finally:
        poller.close()
