"""When an engine that nobody lets in asks the portal why. Pure; time is handed in.

Who is refused asks at once: it may have been removed. Who reaches nobody waits first: a Controller that starts, or that
has no place for a moment, is no reason. Then both ask ever less often, each at a moment of its own: there may be
thousands, and an answer costs the Controller more than to let them in.
"""

import random

FIRST_S, SELDOM_S = 5.0, 300.0


class Asking:
    """Asks at most every few seconds at first, and at last every few minutes."""

    def __init__(self, draw: random.Random | None = None) -> None:
        self._draw = draw or random.SystemRandom()
        self._every_s = FIRST_S
        self._at: float | None = None

    def is_due(self, now: float, *, refused: bool) -> bool:
        """Whether to ask at *now* (seconds, monotonic), when a log-in has failed, or was *refused*."""
        if self._at is None and not refused:
            self._at = now + self._pause()
            return False
        if self._at is not None and now < self._at:
            return False
        self._at = now + self._pause()
        self._every_s = min(SELDOM_S, 2 * self._every_s)
        return True

    def reset(self) -> None:
        """Somebody has let us in."""
        self._every_s, self._at = FIRST_S, None

    def _pause(self) -> float:
        return self._draw.uniform(0.5, 1.0) * self._every_s
