"""A node as the cluster knows it. Pure."""

import re
from dataclasses import dataclass, field
from typing import Literal

from fairlead.base.errors import Refused, printable
from fairlead.keys.known import host_keys
from fairlead.keys.ssh import PublicKey

Role = Literal["controller", "engine"]
State = Literal["joining", "up", "frozen", "removed"]
USERS: dict[str, str] = {"controller": "avictlruser", "engine": "aviseuser"}
"""The SSH user of each role (seed: *avictlruser and aviseuser only support key based authentication*)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Controller's public ports are. Several addresses are tried in order."""

    addresses: tuple[str, ...]
    """``HOST``, or ``HOST:PORT`` where the portal has another port there (behind a NAT)."""
    api_port: int
    portal_port: int
    ssh_port: int

    @property
    def places(self) -> list[tuple[str, int]]:
        """Host and portal port of each address."""
        return [split_address(address, self.portal_port) for address in self.addresses]


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its name, its place, its keys."""

    id: str
    name: str
    role: Role
    state: State
    internal_address: str
    host_key: str
    """``ssh-ed25519 <base64>``."""
    user_key: str
    joined_at: int
    """Microseconds of store time; 0 while joining."""
    endpoint: Endpoint | None = None
    labels: dict[str, str] = field(default_factory=dict)
    software: str = ""
    token_id: str = ""
    cloud: str = ""
    """The uuid of the cloud that its token was made for; empty: the default one."""
    tenant: str = ""
    drained: bool = False
    """Nothing new begins at it or from it; what is there goes on."""
    next_host_key: str = ""
    """The host key that follows, while a Controller's changes: both count."""
    next_key: str = ""
    """The user key that takes the place of `user_key`; it may log in already (`nodes.user_keys`)."""
    last_key: str = ""
    """The user key before, until the node uses the new one; it may still log in."""

    @property
    def user_keys(self) -> tuple[str, ...]:
        """All that may log in, the one in use first."""
        return tuple(line for line in (self.user_key, self.next_key, self.last_key) if line)

    @property
    def host_keys(self) -> tuple[PublicKey, ...]:
        """Those that it may show and sign with now."""
        return host_keys(self)

    @property
    def learning(self) -> bool:
        """Whether it is a Controller that has committed its join and does not vote yet."""
        return self.role == "controller" and self.state == "joining" and self.joined_at > 0

    @property
    def user(self) -> str:
        """The SSH user as which it logs in."""
        return USERS[self.role]


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,251}[A-Za-z0-9])?|::1?")
_PORT = re.compile(r"[0-9]{1,5}")  # no more: `int` refuses thousands of digits in its own way


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Host and port of ``HOST``, ``HOST:PORT``, ``IPV6`` or ``[IPV6]:PORT``. Raises Refused FL-ADDRESS."""
    host, port = text, str(default_port)
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            host = ""
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise Refused("FL-ADDRESS", f"{printable(text, 80)!r} is no address", "use HOST, HOST:PORT or [IPV6]:PORT")
    return host, int(port)


def engine_named(found: Node | None, name: str) -> Node:
    """What was *found* by that *name*, if it is an engine. Raises Refused FL-NODE-UNKNOWN."""
    if found is None or found.role != "engine":
        raise Refused("FL-NODE-UNKNOWN", f"there is no engine {printable(name, 80)!r}", "see `fairlead node list`")
    return found
