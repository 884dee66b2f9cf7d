"""Numbers for Prometheus, and where it finds the exporters of engines."""

from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from fairlead.api import answers
from fairlead.api.application import Json, needs

TEXT = "text/plain; version=0.0.4"
"""Prometheus's text exposition; the character set is appended."""


class Measuring(Protocol):
    """Who knows the numbers."""

    async def exposition(self) -> str:
        """All of them, in Prometheus's text format."""
        ...

    def targets(self) -> Sequence[dict[str, Any]]:
        """Exporters of engines, as Prometheus's HTTP service discovery takes them: targets, labels."""
        ...


def routes(measuring: Measuring) -> APIRouter:
    """GET /metrics, /api/prometheus/targets."""
    router = APIRouter(tags=["Metrics"])

    @router.get("/metrics", summary="Numbers of this Controller and of the engines that are connected to it",
                responses={200: {"description": "Prometheus's text format.", "content": {
                    "text/plain": {"schema": {"type": "string"}}}}}, response_class=PlainTextResponse)
    async def metrics(caller: str = needs("metrics:read")) -> PlainTextResponse:  # noqa: ARG001
        return PlainTextResponse(await measuring.exposition(), media_type=TEXT)

    @router.get("/api/prometheus/targets", summary="Exporters of engines, for Prometheus's HTTP service discovery",
                responses={200: {"model": list[answers.ScrapeTargets], "description": "All of them."}})
    async def targets(caller: str = needs("metrics:read")) -> Json:  # noqa: ARG001
        return Json(list(measuring.targets()))

    return router
