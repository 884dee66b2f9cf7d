"""The cluster of Controllers: who is a member of its store, who leads, how they are."""

from typing import Any, Protocol

from fastapi import APIRouter

from fairlead.api.application import needs


class Describing(Protocol):
    """Who knows the members."""

    async def cluster(self) -> dict[str, Any]:
        """At least node, leader, term, store, quorum, tolerates, alarms and members."""
        ...


def routes(controllers: Describing) -> APIRouter:
    """GET cluster/status."""
    router = APIRouter()

    @router.get("/api/cluster/status")
    async def get_cluster(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return await controllers.cluster()

    return router
