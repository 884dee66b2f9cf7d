"""The audit records of this node."""

from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from fairlead.api import answers
from fairlead.api.application import collection, needs
from fairlead.api.documented import answer, several
from fairlead.audit.public import event_id
from fairlead.audit.record import AuditRecord
from fairlead.base.clock import rfc3339

LINES = "application/x-ndjson"


def describe(record: AuditRecord) -> dict[str, Any]:
    """A record as listings show it."""
    return {"seq": record.seq, "time": rfc3339(record.time), "node": record.node, "event": record.event,
            "subject": record.subject, "by": record.by, "details": dict(record.details), "event_id": event_id(record)}


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


class Exporting(Protocol):
    """Who hands them out."""

    async def export(self) -> str:
        """All records and the signed heads, lines of JSON. Raises Refused FL-AUDIT-BROKEN."""
        ...


def reading(audit: Auditing) -> APIRouter:
    """GET audit, audit/verify."""
    router = APIRouter(tags=["Audit"])

    @router.get("/api/audit", summary="The newest audit records of this node", responses=several(answers.Record))
    async def records(limit: int = 100, caller: str = needs("audit:read")) -> dict[str, Any]:  # noqa: ARG001
        return collection(await audit.recent(max(1, min(limit, 10_000))))

    @router.get("/api/audit/verify", summary="Verify the chain of audit records", responses=answer(answers.Verified))
    async def verify(caller: str = needs("audit:read")) -> dict[str, Any]:  # noqa: ARG001
        return await audit.check()

    return router


def exporting(audit: Exporting) -> APIRouter:
    """GET audit/export."""
    router = APIRouter(tags=["Audit"])

    @router.get("/api/audit/export", summary="All audit records, and the signed heads", responses={200: {
        "description": "One JSON object in each line.", "content": {LINES: {"schema": {"type": "string"}}}}},
        response_class=PlainTextResponse)
    async def export(caller: str = needs("audit:read")) -> PlainTextResponse:  # noqa: ARG001
        return PlainTextResponse(await audit.export(), media_type=LINES)

    return router
