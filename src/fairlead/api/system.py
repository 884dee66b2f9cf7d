"""Version, health and status: what everybody may ask, and how the node is."""

from collections.abc import Callable
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from fairlead.api.application import needs
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
    router = APIRouter()

    @router.get("/api/version")
    async def get_version() -> dict[str, str]:
        return {"version": version, "product": "fairlead"}

    @router.get("/api/initial-data")
    async def initial_data() -> dict[str, Any]:
        return {"version": public_version(version)}

    @router.get("/api/health")
    async def get_health() -> JSONResponse:
        return JSONResponse({"healthy": node.healthy}, 200 if node.healthy else 503)

    @router.get("/api/status")
    async def get_status(caller: str = needs("status:read")) -> dict[str, Any]:  # noqa: ARG001
        return node.status()

    return router


def stopping(stop: Callable[[], None]) -> APIRouter:
    """POST stop: end the daemon in an orderly way."""
    router = APIRouter()

    @router.post("/api/stop")
    async def post_stop(caller: str = needs("daemon:stop")) -> dict[str, bool]:  # noqa: ARG001
        stop()
        return {"stopping": True}

    return router
