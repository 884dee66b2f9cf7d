"""The audit records of this node."""

from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from fairlead.api.application import collection, needs

LINES = "application/x-ndjson"


class Auditing(Protocol):
    """Who keeps them."""

    async def recent(self, limit: int) -> list[dict[str, Any]]:
        """The newest *limit* records, oldest first."""
        ...

    async def check(self) -> dict[str, Any]:
        """``verified`` records, the ``head``, and what ``witnesses`` were shown.

        Raises Refused FL-AUDIT-BROKEN, FL-AUDIT-CUT, FL-AUDIT-FORK.
        """
        ...

    async def export(self) -> str:
        """All records and the signed heads, lines of JSON. Raises Refused FL-AUDIT-BROKEN."""
        ...


def routes(audit: Auditing) -> APIRouter:
    """GET audit, audit/verify, audit/export."""
    router = APIRouter()

    @router.get("/api/audit")
    async def records(limit: int = 100, caller: str = needs("audit:read")) -> dict[str, Any]:  # noqa: ARG001
        return collection(await audit.recent(max(1, min(limit, 10_000))))

    @router.get("/api/audit/verify")
    async def verify(caller: str = needs("audit:read")) -> dict[str, Any]:  # noqa: ARG001
        return await audit.check()

    @router.get("/api/audit/export")
    async def export(caller: str = needs("audit:read")) -> PlainTextResponse:  # noqa: ARG001
        return PlainTextResponse(await audit.export(), media_type=LINES)

    return router
