"""Backups of the cluster."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.documented import answer
from fairlead.base.clock import rfc3339
from fairlead.keys.wire import b64


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made."""

    sealed: bytes = field(repr=False)
    """The file."""
    time: int
    """Store time, microseconds."""
    revision: int
    records: int
    checksum: str


class Saving(Protocol):
    """Who makes them."""

    async def create(self, recipient: str | None, passphrase: str | None, by: str) -> Made:
        """A sealed backup. Raises Refused, OperatorError."""
        ...


class Wanted(BaseModel):
    """The body of POST /api/backup: one of both."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    recipient: str | None = Field(default=None, max_length=100)
    passphrase: str | None = Field(default=None, max_length=4096, repr=False)


def routes(backups: Saving) -> APIRouter:
    """POST backup."""
    router = APIRouter(tags=["Backup"])

    @router.post("/api/backup", summary="Make a sealed backup", responses=answer(answers.Backup))
    async def create(body: Wanted, response: Response, caller: str = needs("backup:create")) -> dict[str, Any]:
        made = await backups.create(body.recipient, body.passphrase, caller)
        response.headers["cache-control"] = "no-store"
        return {"backup": b64(made.sealed), "time": rfc3339(made.time), "revision": made.revision,
                "records": made.records, "checksum": made.checksum}

    return router
