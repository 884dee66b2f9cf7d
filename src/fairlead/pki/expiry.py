"""How near certificates are to their end, and when they are made anew. Pure: validity and now in, verdict out.

A certificate of short life is told by its life: to be warned of all the time is not to be warned. What stands below
others lives as long as the first of them that ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairlead.base.clock import DAY
from fairlead.pki.certificate import validity

WARNING_DAYS = (30, 7, 1)
RENEWED_BEFORE = 30 * DAY
SHARE = 3
"""Nothing is said, and nothing renewed, before the last third of a life."""
EXPIRED = 0
"""The warning that stands when it is over."""


@dataclass(frozen=True, slots=True)
class Life:
    """The first and the last moment at which a certificate is valid, microseconds."""

    first: int
    last: int


def life(leaf: bytes, above: Iterable[bytes] = ()) -> Life:
    """That of *leaf* (DER), which ends with the first of those *above* it. Raises Refused FL-CERTIFICATE-FORMAT."""
    first, last = validity(leaf)
    return Life(first, min([last, *(validity(der)[1] for der in above)]))


def warning(of: Life, now: int, days: Sequence[int] = WARNING_DAYS) -> int | None:
    """Which warning stands at *now* (microseconds): the fewest of *days* within which it ends, `EXPIRED`, or None."""
    left = of.last - now
    if left < 0:
        return EXPIRED
    share = (of.last - of.first) // SHARE
    return min((one for one in days if one > EXPIRED and left <= min(one * DAY, share)), default=None)


def due(of: Life, now: int, most: int) -> bool:
    """Whether it is time to make it anew. *most*: when a new one would end at the latest, microseconds.

    One that could not live for a day longer than this one is not made: below a root that ends there would be no end.
    """
    return of.last - now <= min(RENEWED_BEFORE, (of.last - of.first) // SHARE) and most >= of.last + DAY
