"""The SSH keys of people: of everybody for who manages accounts, and each one's own."""

from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import collection, needs
from fairlead.api.documented import answer, several
from fairlead.users.keys import MOST_COMMENT, MOST_LINE, UserKey


class Managing(Protocol):
    """Who keeps them; each change names who asked."""

    async def of(self, user: str) -> list[UserKey]:
        """The keys of *user*. Raises Refused FL-USER-UNKNOWN."""
        ...

    async def add(self, user: str, text: str, comment: str | None, by: str) -> UserKey:
        """Another key, of the line of a .pub file. Raises Refused."""
        ...

    async def remove(self, user: str, fingerprint: str, by: str) -> None:
        """No such key any more. Raises Refused FL-USER-KEY-UNKNOWN."""
        ...


class New(BaseModel):
    """The body of POST /api/user/NAME/key. Not shown in refusals: somebody may have sent a private key."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: str = Field(max_length=MOST_LINE, repr=False)
    comment: str | None = Field(default=None, max_length=MOST_COMMENT)


def routes(keys: Managing) -> APIRouter:
    """GET, POST user/NAME/key; DELETE user/NAME/key/FINGERPRINT; the same of useraccount/key for one's own."""
    router = APIRouter(tags=["User"])

    @router.get("/api/user/{name}/key", summary="List the SSH keys of somebody", responses=several(answers.UserKey))
    async def listed(name: str, caller: str = needs("user:read")) -> dict[str, Any]:  # noqa: ARG001
        return collection([key.describe() for key in await keys.of(name)])

    @router.post("/api/user/{name}/key", status_code=201, summary="Let a key in",
                 responses=answer(answers.UserKey, status=201))
    async def add(name: str, body: New, caller: str = needs("user:write")) -> JSONResponse:
        return JSONResponse((await keys.add(name, body.key, body.comment, caller)).describe(), 201)

    @router.delete("/api/user/{name}/key/{fingerprint:path}", summary="Let a key in no longer",
                   responses=answer(answers.Removed))
    async def remove(name: str, fingerprint: str, caller: str = needs("user:write")) -> dict[str, Any]:
        await keys.remove(name, fingerprint, caller)
        return {"removed": fingerprint}

    @router.get("/api/useraccount/key", summary="List your SSH keys", responses=several(answers.UserKey))
    async def own(caller: str = needs("session:own")) -> dict[str, Any]:
        return collection([key.describe() for key in await keys.of(caller)])

    @router.post("/api/useraccount/key", status_code=201, summary="Let a key of yours in",
                 responses=answer(answers.UserKey, status=201))
    async def add_own(body: New, caller: str = needs("session:own")) -> JSONResponse:
        return JSONResponse((await keys.add(caller, body.key, body.comment, caller)).describe(), 201)

    @router.delete("/api/useraccount/key/{fingerprint:path}", summary="Let a key of yours in no longer",
                   responses=answer(answers.Removed))
    async def remove_own(fingerprint: str, caller: str = needs("session:own")) -> dict[str, Any]:
        await keys.remove(caller, fingerprint, caller)
        return {"removed": fingerprint}

    return router
