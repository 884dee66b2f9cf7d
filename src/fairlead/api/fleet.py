"""Service Engines in the public model, and what groups them: clouds, groups, tenants.

An engine is a node of the cluster, with its state as the fleet sees it. Clouds matter to fairlead in one way: the seed
allows the secure channel certificate to be exchanged directly *only* while there are *no access clouds* alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from fairlead.api import answers
from fairlead.api.application import Json, needs
from fairlead.api.asking import ADMIN_TENANT, Asking
from fairlead.api.documented import LISTING, answer, several
from fairlead.api.securechannel import Fleet, Member, member_of, uuid_of
from fairlead.base.clock import SECOND, rfc3339
from fairlead.base.errors import Refused
from fairlead.objects.catalogue import Catalogue
from fairlead.objects.model import Item, Kind, Model, Open, Ref
from fairlead.objects.shelf import Built, Shelved

DEFAULT_CLOUD = "cloud-default"
DEFAULT_GROUP = "serviceenginegroup-default"
NO_ACCESS = "CLOUD_NONE"
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Tenant(Open):
    """A tenant."""

    name: Name
    description: str = Field(default="", max_length=1024)
    local: bool = True


class Cloud(Open):
    """Where engines are. One that is not CLOUD_NONE stands in the way of a direct exchange of the certificate."""

    name: Name
    vtype: Literal["CLOUD_NONE", "CLOUD_VCENTER", "CLOUD_OPENSTACK", "CLOUD_AWS", "CLOUD_VCA", "CLOUD_APIC",
                   "CLOUD_MESOS", "CLOUD_LINUXSERVER", "CLOUD_DOCKER_UCP", "CLOUD_RANCHER", "CLOUD_OSHIFT_K8S",
                   "CLOUD_AZURE", "CLOUD_GCP", "CLOUD_NSXT"] = "CLOUD_NONE"


class ServiceEngineGroup(Open):
    """A group of engines of a cloud."""

    name: Name
    cloud_ref: Annotated[str, Ref("cloud")] = f"cloud/{DEFAULT_CLOUD}"


class ServiceEngine(Model):
    """An engine."""

    name: str
    cloud_ref: Annotated[str | None, Ref("cloud")] = None
    se_group_ref: Annotated[str | None, Ref("serviceenginegroup")] = None
    tenant_ref: Annotated[str | None, Ref("tenant")] = None
    container_mode: bool = False
    container_type: str = "CONTAINER_TYPE_HOST"
    controller_created: bool = False
    controller_ip: str | None = None
    enable_state: str = "SE_STATE_ENABLED"
    mgmt_vnic: Any = None
    resources: Any = None
    labels: dict[str, str] = Field(default_factory=dict)
    """Of fairlead: what policies go by."""


TENANT = Kind("tenant", "Tenant", Tenant, "tenant")
CLOUD = Kind("cloud", "Cloud", Cloud, "fleet", scoped=True)
GROUP = Kind("serviceenginegroup", "ServiceEngineGroup", ServiceEngineGroup, "fleet", scoped=True)
ENGINE = Kind("serviceengine", "ServiceEngine", ServiceEngine, "node", methods=frozenset(("DELETE",)))
BUILT = (Built(TENANT, [Item(ADMIN_TENANT, Tenant(name="admin"))]),
         Built(CLOUD, [Item(DEFAULT_CLOUD, Cloud(name="Default-Cloud"), tenant=ADMIN_TENANT)]),
         Built(GROUP, [Item(DEFAULT_GROUP, ServiceEngineGroup(name="Default-Group"), tenant=ADMIN_TENANT)]))


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of the cluster."""

    fleet: Fleet
    groups: Shelved

    @property
    def kind(self) -> Kind:
        """Their kind."""
        return ENGINE

    async def items(self) -> Sequence[Item]:
        """All of them, by name."""
        group_of = await self._groups()
        return [_engine(member, group_of) for member in self.fleet.members() if member.node.role == "engine"]

    async def item(self, uuid: str) -> Item | None:
        """One of them."""
        member = member_of(self.fleet, uuid)
        if member is None or member.node.role != "engine":
            return None
        return _engine(member, await self._groups())

    async def joined(self, item: Item, name: str) -> Any:
        """Its runtime."""
        return self.runtime(item.uuid) if name == "runtime" else None

    def runtime(self, uuid: str) -> dict[str, Any]:
        """How it is. Raises Refused FL-OBJECT-UNKNOWN."""
        member = member_of(self.fleet, uuid)
        if member is not None and member.node.role == "engine":
            return _runtime(member)
        raise Refused("FL-OBJECT-UNKNOWN", "ServiceEngine object not found", "see GET /api/serviceengine")

    async def remove(self, old: Item, by: str) -> None:
        """Revoke it. Raises Refused."""
        await self.fleet.remove_node(old.name, by)

    async def _groups(self) -> dict[str, str]:
        """The uuid of the group of each cloud in which its engines are."""
        return {str(getattr(group.value, "cloud_ref", "")): group.uuid for group in await self.groups.items()}


