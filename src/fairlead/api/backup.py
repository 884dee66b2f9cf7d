"""Backups of the cluster: making one, and the records of those that were made.

A record is no backup: the sealed file is given to who asked for it, and no Controller keeps it. What is kept says that
it was made, when, by whom and sealed to what, and by which sums the file is known again; the last `MOST_RECORDS` of
them. Whoever deletes one takes it out of this list only: the audit log has it.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import ADMIN_TENANT
from fairlead.api.documented import answer
from fairlead.keys.wire import b64
from fairlead.objects.model import Item, Kind, Model, Ref
from fairlead.objects.shelf import Built

MOST_RECORDS = 100


class Backup(Model):
    """The record of a backup that was made. From ``controller`` on, the fields are fairlead's own."""

    file_name: str = Field(description="A name for the file; who asked for it may have given it another one.")
    timestamp: str = Field(description="RFC 3339, store time: it holds what there was then.")
    tenant_ref: Annotated[str, Ref("tenant")] = f"tenant/{ADMIN_TENANT}"
    controller: str = Field(description="Which one made it, and is made anew from it.")
    made_by: str
    sealed: str = Field(description="To which recipient, or that it is under a passphrase.")
    size: int = Field(description="Of the file, bytes.")
    sha256: str = Field(description="Of the file, hexadecimal.")
    checksum: str = Field(description="Of what it holds, hexadecimal: `backup restore` says it again.")
    revision: int
    records: int


BACKUP = Kind("backup", "Backup", Backup, "backup", methods=frozenset(("DELETE",)))
BUILT = (Built(BACKUP),)


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made."""

    sealed: bytes = field(repr=False)
    """The file."""
    record: Item
    """Of it: a `Backup`."""


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
    """POST backup; the records have the routes that all objects have."""
    router = APIRouter(tags=[BACKUP.title])

    @router.post("/api/backup", summary="Make a sealed backup", responses=answer(answers.SealedBackup))
    async def create(body: Wanted, response: Response, caller: str = needs("backup:create")) -> dict[str, Any]:
        made = await backups.create(body.recipient, body.passphrase, caller)
        response.headers["cache-control"] = "no-store"
        record = made.record.value
        assert isinstance(record, Backup)
        return {"backup": b64(made.sealed), "uuid": made.record.uuid, "file_name": record.file_name,
                "time": record.timestamp, "revision": record.revision, "records": record.records,
                "checksum": record.checksum, "sha256": record.sha256}

    return router
