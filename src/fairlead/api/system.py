"""Version, health and status: what everybody may ask, and how the node is."""

from collections.abc import Callable
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.documented import answer
from fairlead.objects.model import NEWEST, OLDEST

PUBLIC = frozenset(("/api/version", "/api/health", "/api/initial-data"))


def public_version(installed: str) -> dict[str, Any]:
    """Which release of the public model this speaks, for clients that ask before they log in; and which fairlead."""
    return {"Version": NEWEST, "min_version": OLDEST, "Product": "controller", "ProductName": "fairlead",
            "Tag": f"fairlead-{installed}", "build": 0, "Date": ""}


class Reporting(Protocol):
    """Who knows how the node is."""

    def status(self) -> dict[str, Any]:
        """The object of `fairlead status --json`."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether everything that is planned is there."""
        ...


def routes(node: Reporting, version: str) -> APIRouter:
    """GET version, initial-data, health, status."""
    router = APIRouter(tags=["System"])

    @router.get("/api/version", summary="Which software this is", responses=answer(answers.Version))
    async def get_version() -> dict[str, str]:
        return {"version": version, "product": "fairlead"}

    @router.get("/api/initial-data", summary="Which release of the public model is spoken",
                responses=answer(answers.InitialData))
    async def initial_data() -> dict[str, Any]:
        return {"version": public_version(version)}

    @router.get("/api/health", summary="Whether everything that is planned is there",
                responses=answer(answers.Health) | {503: {"model": answers.Health, "description": "Not all of it is."}})
    async def get_health() -> JSONResponse:
        return JSONResponse({"healthy": node.healthy}, 200 if node.healthy else 503)

    @router.get("/api/status", summary="How the node and its cluster are", responses=answer(answers.Status))
    async def get_status(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return node.status()

    return router


def stopping(stop: Callable[[], None]) -> APIRouter:
    """POST stop: end the daemon in an orderly way."""
    router = APIRouter(tags=["System"])

    @router.post("/api/stop", summary="End the daemon in an orderly way", responses=answer(answers.Stopping))
    async def post_stop(caller: str = needs("daemon:stop")) -> dict[str, bool]:  # noqa: ARG001
        stop()
        return {"stopping": True}

    return router
