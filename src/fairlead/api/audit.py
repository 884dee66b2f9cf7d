"""The audit records of this node."""

from typing import Any, Protocol

from fastapi import APIRouter

from fairlead.api.application import collection, needs


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


def routes(audit: Auditing) -> APIRouter:
    """GET audit, audit/verify."""
    router = APIRouter()

    @router.get("/api/audit")
    async def records(limit: int = 100, caller: str = needs("audit:read")) -> dict[str, Any]:  # noqa: ARG001
        return collection(await audit.recent(max(1, min(limit, 10_000))))

    @router.get("/api/audit/verify")
    async def verify(caller: str = needs("audit:read")) -> dict[str, Any]:  # noqa: ARG001
        return await audit.check()

    return router
