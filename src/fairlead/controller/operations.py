"""What an operator sees and does on a Controller: the answers behind the API's ports."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

from fairlead.api.audit import describe as describe_record
from fairlead.api.mesh import connecting, describe_hosts, describe_known_hosts
from fairlead.api.mesh import describe as describe_tunnel
from fairlead.api.securechannel import Member
from fairlead.api.services import describe as describe_service
from fairlead.audit.export import lines
from fairlead.audit.head import insist
from fairlead.audit.log import AuditLog
from fairlead.audit.record import GENESIS, Entry
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused
from fairlead.cluster.etcd import client_url
from fairlead.controller.cluster import Cluster
from fairlead.controller.desk import Desk
from fairlead.controller.mesh import Mesh
from fairlead.controller.roster import Roster
from fairlead.controller.witnessing import Witnessing
from fairlead.keys.ssh import PublicKey
from fairlead.keys.wire import sha256
from fairlead.mesh import plan as plans
from fairlead.nodes.address import View, candidates
from fairlead.nodes.node import Node
from fairlead.nodes.policy import allowed, owns, refusal
from fairlead.nodes.registry import Registry
from fairlead.nodes.service import Service
from fairlead.pki.certificate import der_of


class Operations:
    """Reads the directory and the fleet, writes through the registry."""

    def __init__(self, *, me: str, cluster_uuid: UUID, version: str, view: View, mesh: Mesh, cluster: Cluster,
                 desk: Desk, registry: Registry, audit: AuditLog, witnessing: Witnessing,
                 problems: Callable[[], list[str]], hints: Callable[[], Sequence[str]] = tuple,
                 version_of: Callable[[Node], str] = lambda _: "") -> None:
        """*hints*: what is to be known and makes nothing unhealthy. *version_of*: the version that a node runs, as far
        as that is known.
        """
        self._version_of = version_of
        self._me = me
        self._cluster_uuid = cluster_uuid
        self._version = version
        self._view = view
        self._mesh = mesh
        self._cluster = cluster
        self._desk = desk
        self._directory = mesh.directory
        self._registry = registry
        self._sessions = mesh.sessions
        self._audit = audit
        self._witnessing = witnessing
        self._problems = problems
        self._hints = hints

    # -- the node and its cluster -------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether everything that is planned is there."""
        return not self._problems()

    def status(self) -> dict[str, Any]:
        """The object of `fairlead status`."""
        me = self._node()
        engines = Counter(self._sessions.standing(n).state for n in self._directory.nodes.values()
                          if n.role == "engine")
        tunnels = self.tunnels()
        return {
            "node": me.name, "role": "leader" if self._cluster.leading else "follower", "state": me.state,
            "cluster_uuid": str(self._cluster_uuid), "leader": self._cluster.leader, "version": self._version,
            "controllers": [{"name": n.name, "state": self._state(n), "internal_address": n.internal_address,
                             "address": ", ".join(n.endpoint.addresses) if n.endpoint else ""}
                            for n in self._directory.controllers()],
            "engines": {"total": sum(engines.values()), **dict(sorted(engines.items()))},
            "tunnels": {"total": len(tunnels), "up": sum(t["state"] == "up" for t in tunnels),
                        "streams": sum(t["streams"] for t in tunnels), "transport": self._mesh.way.name},
            "view": str(self._view.network), "healthy": self.healthy,
            "problems": [*self._problems(), *self._hints()]}

    def nodes(self) -> list[dict[str, Any]]:
        """Every node, Controllers first."""
        fingerprints = {entry.line: known for known, entry in self._directory.keys.items()}
        return [self._describe(n, fingerprints)
                for n in sorted(self._directory.nodes.values(), key=lambda n: (n.role, n.name))]

    def tunnels(self) -> list[dict[str, Any]]:
        """Every live connection, and those to other Controllers that are being tried."""
        found = [describe_tunnel(t, "control" if self._sessions.is_link(t) else "streams")
                 for t in sorted(self._sessions.tunnels, key=lambda t: (t.peer.node, t.since))]
        for controller, state, link, stream, _ in self._mesh.supervisor.routes:
            found.append(describe_tunnel(link, "control") if link is not None and state == "up" else connecting(
                controller.name, self._node().user, ", ".join(controller.addresses)))
            if stream is not None and not stream.closed.is_set():
                found.append(describe_tunnel(stream, "streams"))
        return found

    def hosts(self) -> list[dict[str, Any]]:
        """Where this node finds whom."""
        return describe_hosts(plans.names(self._mesh.plan(), self._view))

    def known_hosts(self) -> list[dict[str, Any]]:
        """By which SSH host keys the Controllers are known."""
        return [row for node in self._directory.controllers() if node.endpoint is not None
                for row in describe_known_hosts(node.name, (host for host, _ in node.endpoint.places),
                                                node.endpoint.ssh_port, node.host_keys)]

    async def cluster(self) -> dict[str, Any]:
        """The object of `fairlead cluster status`."""
        return await Roster(self._cluster).describe()

    async def ca(self) -> str:
        """The certificates of the root CAs that are believed, PEM: the one that signs is the first."""
        return (await self._cluster.signing.bundle()).decode()

    async def client_certificate(self, by: str) -> dict[str, Any]:
        """What an operator's etcdctl needs, on record before it is told. Raises Refused FL-CLUSTER-SINGLE."""
        if not self._cluster.clustered:
            raise Refused("FL-CLUSTER-SINGLE", "a single Controller has no etcd",
                          "`fairlead controller join` on another machine makes it one of several")
        issued, ca = await self._cluster.signing.issue_client()
        await self._audit.append_with([], [], [Entry("cluster.client-certificate", self._node().name, by, {
            "sha256": sha256(der_of(issued.certificate_pem)).hex()})])
        return {"ca": ca.decode(), "certificate": issued.certificate_pem.decode(), "key": issued.key_pem.decode(),
                "endpoints": [client_url(n.internal_address) for n in self._directory.controllers()]}

    async def remove_node(self, name: str, by: str) -> None:
        """Out of the cluster, connections cut. Raises Refused."""
        await self._desk.remove(name, by)

    async def release_node(self, name: str, fingerprint: str, by: str) -> None:
        """Unfreeze. Raises Refused."""
        await self._desk.release(name, fingerprint, by)

    async def label_node(self, name: str, labels: list[str], by: str) -> None:
        """Set labels. Raises Refused."""
        await self._registry.label(name, labels, by)

    async def drain_node(self, name: str, by: str, *, drained: bool) -> None:
        """Have nothing new begin at it, or again. Raises Refused."""
        await self._registry.drain(name, by, drained=drained)

    # -- the same in the public model ---------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Every node with its state, Controllers first."""
        return [self._member(n) for n in sorted(self._directory.nodes.values(), key=lambda n: (n.role, n.name))]

    def member(self, node_id: str) -> Member | None:
        """The node with that id."""
        node = self._directory.nodes.get(node_id)
        return self._member(node) if node is not None else None

    def free_addresses(self, most: int) -> list[str]:
        """The lowest free internal addresses of engines."""
        taken = self._directory.addresses
        return list(islice((a for a in candidates("engine") if a not in taken), most))

    def controllers(self) -> list[tuple[str, str, str]]:
        """Name, id and first address of each Controller."""
        return [(n.name, n.id, n.endpoint.places[0][0] if n.endpoint else n.internal_address)
                for n in self._directory.controllers()]

    # -- services -----------------------------------------------------------------------------------------------------

    def services(self) -> list[dict[str, Any]]:
        """Every declared service."""
        return [describe_service(s) for s in sorted(self._directory.services.values(), key=lambda s: s.name)]

    async def add_service(self, service: Service, by: str) -> Service:
        """Declare one. Raises Refused."""
        return await self._registry.add_service(service, by)

    async def remove_service(self, name: str, by: str) -> None:
        """Take it back. Raises Refused."""
        await self._registry.remove_service(name, by)

    def explain(self, node: str, service: str) -> dict[str, Any]:
        """Whether *node* may reach *service*, at each owner, and why. Raises Refused."""
        asking = self._directory.named(node)
        if asking is None:
            raise Refused("FL-NODE-UNKNOWN", f"there is no node {node[:80]!r}", "see `fairlead node list`")
        declared = self._directory.services.get(service)
        if declared is None:
            raise Refused("FL-SERVICE-UNKNOWN", f"there is no service {service[:80]!r}", "see `fairlead service list`")
        owners = [n for n in self._directory.nodes.values() if owns(n, declared)]
        verdicts = []
        for owner in sorted(owners, key=lambda n: n.name):
            why = refusal(asking, owner, declared)
            rule = "it is the owner" if asking.id == owner.id else f"allowed by {allowed(asking, declared)}"
            verdicts.append({"owner": owner.name, "address": owner.internal_address, "port": declared.port,
                             "allowed": why is None, "why": why or rule})
        return {"from": asking.name, "service": declared.name,
                "allowed": any(v["allowed"] for v in verdicts), "allow": list(declared.allow), "owners": verdicts}

    # -- audit --------------------------------------------------------------------------------------------------------

    async def recent(self, limit: int) -> list[dict[str, Any]]:
        """The newest records, oldest first."""
        return [describe_record(r) for r in await self._audit.records(limit)]

    async def about(self, subject: str) -> list[dict[str, Any]]:
        """The records about *subject*, oldest first."""
        return [describe_record(r) for r in await self._audit.records(100_000) if r.subject == subject]

    async def check(self) -> dict[str, Any]:
        """Verify the chains, by themselves and by what was shown of them.

        Raises Refused FL-AUDIT-BROKEN, FL-AUDIT-CUT, FL-AUDIT-FORK.
        """
        witnessed = await self._witnessing.gather()  # first: what comes meanwhile is no cut
        chains = await self._audit.chains()
        judged = self._witnessing.judge(witnessed, chains)
        insist(judged)
        me = self._node().name
        head = chains[me][-1].head() if chains.get(me) else GENESIS
        newest = {(name, one.head.node, one.state): one.head.seq for name, each in judged.items()
                  for one in sorted(each, key=lambda one: one.head.seq)}
        return {"verified": head.seq, "node": me, "head": head.hash, "witnesses": [
            {"name": name, "node": node, "seq": seq, "state": state}
            for (name, node, state), seq in sorted(newest.items())]}

    async def export(self) -> str:
        """All records and the signed heads, lines of JSON. Raises Refused FL-AUDIT-BROKEN."""
        heads = self._witnessing.signed_heads()  # before the records, which go at least as far
        return "".join(f"{line}\n" for line in lines(await self._audit.chains(), heads))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _node(self) -> Node:
        return self._mesh.me

    def _state(self, controller: Node) -> str:
        if controller.state != "up" or controller.id == self._me:
            return controller.state
        return "up" if controller.name in self._mesh.peers.connected else "down"

    def _member(self, node: Node) -> Member:
        if node.role == "controller":
            return Member(node, self._state(node), ", ".join(node.endpoint.addresses) if node.endpoint else "")
        standing = self._sessions.standing(node)
        return Member(node, standing.state, standing.address)

    def _describe(self, node: Node, fingerprints: Mapping[str, str]) -> dict[str, Any]:
        here = node.role == "controller"
        standing = self._sessions.standing(node)
        shown: dict[str, Any] = {
            "name": node.name,
            "role": "engine" if not here else "leader" if node.name == self._cluster.leader else "follower",
            "state": self._state(node) if here else standing.state,
            "address": ", ".join(node.endpoint.addresses) if node.endpoint else standing.address,
            "internal_address": node.internal_address, "fingerprint": _fingerprint(node.host_key, fingerprints),
            "joined_at": rfc3339(node.joined_at) if node.joined_at else None,
            "user_fingerprint": _fingerprint(node.user_key, fingerprints), "user": node.user,
            "labels": node.labels, "software": node.software, "version": self._version_of(node) or None,
            "token": node.token_id or None}
        if not here:
            shown |= {"since": rfc3339(standing.since) if standing.since else None, "skew_s": round(standing.skew_s, 3),
                      "drained": node.drained,
                      "problems": list(standing.problems), "plan_revision": standing.acknowledged}
        return shown


def _fingerprint(line: str, known: Mapping[str, str]) -> str:
    """Of a key, by what is *known* of lines: the directory has it already, and to compute it for a fleet takes long."""
    return known.get(line) or PublicKey.from_line(line).fingerprint
