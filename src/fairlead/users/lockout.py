"""Who may try a password now. Pure counting.

Rules, and the attack each stops:

1. After `Rules.most_failures` a name is closed for `Rules.locked` to the network that they came from: passwords are
   not guessed by trying.
2. Only to that network: a stranger cannot lock the people of another one out. It has no bearing on nodes that join, and
   none on the control socket: whoever operates the machine gets in.
3. Names that nobody has are counted like others: a lock tells nothing about who exists.
4. Memory is bounded: of more than `MOST_COUNTED` pairs the one that failed longest ago is forgotten.
"""

import time
from collections.abc import Callable

from fairlead.base.clock import SECOND
from fairlead.users.rules import Rules

MOST_COUNTED = 4096


class Lockout:
    """Failures since the last success, for each name and network."""

    def __init__(self, rules: Callable[[], Rules] = Rules, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._monotonic = monotonic
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        """How many, and when the last was; the one that failed longest ago comes first."""

    def left(self, name: str, network: str) -> float:
        """Seconds for which *network* may not try *name*; 0 when it may."""
        rules = self._rules()
        count, last = self._failures.get((name, network), (0, 0.0))
        closed = 0 < rules.most_failures <= count
        return max(0.0, last + rules.locked / SECOND - self._monotonic()) if closed else 0.0

    def failed(self, name: str, network: str) -> None:
        """A password of *name* was wrong."""
        count, last = self._failures.pop((name, network), (0, 0.0))
        now = self._monotonic()
        count = count + 1 if now - last < self._rules().locked / SECOND else 1
        self._failures[name, network] = count, now
        if len(self._failures) > MOST_COUNTED:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, name: str, network: str) -> None:
        """It was right."""
        self._failures.pop((name, network), None)
