"""Services: what may be reached through the mesh. Pure. Whatever is not declared here does not exist."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.base.errors import Refused, printable
from fairlead.nodes.name import RESERVED, check_name, is_name

_LABEL = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}=[A-Za-z0-9._-]{1,63}")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_PORT = re.compile(r"[0-9]{1,5}")
_SCRAPE = re.compile(r"/[A-Za-z0-9._~/-]{0,127}")
MOST_ALLOWED = 200
"""So many can be named in a policy; more have a label."""
INTERNAL = "internal"
"""A target host: the owner's own internal address."""


@dataclass(frozen=True, slots=True)
class Service:
    """A TCP service on its owner, and who may reach it."""

    name: str
    owner: str
    """A node's name, or ``role:controller`` / ``role:engine``: every node of the role has one of its own."""
    port: int
    """At the owner's internal address."""
    target_host: str
    target_port: int
    """Where the owner really connects to."""
    allow: tuple[str, ...]
    """Names of nodes, ``engines``, ``controllers``, labels ``key=value``."""
    scrape: str = ""
    """The HTTP path of its metrics, of an engine's exporter that Prometheus is to find; else empty."""

    def target_at(self, internal_address: str) -> tuple[str, int]:
        """Where an owner with that internal address connects to."""
        return (internal_address if self.target_host == INTERNAL else self.target_host), self.target_port

    @property
    def mentions(self) -> Sequence[str]:
        """The names of nodes, present or future, to which it gives something."""
        return sorted({name for name in (self.owner, *self.allow) if is_name(name) and name not in RESERVED})

    @property
    def target(self) -> str:
        """``host:port``."""
        host = f"[{self.target_host}]" if ":" in self.target_host else self.target_host
        return f"{host}:{self.target_port}"


STORE_PORT = 2379
STORE_PEERS_PORT = 2380
STORE = Service("fairlead-store", "role:controller", STORE_PORT, INTERNAL, STORE_PORT, ("controllers",))
STORE_PEERS = Service("fairlead-store-peers", "role:controller", STORE_PEERS_PORT, INTERNAL, STORE_PEERS_PORT,
                      ("controllers",))
STORE_SERVICES = (STORE, STORE_PEERS)
"""The cluster's own: the store's member on each Controller, reached through the mesh like any service."""


def declare(name: str, *, node: str | None, role: str | None, port: int, target: str | None,
            allow: list[str], scrape: str | None = None) -> Service:
    """A service from what a person typed. Raises Refused FL-SERVICE or FL-NAME."""
    check_name(name, "service")
    if any(name == own.name for own in STORE_SERVICES):
        raise Refused("FL-SERVICE", f"{name} is the cluster's own", "choose another name")
    if (node is None) == (role is None):
        raise Refused("FL-SERVICE", "a service has either a node or a role", "give one of --node and --role")
    if role is not None and role not in ("controller", "engine"):
        raise Refused("FL-SERVICE", f"{printable(role, 80)!r} is no role", "use --role controller or --role engine")
    owner = check_name(node) if node is not None else f"role:{role}"
    if not 1 <= port <= 65535:
        raise Refused("FL-SERVICE", f"{port} is no port", "use 1 to 65535")
    host, target_port = parse_target(target) if target else ("127.0.0.1", port)
    if not allow:
        raise Refused("FL-SERVICE", "nobody is allowed to reach the service",
                      "name nodes, engines, controllers or labels with --allow")
    if len(allow) > MOST_ALLOWED:
        raise Refused("FL-SERVICE", f"{len(allow)} are allowed to reach the service, {MOST_ALLOWED} can be named",
                      "give the nodes a label, and allow that")
    if scrape is not None and not _SCRAPE.fullmatch(scrape):
        raise Refused("FL-SERVICE", f"{printable(scrape, 80)!r} is no path of metrics", "use one such as /metrics")
    return Service(name, owner, port, host, target_port, tuple(dict.fromkeys(check_who(who) for who in allow)),
                   scrape or "")


def parse_target(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT``. Raises Refused FL-SERVICE."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise Refused("FL-SERVICE", f"{printable(text, 80)!r} is no target", "use HOST:PORT")
    return host, int(port)


def check_who(text: str) -> str:
    """*text* itself when it names somebody in a policy. Raises Refused FL-SERVICE."""
    if text in ("engines", "controllers") or is_name(text) or _LABEL.fullmatch(text):
        return text
    raise Refused("FL-SERVICE", f"{printable(text, 80)!r} names nobody",
                  "use a node's name, engines, controllers, or a label such as site=lab")


def check_label(text: str) -> tuple[str, str]:
    """The key and value of ``key=value``. Raises Refused FL-LABEL."""
    if not _LABEL.fullmatch(text):
        raise Refused("FL-LABEL", f"{printable(text, 80)!r} is no label", "use KEY=VALUE, such as site=lab")
    key, _, value = text.partition("=")
    return key, value