def runtimes(engines: Engines, catalogue: Catalogue) -> APIRouter:
    """GET serviceengine/UUID/runtime, .../connected; serviceengine-inventory."""
    router = APIRouter(tags=["ServiceEngine"])

    @router.get("/api/serviceengine/{uuid}/runtime", summary="How an engine is",
                responses=answer(answers.EngineRuntime))
    async def runtime(uuid: str, caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return engines.runtime(uuid)

    @router.get("/api/serviceengine/{uuid}/connected", summary="Whether an engine is connected",
                responses=answer(answers.Connected))
    async def connected(uuid: str, caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return {"se_connected": engines.runtime(uuid)["se_connected"]}

    @router.get("/api/serviceengine-inventory", summary="Engines with how they are",
                responses=several(answers.EngineInventory), openapi_extra=LISTING)
    async def inventory(request: Request, caller: str = needs("node:read")) -> Json:  # noqa: ARG001
        asked = Asking(request, catalogue, ENGINE)
        items = await asked.select(engines)
        page = asked.wanted.page_of(items)
        shown = await asked.show(engines, page)
        answer: dict[str, Any] = {"count": len(items), "results": [
            {"uuid": item.uuid, "config": config, "runtime": engines.runtime(item.uuid)}
            for item, config in zip(page, shown, strict=True)]}
        if asked.wanted.more(len(items)):
            answer["next"] = asked.next_page()
        return Json(answer, headers=asked.headers)

    return router


def cloud_status(clouds: Shelved, catalogue: Catalogue) -> APIRouter:
    """GET cloud/UUID/status."""
    router = APIRouter(tags=["Cloud"])

    @router.get("/api/cloud/{uuid}/status", summary="Whether a cloud is ready for engines",
                responses=answer(answers.CloudStatus))
    async def status(request: Request, uuid: str, caller: str = needs("fleet:read")) -> dict[str, Any]:  # noqa: ARG001
        item = await Asking(request, catalogue, CLOUD).find(clouds, uuid)
        return {"uuid": item.uuid, "state": "CLOUD_STATE_PLACEMENT_READY", "reason": ""}

    return router


def _engine(member: Member, group_of: dict[str, str]) -> Item:
    node = member.node
    cloud = f"cloud/{node.cloud or DEFAULT_CLOUD}"
    return Item(uuid_of(node), ServiceEngine(
        name=node.name, cloud_ref=cloud, se_group_ref=f"serviceenginegroup/{group_of.get(cloud, DEFAULT_GROUP)}",
        tenant_ref=f"tenant/{node.tenant or ADMIN_TENANT}", labels=node.labels), node.joined_at)


_OPER = {"up": "OPER_UP", "late": "OPER_UP", "joining": "OPER_INITIALIZING", "frozen": "OPER_DISABLED"}


def _runtime(member: Member) -> dict[str, Any]:
    node = member.node
    return {"name": node.name, "uuid": uuid_of(node), "se_connected": member.state in ("up", "late"),
            "oper_status": {"state": _OPER.get(member.state, "OPER_DOWN"), "reason": [member.state]},
            "version": node.software, "local_ip": node.internal_address,
            "online_since": rfc3339(node.joined_at // SECOND * SECOND) if node.joined_at else None}
