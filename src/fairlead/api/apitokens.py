"""Tokens for automation: everybody makes and ends his own; an admin sees and ends all."""

from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import collection, needs
from fairlead.api.documented import answer, several
from fairlead.users.apitokens import ApiToken


class Keeping(Protocol):
    """Who keeps them."""

    async def of(self, owner: str | None) -> list[ApiToken]:
        """Those of *owner*; None: everybody's."""
        ...

    async def make(self, owner: str, scope: list[str], days: int, comment: str) -> tuple[ApiToken, str]:
        """A new one, and its text. Raises Refused FL-API-TOKEN."""
        ...

    async def revoke(self, token_id: str, owner: str | None, by: str) -> None:
        """End one. Raises Refused FL-API-TOKEN-UNKNOWN."""
        ...


class New(BaseModel):
    """The body of POST /api/apitoken."""

    model_config = ConfigDict(extra="forbid")
    scope: list[str] = Field(min_length=1, max_length=64)
    days: int = 90
    comment: str = Field(default="", max_length=256)


def routes(tokens: Keeping) -> APIRouter:
    """GET, POST apitoken; DELETE apitoken/ID; GET user-apitoken, DELETE user-apitoken/ID for everybody's."""
    router = APIRouter(tags=["User"])

    @router.get("/api/apitoken", summary="List your tokens", responses=several(answers.ApiToken))
    async def own(caller: str = needs("session:own")) -> dict[str, Any]:
        return collection([one.describe() for one in await tokens.of(caller)])

    @router.post("/api/apitoken", summary="Make a token", status_code=201,
                 responses=answer(answers.NewApiToken, status=201))
    async def make(body: New, caller: str = needs("session:own")) -> JSONResponse:
        made, text = await tokens.make(caller, body.scope, body.days, body.comment)
        return JSONResponse(made.describe() | {"token": text}, 201)

    @router.delete("/api/apitoken/{token_id}", summary="Revoke a token of yours", responses=answer(answers.Removed))
    async def revoke_own(token_id: str, caller: str = needs("session:own")) -> dict[str, Any]:
        await tokens.revoke(token_id, caller, caller)
        return {"removed": token_id}

    @router.get("/api/user-apitoken", summary="List everybody's tokens", responses=several(answers.ApiToken))
    async def everybodys(caller: str = needs("user:read")) -> dict[str, Any]:  # noqa: ARG001
        return collection([one.describe() for one in await tokens.of(None)])

    @router.delete("/api/user-apitoken/{token_id}", summary="Revoke anybody's token",
                   responses=answer(answers.Removed))
    async def revoke(token_id: str, caller: str = needs("user:write")) -> dict[str, Any]:
        await tokens.revoke(token_id, None, caller)
        return {"removed": token_id}

    return router
