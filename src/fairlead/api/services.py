"""Services and the policy about them."""

from typing import Any, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import listing
from fairlead.api.documented import answer, several
from fairlead.nodes.service import Service, declare


class Listing(Protocol):
    """Who knows the services."""

    def services(self) -> list[dict[str, Any]]:
        """Each with name, owner, port, target, allow, scrape."""
        ...


class Declaring(Protocol):
    """Who changes them."""

    async def add_service(self, service: Service, by: str) -> Service:
        """Declare one. Raises Refused."""
        ...

    async def remove_service(self, name: str, by: str) -> None:
        """Take it back. Raises Refused."""
        ...

    def explain(self, node: str, service: str) -> dict[str, Any]:
        """Whether *node* may reach *service*, and by which rule. Raises Refused."""
        ...


class Declaration(BaseModel):
    """The body of POST /api/service."""

    model_config = ConfigDict(extra="forbid")
    name: str
    node: str | None = None
    role: str | None = None
    port: int
    target: str | None = None
    allow: list[str] = Field(max_length=256)
    scrape: str | None = None


def reading(cluster: Listing) -> APIRouter:
    """GET service."""
    router = APIRouter(tags=["Service"])

    @router.get("/api/service", summary="List the services", responses=several(answers.Service))
    async def services(request: Request, caller: str = needs("service:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, cluster.services())

    return router


def writing(declaring: Declaring) -> APIRouter:
    """POST service; DELETE service/NAME; GET policy."""
    router = APIRouter(tags=["Service"])

    @router.post("/api/service", summary="Declare a service", responses=answer(answers.Service))
    async def add(body: Declaration, caller: str = needs("service:write")) -> dict[str, Any]:
        return describe(await declaring.add_service(
            declare(body.name, node=body.node, role=body.role, port=body.port, target=body.target, allow=body.allow,
                    scrape=body.scrape), caller))

    @router.delete("/api/service/{name}", summary="Take a service back", responses=answer(answers.Removed))
    async def remove(name: str, caller: str = needs("service:write")) -> dict[str, Any]:
        await declaring.remove_service(name, caller)
        return {"removed": name}

    @router.get("/api/policy", summary="Whether a node may reach a service", responses=answer(answers.Explanation))
    async def explain(node: str, service: str,
                      caller: str = needs("service:read")) -> dict[str, Any]:  # noqa: ARG001
        return declaring.explain(node, service)

    return router


def describe(service: Service) -> dict[str, Any]:
    """A service as listings show it."""
    return {"name": service.name, "owner": service.owner, "port": service.port, "target": service.target,
            "allow": list(service.allow), "scrape": service.scrape or None}
