"""Logs of engines, as far as they have come up, wherever that was."""

from typing import Any, Protocol

from fastapi import APIRouter, Query

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.documented import answer
from fairlead.fleet.reading import Page


class Reading(Protocol):
    """Who finds them."""

    async def page(self, name: str, place: str, *, partial: bool = False) -> Page:
        """The lines of the engine *name* from *place* on; *partial*: of those Controllers that answer. Raises Refused,
        OperatorError FL-LOGS-AWAY.
        """
        ...


def routes(reading: Reading) -> APIRouter:
    """GET node/NAME/logs."""
    router = APIRouter(tags=["Node"])

    @router.get("/api/node/{name}/logs", summary="A part of an engine's logs", responses=answer(answers.LogPage))
    async def logs(name: str, place: str = Query("", max_length=60), *, partial: bool = False,
                   caller: str = needs("log:read")) -> dict[str, Any]:  # noqa: ARG001
        found = await reading.page(name, place, partial=partial)
        return {"text": found.text, "place": found.place, "unheard": list(found.unheard)}

    return router
