"""Rotation of certificates and keys: who would be stranded, begin, call off, how it goes."""

from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.documented import answer
from fairlead.base.clock import LAST_INSTANT
from fairlead.rotation.phases import PATIENCE_S

PUBLIC = frozenset(("/api/trust",))


class Rotating(Protocol):
    """Who rotates."""

    async def plan(self, kind: str, to: str) -> dict[str, Any]:
        """An `answers.RotationPlan`. Raises Refused."""
        ...

    async def start(self, kind: str, *, to: str, by: str, starts_at: int, forced: Sequence[str], revoke_tokens: bool,
                    patience_s: int) -> dict[str, Any]:
        """An `answers.Rotation`. Raises Refused."""
        ...

    async def abort(self, by: str) -> dict[str, Any]:
        """An `answers.Rotation`. Raises Refused."""
        ...

    def statements(self, root: str, after: int) -> Sequence[str]:
        """Trust statements with higher numbers, in order, for who knows a root by its hash; none for who does not."""
        ...

    def status(self) -> dict[str, Any]:
        """An `answers.RotationStatus`."""
        ...


class Wanted(BaseModel):
    """The body of POST /api/rotation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kind: str = Field(max_length=32)
    to: str = Field(default="", max_length=256)
    starts_at: int = Field(default=0, ge=0, lt=LAST_INSTANT)
    """Microseconds since the epoch; 0: now."""
    force: list[str] = Field(default_factory=list, max_length=10_000)
    """The nodes that are left behind: exactly those that would be."""
    revoke_tokens: bool = False
    patience_s: int = Field(default=PATIENCE_S)


def routes(rotating: Rotating) -> APIRouter:
    """GET, POST rotation; GET rotation/plan; POST rotation/abort; GET trust."""
    router = APIRouter(tags=["Rotation"])

    @router.get("/api/rotation", summary="How the rotation goes, and past ones",
                responses=answer(answers.RotationStatus))
    async def status(caller: str = needs("certificate:read")) -> dict[str, Any]:  # noqa: ARG001
        return rotating.status()

    @router.get("/api/rotation/plan", summary="Who would be stranded by a rotation",
                responses=answer(answers.RotationPlan))
    async def plan(kind: str, to: str = "", caller: str = needs("certificate:read")) -> dict[str, Any]:  # noqa: ARG001
        return await rotating.plan(kind, to)

    @router.post("/api/rotation", summary="Begin a rotation", responses=answer(answers.Rotation))
    async def start(body: Wanted, caller: str = needs("certificate:write")) -> dict[str, Any]:
        return await rotating.start(body.kind, to=body.to, by=caller, starts_at=body.starts_at, forced=body.force,
                                    revoke_tokens=body.revoke_tokens, patience_s=body.patience_s)

    @router.post("/api/rotation/abort", summary="Call the rotation off", responses=answer(answers.Rotation))
    async def abort(caller: str = needs("certificate:write")) -> dict[str, Any]:
        return await rotating.abort(caller)

    @router.get("/api/trust", summary="Trust statements, which prove themselves", responses=answer(
        answers.TrustStatements))
    async def trust(root: str = Query(max_length=64), after: int = Query(default=0, ge=0, lt=2**32)) -> dict[str, Any]:
        return {"statements": list(rotating.statements(root, after))}

    return router
