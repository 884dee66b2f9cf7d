"""The cluster of Controllers: who is a member of its store, who leads, how they are; in our and in public words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Request, Response
from pydantic import Field

from fairlead.api import answers
from fairlead.api.application import caller_of, needs
from fairlead.api.asking import ADMIN_TENANT
from fairlead.api.configuration import IpAddr
from fairlead.api.documented import answer
from fairlead.base.errors import Refused
from fairlead.objects.model import Fixed, Item, Kind, Model, Ref, Since
from fairlead.objects.shelf import Built, Shelved

PUBLIC = frozenset(("/api/cluster/status", "/api/cluster/runtime"))
"""Anybody may ask whether a Controller is there: clients do, before they log in. Strangers are told no more."""


class Describing(Protocol):
    """Who knows the members."""

    async def cluster(self) -> dict[str, Any]:
        """At least node, leader, term, store, quorum, tolerates, alarms and members."""
        ...


class Certifying(Protocol):
    """Who has the CA, and issues certificates for the store's clients."""

    async def ca(self) -> str:
        """The root CA's certificate, PEM."""
        ...

    async def client_certificate(self, by: str) -> dict[str, Any]:
        """PEM texts ca, certificate, key; and the endpoints. Raises Refused FL-CLUSTER-SINGLE."""
        ...


class ClusterNode(Model):
    """A Controller."""

    name: str = Field(default="node", max_length=255)
    ip: IpAddr | None = None
    ip6: Annotated[IpAddr | None, Since("30.2.1")] = None
    password: Any = Field(default=None, repr=False)
    public_ip_or_name: Annotated[IpAddr | None, Since("17.2.3")] = None
    vm_uuid: str | None = None
    vm_mor: str | None = None
    vm_name: str | None = None
    vm_hostname: str | None = None
    categories: Any = None
    interfaces: Any = None
    static_routes: Any = None


class ClusterObject(Model):
    """The singleton ``cluster``."""

    name: str = Field(min_length=1, max_length=256)
    nodes: list[ClusterNode] = Field(default_factory=list, max_length=16)
    rejoin_nodes_automatically: bool = True
    tenant_ref: Annotated[str, Ref("tenant"), Fixed("the cluster is everybody's")] = f"tenant/{ADMIN_TENANT}"
    virtual_ip: Annotated[IpAddr | None, Fixed("nodes know every Controller; there is no address that moves")] = None


def kind_of(cluster_uuid: str) -> Kind:
    """The cluster's kind: it is the only one, and its uuid is the cluster's own."""
    return Kind("cluster", "Cluster", ClusterObject, "status", f"cluster-{cluster_uuid}",
                methods=frozenset(("PUT", "PATCH")))


def built(kind: Kind) -> Built:
    """The cluster as it is called before anybody calls it something else."""
    return Built(kind, [Item(str(kind.singleton), ClusterObject(name="cluster"))])


class Controllers(Protocol):
    """Who knows the Controllers."""

    def controllers(self) -> Sequence[tuple[str, str, str]]:
        """Name, id and first address of each."""
        ...


@dataclass(frozen=True, slots=True)
class TheCluster:
    """``cluster``: its name is kept, its nodes are those that there are."""

    shelved: Shelved
    controllers: Controllers

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return self.shelved.kind

    async def items(self) -> Sequence[Item]:
        """The one."""
        return [self._with_nodes(item) for item in await self.shelved.items()]

    async def item(self, uuid: str) -> Item | None:
        """The one."""
        found = await self.shelved.item(uuid)
        return self._with_nodes(found) if found is not None else None

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Another name. Raises Refused FL-CLUSTER-NODES: Controllers come by bundle, and no password lets one in."""
        kept, before = await self.shelved.item(old.uuid), old.value
        assert kept is not None
        assert isinstance(value, ClusterObject)
        assert isinstance(before, ClusterObject)
        if value.nodes and _places(value) != _places(before):
            raise Refused("FL-CLUSTER-NODES", "Controllers join with a credential bundle, and leave by their removal",
                          "`fairlead bundle export --role controller`, then `fairlead controller join` there; "
                          "`fairlead node remove`")
        made = await self.shelved.exchange(kept, replace(kept, value=ClusterObject(
            name=value.name, rejoin_nodes_automatically=value.rejoin_nodes_automatically)), by)
        return self._with_nodes(made)

    def _with_nodes(self, item: Item) -> Item:
        nodes = [ClusterNode(name=name, ip=_address(address), vm_uuid=node_id)
                 for name, node_id, address in self.controllers.controllers()]
        return replace(item, value=item.value.model_copy(update={"nodes": nodes}))


def routes(controllers: Describing, authority: Certifying, version: dict[str, Any]) -> APIRouter:
    """GET cluster/status, cluster/runtime, cluster/version, cluster/ca; POST cluster/client-certificate."""
    router = APIRouter(tags=["Cluster"])

    @router.get("/api/cluster/status", summary="Who is a member of the store, and who leads",
                responses=answer(answers.ClusterStatus))
    async def get_cluster(request: Request) -> dict[str, Any]:
        known = await caller_of(request, "status:read")
        found = await controllers.cluster()
        return (found if known else {}) | {"cluster_state": _state(found)}

    @router.get("/api/cluster/runtime", summary="How the Controllers are", responses=answer(answers.ClusterStatus))
    async def runtime(request: Request) -> dict[str, Any]:
        known = await caller_of(request, "status:read")
        found = await controllers.cluster()
        shown: dict[str, Any] = {"cluster_state": _state(found)}
        if known:
            shown["node_info"] = {"uuid": f"cluster-{found['cluster_uuid']}", "version": version["Version"],
                                  "cluster_uuid": f"cluster-{found['cluster_uuid']}", "mgmt_ip": found["node"]}
            shown["node_states"] = [
                {"name": m["name"], "role": f"CLUSTER_{'LEADER' if m['role'] == 'leader' else 'FOLLOWER'}",
                 "state": "CLUSTER_ACTIVE" if m["state"] == "up" else "CLUSTER_INACTIVE", "mgmt_ip": m["address"]}
                for m in found["members"]]
        return shown

    @router.get("/api/cluster/version", summary="The version of the software", responses=answer(answers.PublicVersion))
    async def get_version(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return version

    @router.get("/api/cluster/ca", summary="The root CA's certificate", responses=answer(answers.Authority))
    async def get_ca(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return {"ca": await authority.ca()}

    @router.post("/api/cluster/client-certificate", summary="A certificate for a client of the store",
                 responses=answer(answers.ClientCertificate))
    async def certificate(response: Response, caller: str = needs("cluster:certificate")) -> dict[str, Any]:
        response.headers["cache-control"] = "no-store"
        return await authority.client_certificate(caller)

    return router


def _state(found: dict[str, Any]) -> dict[str, Any]:
    if not found["quorum"]:
        return {"state": "CLUSTER_DOWN", "progress": 0}
    up = all(member["state"] == "up" for member in found["members"])
    state = "CLUSTER_UP_NO_HA" if len(found["members"]) < 3 or found["tolerates"] < 1 else (
        "CLUSTER_UP_HA_ACTIVE" if up else "CLUSTER_UP_HA_COMPROMISED")
    return {"state": state, "progress": 100}


def _places(value: ClusterObject) -> set[str]:
    return {node.ip.addr for node in value.nodes if node.ip is not None}


def _address(host: str) -> IpAddr:
    try:
        return IpAddr(addr=host, type="V6" if ip_address(host).version == 6 else "V4")
    except ValueError:
        return IpAddr(addr=host, type="DNS")
