"""Networks in which somebody has to be, or may not be. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Literal

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Networks:
    """Where people may come from."""

    criteria: Literal["IS_IN", "IS_NOT_IN"]
    prefixes: tuple[Network, ...]

    def hold(self, source: str) -> bool:
        """Whether somebody at the address *source* may come; what is no address is nowhere, and never may."""
        try:
            address = ip_address(source.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        inside = any(address.version == prefix.version and address in prefix for prefix in self.prefixes)
        return inside == (self.criteria == "IS_IN")


NOWHERE = Networks("IS_IN", ())
"""Nobody may come."""
