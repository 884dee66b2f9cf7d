"""When to try again: full jitter, so that a fleet that lost its Controller does not come back in step."""

import random


class FullJitter:
    """Delays drawn evenly from nothing up to a ceiling that doubles from *first* to *most* seconds."""

    def __init__(self, first: float, most: float, draw: random.Random | None = None) -> None:
        self._first = first
        self._most = most
        self._ceiling = first
        self._draw = draw or random.SystemRandom()

    def next(self, most: float | None = None) -> float:
        """Seconds to wait before the next try; this time no more than *most*."""
        delay = self._draw.uniform(0, self._ceiling if most is None else min(self._ceiling, most))
        self._ceiling = min(self._most, self._ceiling * 2)
        return delay

    def reset(self) -> None:
        """Begin again: the last try worked."""
        self._ceiling = self._first
