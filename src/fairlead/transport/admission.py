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
6. An IPv6 source is a /56, the least that one subscriber gets: its addresses are free. Only sources that are inside
   are remembered, so memory is bounded by the cap in all.
"""

import ipaddress
import time
from collections.abc import Callable, Hashable

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

    def leave(self) -> None:
        """Give it back; without effect when it was given to somebody else, or back already."""
        self._admission.left(self)


class Admission:
    """Places at a door: *most* in all, *most_per_source* for each source; *patience_s* is what an honest one needs."""

    def __init__(self, most: int, most_per_source: int, patience_s: float = float("inf"),
                 monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most = most
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
        if len(mine) >= self._most_per_source:
            if not self._freed(mine, at_once=False):
                return None
        elif self._inside >= self._most:
            most = max(self._per_source.values(), key=len)
            if len(most) <= len(mine) or not self._freed(most, at_once=len(most) > len(mine) + 1):
                return None
        place = Place(self, group, self._monotonic(), yields)
        self._per_source.setdefault(group, {})[place] = None
        self._inside += 1
        return place

    def left(self, place: Place) -> None:
        """For `Place` only: it is free."""
        group = self._per_source.get(place.group, {})
        if place in group:
            del group[place]
            self._inside -= 1
            if not group:
                del self._per_source[place.group]

    def _freed(self, crowd: dict[Place, None], *, at_once: bool) -> bool:
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
