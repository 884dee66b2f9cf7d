"""How fast one engine is listened to: a bucket of tokens, each message takes one, a long one several. Pure.

Whoever says more is read later and not hung up on: what it has under way fills its own window, and then it waits. An
engine at work says a message in seconds; a few hundred come together when all its documents are new.
"""

RATE = 200.0
"""Tokens that come back in a second."""
MOST = 1000.0
"""In the bucket."""
TOKEN_BYTES = 64 * 1024


class Pace:
    """One engine's, over all its links."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = MOST
        self._at = 0.0

    def spend(self, messages: int, size: int, now: float) -> float:
        """Take what *messages* of *size* bytes in all cost. Seconds before they are heeded; *now*: monotonic."""
        self._left = min(MOST, self._left + (now - self._at) * RATE) - messages - size / TOKEN_BYTES
        self._at = now
        return max(0.0, -self._left / RATE)
