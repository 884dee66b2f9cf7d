"""How many connections may stand at a door before they have shown who they are. Pure counting.

Rules, and the attack each stops:

1. A cap in all: half-open handshakes cannot use up memory and descriptors.
2. A cap per source, below the cap in all: one machine cannot use up everybody's places.
3. Only what stands there now is counted, never past failures: a fleet behind one NAT is one source, and a stranger
   behind the same NAT must not be able to lock it out by failing.
4. An IPv6 source is a /56, the least that one subscriber gets: its addresses are free. Only sources that are inside
   are remembered, so memory is bounded by the cap in all.
"""

import ipaddress

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


class Admission:
    """Places at a door: *most* in all, *most_per_source* for each source."""

    def __init__(self, most: int, most_per_source: int) -> None:
        self._most = most
        self._most_per_source = most_per_source
        self._inside = 0
        self._per_source: dict[object, int] = {}

    @property
    def inside(self) -> int:
        """How many stand there now."""
        return self._inside

    def enter(self, source: str) -> bool:
        """Take a place for the address *source*; False when there is none. Each True is answered by one `leave`."""
        group = _group(source)
        here = self._per_source.get(group, 0)
        if self._inside >= self._most or here >= self._most_per_source:
            return False
        self._per_source[group] = here + 1
        self._inside += 1
        return True

    def leave(self, source: str) -> None:
        """Give the place back. Raises ValueError when *source* has none."""
        group = _group(source)
        here = self._per_source.get(group, 0)
        if not here:
            raise ValueError(f"{source} is not inside")
        self._inside -= 1
        if here == 1:
            del self._per_source[group]
        else:
            self._per_source[group] = here - 1


def _group(source: str) -> object:
    try:
        address = ipaddress.ip_address(plain_address(source))
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv6Address):
        return 6, int(address) >> _IPV6_HOST_BITS
    return 4, int(address)
