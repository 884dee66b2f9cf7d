"""Who may reach what. Pure; deny by default.

Rules, and the attack each stops:

1. A request names a service by its owner's internal address and port, or by its name. It never names a destination:
   nobody reaches a database, a metadata address or another engine by asking for it.
2. A service that somebody may not reach and one that does not exist are the same: no.
3. Engine to engine is not offered, whatever a policy says: a stolen engine reaches no other engine.
4. Only nodes in state ``up`` own or reach anything. A Controller that has committed its join and is not admitted yet
   follows the store, which it has to fetch first: its member is reached by the others', and reaches them, and nothing
   else. The store's door for clients is not for it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fairlead.nodes.node import Node
from fairlead.nodes.service import STORE_PEERS, Service


@dataclass(frozen=True, slots=True)
class Reach:
    """A service at one of its owners."""

    service: Service
    owner: Node

    @property
    def address(self) -> str:
        """The owner's internal address."""
        return self.owner.internal_address

    @property
    def port(self) -> int:
        """The service's port at that address."""
        return self.service.port


def owns(node: Node, service: Service) -> bool:
    """Whether *node* is an owner of *service*."""
    return service.owner in (node.name, f"role:{node.role}")


def means(who: str, node: Node) -> bool:
    """Whether *who* means *node*: its name, its role's plural, or one of its labels."""
    key, label, value = who.partition("=")
    return node.labels.get(key) == value if label else who in (node.name, f"{node.role}s")


def allowed(node: Node, service: Service) -> str | None:
    """The entry of the service's policy that lets *node* in, or None."""
    return next((who for who in service.allow if means(who, node)), None)


def refusal(node: Node, owner: Node, service: Service) -> str | None:
    """Why *node* may not reach *service* at *owner*, in words for an operator; None when it may."""
    for party in (node, owner):
        if party.state != "up" and not (party.learning and service == STORE_PEERS):
            return f"{party.name} is {party.state}"
        if party.drained:
            return f"{party.name} is drained"
    if not owns(owner, service):
        return f"{owner.name} does not own {service.name}"
    if node.id == owner.id:
        return None
    if node.role == "engine" and owner.role == "engine":
        return "engine to engine is not offered"
    if allowed(node, service) is None:
        return f"{service.name} allows {', '.join(service.allow)}; {node.name} is none of them"
    return None


def reachable(node: Node, nodes: Iterable[Node], services: Iterable[Service]) -> Iterator[Reach]:
    """Every service that *node* may reach at another node."""
    declared = list(services)
    for owner in nodes:
        if owner.id == node.id:
            continue
        for service in declared:
            if refusal(node, owner, service) is None:
                yield Reach(service, owner)


def find(node: Node, nodes: Iterable[Node], services: Iterable[Service], host: str, port: int) -> Reach | None:
    """The service that a stream request of *node* means: *host* is an internal address or a service's name."""
    meant = [service for service in services if service.port == port]
    for reach in reachable(node, nodes, meant):
        if host in (reach.address, reach.service.name):
            return reach
    return None


def clash(new: Service, others: Iterable[Service], nodes: Iterable[Node]) -> Service | None:
    """Another service that has *new*'s port at one of its owners already."""
    population = list(nodes)
    for other in others:
        if other.name == new.name or other.port != new.port:
            continue
        if other.owner == new.owner or any(owns(node, new) and owns(node, other) for node in population):
            return other
    return None
