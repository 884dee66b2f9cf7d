"""Patience with sources whose token proofs fail: they are served last, never refused. Pure; time is handed in.

A lock-out would be a lever: an attacker behind a fleet's NAT could keep the fleet out, and 256 bits are not guessed
anyway. So a source with many failed proofs only gets a pace; honest nodes behind the same address still pass, and a
valid proof is never counted. Join protocol, section 13.
"""

from collections import OrderedDict, deque

FAILURES = 20
WINDOW_S = 100.0
PER_SECOND = 50
MOST_WAIT_S = 0.64
"""As long as all connections that one source may have need in turn: who hung up meanwhile keeps nobody waiting."""
MOST_SOURCES = 4096
"""Remembered at once; the one that failed longest ago is forgotten first, which only makes it unremarkable again."""


class Patience:
    """Failed proofs per source, and when each source's next request may be looked at."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._next: dict[str, float] = {}

    def failed(self, source: str, now: float) -> None:
        """A proof from *source* was wrong at *now* (seconds, monotonic)."""
        failures = self._failures.setdefault(source, deque(maxlen=FAILURES + 1))
        failures.append(now)
        self._failures.move_to_end(source)
        while len(self._failures) > MOST_SOURCES:
            forgotten, _ = self._failures.popitem(last=False)
            self._next.pop(forgotten, None)

    def wait(self, source: str, now: float) -> float:
        """For how many seconds the next request from *source* waits; takes its turn."""
        failures = self._failures.get(source)
        if failures is None or len(failures) <= FAILURES or failures[0] < now - WINDOW_S:
            self._next.pop(source, None)
            return 0.0
        turn = min(max(now, self._next.get(source, 0.0)) + 1 / PER_SECOND, now + MOST_WAIT_S)
        self._next[source] = turn
        return turn - now
