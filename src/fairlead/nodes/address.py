"""Internal addresses: the pool, and the views that let several nodes share one host. Pure.

Every node has one loopback address in the whole cluster (seed: *internal loopback IP addresses and node names are
allocated*). A node that lives beside others on one host sees everybody through a network of its own: the view's base
plus the place in the pool.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from fairlead.base.errors import OperatorError

POOL = IPv4Network("127.64.0.0/10")
LOOPBACK = IPv4Network("127.0.0.0/8")
FIRST_CONTROLLER = IPv4Address("127.64.0.1")
FIRST_ENGINE = IPv4Address("127.64.1.0")
LAST = IPv4Address("127.127.255.254")
REST_MINUTES = 10
"""How long a freed address rests before it is used again."""


@dataclass(frozen=True, slots=True)
class View:
    """How one node sees internal addresses on its own host."""

    network: IPv4Network = POOL

    @classmethod
    def parse(cls, text: str) -> "View":
        """The view of ``127.65.0.0/16``. Raises OperatorError FL-VIEW."""
        try:
            network = IPv4Network(text)
        except ValueError as error:
            raise OperatorError("FL-VIEW", f"{text!r} is not a network: {error}",
                                "give --view a network such as 127.65.0.0/16") from None
        if not network.subnet_of(LOOPBACK) or network.prefixlen > 24:
            raise OperatorError("FL-VIEW", f"{text} is no view: a view is a /8 to /24 inside 127.0.0.0/8",
                                "give --view a network such as 127.65.0.0/16")
        return cls(network)

    def see(self, internal: str) -> str:
        """Where this node finds *internal*. Raises OperatorError FL-VIEW when the view is too small for it."""
        return _seen(self.network, internal)


@lru_cache(maxsize=32_768)  # a Controller looks at all of them at every change
def _seen(network: IPv4Network, internal: str) -> str:
    place = int(IPv4Address(internal)) - int(POOL.network_address)
    if not 0 <= place < network.num_addresses:
        raise OperatorError("FL-VIEW", f"the view {network} has no room for {internal}",
                            "give the node a larger --view")
    return str(network.network_address + place)


def is_for(role: str, address: str) -> bool:
    """Whether a node of *role* may get that address of the pool."""
    return (IPv4Address(address) < FIRST_ENGINE) == (role == "controller")


def candidates(role: str, since: str = "") -> Iterator[str]:
    """The addresses that a node of *role* may get, lowest first; those below *since* are left out."""
    first, last = (FIRST_CONTROLLER, FIRST_ENGINE - 1) if role == "controller" else (FIRST_ENGINE, LAST)
    for number in range(int(IPv4Address(since) if since else first), int(last) + 1):
        yield str(IPv4Address(number))
