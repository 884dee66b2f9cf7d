"""Time as the rest of fairlead sees it: microseconds since the epoch, handed in, never asked for in passing."""

import time
from datetime import UTC, datetime
from typing import Protocol

SECOND = 1_000_000  # microseconds
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LAST_INSTANT = 253_402_300_800 * SECOND  # the year 10000, of which `rfc3339` cannot speak


class Clock(Protocol):
    """Where the time comes from; tests hand in their own."""

    def now(self) -> int:
        """Microseconds since the epoch by this machine's clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()


def spoken(instant: int) -> int:
    """The instant nearest to *instant* of which `rfc3339` and messages can speak: what others said may be wrong."""
    return min(max(0, instant), LAST_INSTANT - 1)


def rfc3339(instant: int) -> str:
    """*instant* (microseconds) as RFC 3339 text in UTC, whole seconds: ``2026-01-01T00:00:00Z``."""
    return datetime.fromtimestamp(instant // SECOND, UTC).isoformat()[:19] + "Z"  # strftime takes five times as long


def from_rfc3339(text: str) -> int:
    """The reverse of `rfc3339`. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"no time zone in {text!r}")
    return int(moment.timestamp() * SECOND)
