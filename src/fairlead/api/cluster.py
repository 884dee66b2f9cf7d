"""The cluster of Controllers: who is a member of its store, who leads, how they are."""

from typing import Any, Protocol

from fastapi import APIRouter, Response

from fairlead.api.application import needs


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


def routes(controllers: Describing, authority: Certifying) -> APIRouter:
    """GET cluster/status, cluster/ca; POST cluster/client-certificate."""
    router = APIRouter()

    @router.get("/api/cluster/status")
    async def get_cluster(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return await controllers.cluster()

    @router.get("/api/cluster/ca")
    async def get_ca(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return {"ca": await authority.ca()}

    @router.post("/api/cluster/client-certificate")
    async def certificate(response: Response, caller: str = needs("cluster:certificate")) -> dict[str, Any]:
        response.headers["cache-control"] = "no-store"
        return await authority.client_certificate(caller)

    return router
