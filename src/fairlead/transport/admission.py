"""How many connections may stand at a door before they have shown who they are. Pure counting.

Rules, and the attack each stops:

1. A cap in all: half-open handshakes cannot use up memory and descriptors.
2. A cap per source, below the cap in all: one machine cannot use up everybody's places.
3. A full house is shared: who has fewer places than somebody else gets one of his, the oldest. A flood from many
   sources takes places from itself, and an honest node that needs one gets one.
4. Among equals the oldest gives way once it has stood there longer than an honest one needs: a flood from ever so
   many sources, or from the honest node's own, holds no place for long. Not sooner: a fleet that arrives all at once
   would undo its own work.
5. Only what stands there now is counted, never past failures: a fleet behind one NAT is one source, and a stranger
   behind the same NAT must not be able to lock it out by failing.
6. The house is as large as whoever belongs in is served promptly (`Place.served`), from a *least* to all its places: it
   grows with each, and shrinks when they wait. Of a fleet that arrives all at once some are served, and the others sent
   away while that costs nothing yet; together they would all be slow, and time out with their work done in vain. Only
   who has shown who it is changes the size. Where a house has been full for a while and hardly anybody is served, that
   is no fleet but a flood: all its places are needed, for rules 3 and 4 to bring somebody in.
7. An IPv6 source is a /56, the least that one subscriber gets: its addresses are free. Only sources that are inside
   are remembered, so memory is bounded by the cap in all.
"""

import ipaddress
import time
from collections import deque
from collections.abc import Callable, Hashable

from fairlead.transport.busy import MOST_S

PROMPT_S = 2.0
"""Who is served within it was served promptly."""
GROWTH, SHRINKAGE = 2, 0.75
RECENT = 16
"""About so many that were served say how long it takes."""
FLOOD_S = 5.0
"""A house that is full for so long, with fewer than `RECENT` served in it, is flooded."""
_IPV6_HOST_BITS = 128 - 56


def plain_address(host: str) -> str:
    """*host* as a socket names it, without scope, and as IPv4 where it is IPv4 mapped into IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


class Place:
    """A place at a door, taken."""

    __slots__ = ("_admission", "group", "since", "yields")

    def __init__(self, admission: "Admission", group: object, since: float, yields: Callable[[], bool]) -> None:
        self._admission = admission
        self.group = group
        self.since = since
        self.yields = yields

    def served(self) -> None:
        """Give it back: whoever stood there has shown who it is, and goes in."""
        self._admission.served(self)

    def leave(self) -> None:
        """Give it back; without effect when it was given to somebody else, or back already."""
        self._admission.left(self)


class Admission:
    """Places at a door: *most* in all, *most_per_source* for each source; *patience_s* is what an honest one needs.

    With a *least*, there are that many at the beginning, and more or fewer as they are served.
    """

    def __init__(self, most: int, most_per_source: int, patience_s: float = float("inf"), *, least: int | None = None,
                 monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._least = most if least is None else least
        self._size = float(self._least)
        self._shrunk = float("-inf")
        self._recent: deque[float] = deque(maxlen=RECENT)
        """When the last ones were served."""
        self._full_since: float | None = None
        self._stands_s = PROMPT_S / 8
        """How long who is served stands here. Rather too short at first: who comes too soon is told once more, and it
        costs little; who comes too late finds an empty house."""
        self._most_per_source = most_per_source
        self._patience = patience_s
        self._monotonic = monotonic
        self._inside = 0
        self._per_source: dict[object, dict[Place, None]] = {}
        """Oldest first."""

    @property
    def inside(self) -> int:
        """How many stand there now."""
        return self._inside

    def enter(self, source: Hashable, yields: Callable[[], bool]) -> Place | None:
        """Take a place for *source*, an address (``str``) or whatever else is counted by; None when there is none.

        *yields* is called when somebody else should have it: it sends whoever stands there away, or says no.
        """
        group = _group(source) if isinstance(source, str) else source
        mine = self._per_source.get(group, {})
        if self._inside < self.size / 2:
            self._full_since = None
        crowd = self._crowd(mine)
        if crowd is not None and not self._freed(*crowd):
            self._watch_for_floods()
            return None
        place = Place(self, group, self._monotonic(), yields)
        self._per_source.setdefault(group, {})[place] = None
        self._inside += 1
        return place

    @property
    def size(self) -> int:
        """How many places there are now."""
        return int(self._size)

    def turn_away(self, source: str) -> bool:
        """Turn *source* away when `enter` would, for all that is known without asking anybody to go; whether it was."""
        crowd = self._crowd(self._per_source.get(_group(source), {}))
        if crowd is None:
            return False
        oldest = next(iter(crowd[0]), None)
        if oldest is not None and (crowd[1] or oldest.since <= self._monotonic() - self._patience):
            return False
        self._watch_for_floods()
        return True

    def _watch_for_floods(self) -> None:
        """Somebody was turned away."""
        now = self._monotonic()
        flows = len(self._recent) == RECENT and self._recent[0] > now - FLOOD_S
        if self._full_since is None or flows:
            self._full_since = now
        elif now - self._full_since > FLOOD_S:
            self._size = float(self._most)

    def _crowd(self, mine: dict[Place, None]) -> tuple[dict[Place, None], bool] | None:
        """Of whom one must give way for one more of those who have *mine*, and whether at once. None: there is room."""
        if len(mine) >= self._most_per_source:
            return mine, False
        if self._inside >= self.size:
            most = max(self._per_source.values(), key=len)
            return (most, len(most) > len(mine) + 1) if len(most) > len(mine) else ({}, False)
        return None

    def come_again_s(self, waiting: int) -> int:
        """Within how many seconds *waiting* more would be served, as those before them were: their Retry-After.

        Who comes at a moment of its own within that time comes when there is a place. It is reckoned from how long one
        stands here, not from how many are served: where few come for having been told so, few are.
        """
        return round(min(max(waiting * self._stands_s / self.size, 1.0), MOST_S))

    def served(self, place: Place) -> None:
        """For `Place` only: whoever had it is in."""
        if place not in self._per_source.get(place.group, {}):
            return
        now = self._monotonic()
        self._recent.append(now)
        self._stands_s += (now - place.since - self._stands_s) / RECENT
        if now - place.since <= PROMPT_S:
            self._size = min(self._most, self._size + GROWTH)
        elif now - self._shrunk > PROMPT_S:
            self._size, self._shrunk = max(self._least, self._size * SHRINKAGE), now
        self.left(place)

    def left(self, place: Place) -> None:
        """For `Place` only: it is free."""
        group = self._per_source.get(place.group, {})
        if place in group:
            del group[place]
            self._inside -= 1
            if not group:
                del self._per_source[place.group]

    def _freed(self, crowd: dict[Place, None], at_once: bool) -> bool:
        """Whether the oldest of a crowd that can gave way."""
        long_ago = self._monotonic() - self._patience
        for place in tuple(crowd):
            if not at_once and place.since > long_ago:
                return False
            if place.yields():
                place.leave()
                return True
        return False


def _group(source: str) -> object:
    try:
        address = ipaddress.ip_address(plain_address(source))
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv6Address):
        return 6, int(address) >> _IPV6_HOST_BITS
    return 4, int(address)
