"""From where people may come (``mgmt_ip_access_control``). Pure.

It narrows who may try; nobody gets in by it. The control socket is not concerned: whoever operates the machine can undo
it.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from fairlead.api.configuration import IpAddrMatch

Network = IPv4Network | IPv6Network


def allows(match: IpAddrMatch | None, source: str | None) -> bool:
    """Whether somebody at *source* (an IP address; None: a process of this machine) may come."""
    if match is None or source is None:
        return True
    address = ip_address(source)
    address = getattr(address, "ipv4_mapped", None) or address
    inside = any(address in network for network in _networks(tuple(match.networks())))
    return inside == (match.match_criteria == "IS_IN")


@lru_cache(16)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)
