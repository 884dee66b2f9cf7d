"""Who may try a password now. Pure counting.

Rules, and the attack each stops:

1. After `MOST_FAILURES` a name is closed for `LOCKED_S` to the network that they came from: passwords are not guessed
   by trying.
2. Only to that network: a stranger cannot lock the people of another one out. It has no bearing on nodes that join, and
   none on the control socket: whoever operates the machine gets in.
3. Names that nobody has are counted like others: a lock tells nothing about who exists.
4. Memory is bounded: of more than `MOST_COUNTED` pairs the one that failed longest ago is forgotten.
"""

import time
from collections.abc import Callable

MOST_FAILURES = 3
LOCKED_S = 30 * 60.0
MOST_COUNTED = 4096


class Lockout:
    """Failures since the last success, for each name and network."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        """How many, and when the last was; the one that failed longest ago comes first."""

    def left(self, name: str, network: str) -> float:
        """Seconds for which *network* may not try *name*; 0 when it may."""
        count, last = self._failures.get((name, network), (0, 0.0))
        return max(0.0, last + LOCKED_S - self._monotonic()) if count >= MOST_FAILURES else 0.0

    def failed(self, name: str, network: str) -> None:
        """A password of *name* was wrong."""
        count, last = self._failures.pop((name, network), (0, 0.0))
        now = self._monotonic()
        count = count + 1 if now - last < LOCKED_S else 1
        self._failures[name, network] = count, now
        if len(self._failures) > MOST_COUNTED:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, name: str, network: str) -> None:
        """It was right."""
        self._failures.pop((name, network), None)
