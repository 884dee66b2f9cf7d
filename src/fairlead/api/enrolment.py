"""Bundles and tokens."""

from typing import Any, Literal, Protocol

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import listing
from fairlead.api.documented import answer, several
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused
from fairlead.enrol import bundle as bundles
from fairlead.enrol import request as requests
from fairlead.enrol.bundle import Bundle, Role
from fairlead.enrol.state import TokenRecord


class Issuing(Protocol):
    """The tokens."""

    async def issue(self, *, role: Role, node: str | None, source: str | None, lifetime_s: int, by: str,
                    bound_keys_hash: bytes | None = None) -> Bundle:
        """A new bundle. Raises Refused."""
        ...

    async def tokens(self) -> list[tuple[TokenRecord, int]]:
        """All tokens and their refusals."""
        ...

    async def revoke(self, token_id: str, by: str) -> TokenRecord:
        """Make a token worthless. Raises Refused."""
        ...


class Recording(Protocol):
    """What happened to a token."""

    async def about(self, subject: str) -> list[dict[str, Any]]:
        """The audit records about *subject*, oldest first."""
        ...


class Export(BaseModel):
    """The body of POST /api/bundle."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["controller", "engine"]
    node: str | None = None
    source: str | None = None
    lifetime_s: int = Field(default=600)
    request: str | None = Field(default=None, max_length=requests.MOST_BYTES)
    """The text of a join request: the bundle is bound and sealed to its keys."""


def routes(enrolment: Issuing, audit: Recording) -> APIRouter:
    """POST bundle; GET token, token/ID; DELETE token/ID."""
    router = APIRouter(tags=["Enrolment"])

    @router.post("/api/bundle", summary="Issue a credential bundle", responses=answer(answers.Bundle))
    async def export(body: Export, caller: str = needs("bundle:write")) -> Response:
        if body.request is None:
            made = await enrolment.issue(role=body.role, node=body.node, source=body.source,
                                         lifetime_s=body.lifetime_s, by=caller)
            return Response(made.encode(), media_type="application/json", headers={"cache-control": "no-store"})
        asked = requests.decode(body.request.encode())
        made = await enrolment.issue(role=asked.role, node=asked.node, source=body.source, lifetime_s=body.lifetime_s,
                                     by=caller, bound_keys_hash=asked.keys_hash)
        return Response(bundles.seal(made, asked.encoded(), asked.recipient), media_type="application/json",
                        headers={"cache-control": "no-store"})

    @router.get("/api/token", summary="List the tokens", responses=several(answers.Token))
    async def tokens(request: Request, caller: str = needs("token:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, [describe(token, refusals) for token, refusals in await enrolment.tokens()])

    @router.get("/api/token/{token_id}", summary="A token and its history", responses=answer(answers.TokenHistory))
    async def token(token_id: str, caller: str = needs("token:read")) -> dict[str, Any]:  # noqa: ARG001
        found = [describe(t, n) for t, n in await enrolment.tokens() if t.id == token_id]
        if not found:
            raise Refused("FL-TOKEN-UNKNOWN", f"there is no token {token_id[:40]}", "see `fairlead token list`")
        return found[0] | {"history": await audit.about(token_id)}

    @router.delete("/api/token/{token_id}", summary="Make a token worthless", responses=answer(answers.Token))
    async def revoke(token_id: str, caller: str = needs("token:write")) -> dict[str, Any]:
        return describe(await enrolment.revoke(token_id, caller), 0)

    return router


def describe(token: TokenRecord, refusals: int) -> dict[str, Any]:
    """A token as listings show it."""
    shown: dict[str, Any] = {
        "id": token.id, "role": token.role, "node": token.node, "state": token.state,
        "expires_at": rfc3339(token.expires_at), "issued_by": token.issued_by, "refusals": refusals,
        "issued_at": rfc3339(token.issued_at), "source": token.source, "bound": token.bound_keys_hash is not None,
        "used_by": token.used_by or None}
    if token.conflict is not None:
        shown["conflict"] = {"fingerprint": token.conflict.fingerprint, "source": token.conflict.source,
                             "time": rfc3339(token.conflict.time)}
    return shown

