"""What a node should have: (nodes, services, policy, me) -> plan -> listeners. Pure.

A plan holds no more than its reader needs: an engine learns of the Controllers and of itself, never of other engines.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from fairlead.link.messages import Plan, PlanController, PlanNode, PlanReach, PlanServe
from fairlead.nodes.address import View
from fairlead.nodes.name import full_name, is_name
from fairlead.nodes.node import Node
from fairlead.nodes.policy import owns, reachable
from fairlead.nodes.service import Service


@dataclass(frozen=True, slots=True)
class Listener:
    """An address to listen on, on this host, and what is behind it."""

    host: str
    """As this node sees it."""
    port: int
    service: str
    owner: str
    internal_address: str
    """The owner's, as everybody knows it."""
    target: tuple[str, int] | None
    """Where to connect to when the service is this node's own; None: through the mesh."""


def plan_for(me: Node, nodes: Iterable[Node], services: Iterable[Service], *, generation: str, revision: int) -> Plan:
    """The plan of the node *me*."""
    seen = sorted((n for n in nodes if _knows(me, n)), key=lambda n: (n.role, n.name))
    declared = sorted(services, key=lambda s: s.name)
    known = {n.name for n in seen} | {"controllers", "engines"}
    return Plan(
        generation=generation, revision=revision, node=me.name, internal_address=me.internal_address,
        nodes=[PlanNode.model_construct(name=n.name, role=n.role, internal_address=n.internal_address)  # checked before
               for n in seen],
        controllers=[PlanController(
            node_id=n.id, name=n.name, addresses=[host for host, _ in n.endpoint.places], ssh_port=n.endpoint.ssh_port,
            portal_port=n.endpoint.portal_port, internal_address=n.internal_address, host_key=n.host_key,
            user_key=n.user_key, next_host_key=n.next_host_key)
            for n in seen if n.role == "controller" and n.endpoint and n.id != me.id],
        reach=[PlanReach(service=r.service.name, owner=r.owner.name, address=r.address, port=r.port)
               for r in reachable(me, seen, declared)],
        serve=[PlanServe(service=s.name, port=s.port, host=s.target_at(me.internal_address)[0],
                         target_port=s.target_port,
                         allow=[who for who in s.allow if who in known or not is_name(who)])
               for s in declared if owns(me, s)])


def _knows(me: Node, other: Node) -> bool:
    if me.role == "controller":
        return other.state == "up" or other.learning
    return other.state == "up" and (other.role == "controller" or other.id == me.id)


def same(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same, whatever their revisions."""
    return one.model_copy(update={"revision": other.revision}) == other


def digest(plan: Plan) -> bytes:
    """What *plan* asks for, whatever its revision, in 32 bytes."""
    return sha256(plan.model_dump_json(exclude={"revision"}).encode()).digest()


def listeners(plan: Plan, view: View) -> list[Listener]:
    """Everything that *plan* has this node listen on. Raises OperatorError FL-VIEW when the view is too small."""
    wanted = [Listener(view.see(r.address), r.port, r.service, r.owner, r.address, None) for r in plan.reach]
    here = view.see(plan.internal_address)
    for own in plan.serve:
        if (own.host, own.target_port) == (here, own.port):
            continue  # the service itself listens there
        wanted.append(Listener(here, own.port, own.service, plan.node, plan.internal_address,
                               (own.host, own.target_port)))
    return wanted


def names(plan: Plan, view: View) -> list[tuple[str, str]]:
    """Where this node finds whom: address and name, Controllers first."""
    return [(view.see(n.internal_address), n.name) for n in sorted(plan.nodes, key=lambda n: (n.role, n.name))]


def hosts(plan: Plan, view: View) -> str:
    """The same as lines of a hosts file."""
    return "".join(f"{address}\t{full_name(name)} {name}\n" for address, name in names(plan, view))
