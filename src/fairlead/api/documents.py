"""Configuration documents of engines: put, looked at, taken back, and who runs what."""

from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import listing
from fairlead.api.documented import answer, several
from fairlead.fleet.documents import Document


class Configuring(Protocol):
    """Who keeps the documents."""

    async def put(self, kind: str, name: str, *, target: str, body: Any, by: str, at_once: bool, most_failures: int,
                  revision: int | None) -> Document:
        """Keep one. Raises Refused."""
        ...

    async def delete(self, kind: str, name: str, by: str) -> Document:
        """Take one back. Raises Refused FL-DOCUMENT-UNKNOWN."""
        ...

    def all(self) -> Sequence[Document]:
        """All of them."""
        ...

    def one(self, kind: str, name: str) -> Document:
        """Raises Refused FL-DOCUMENT-UNKNOWN."""
        ...

    def describe(self, document: Document) -> dict[str, Any]:
        """An `answers.Document`."""
        ...

    def read(self, document: Document) -> dict[str, Any]:
        """An `answers.DocumentBody`."""
        ...

    def status(self, document: Document) -> dict[str, Any]:
        """An `answers.DocumentStatus`."""
        ...


class Wanted(BaseModel):
    """The body of PUT /api/config/KIND/NAME."""

    model_config = ConfigDict(extra="forbid", strict=True)
    target: str = Field(max_length=130)
    body: dict[str, Any]
    at_once: bool = False
    most_failures: int = Field(default=10, ge=0, le=100)
    revision: int | None = Field(default=None, ge=0)


def routes(configuring: Configuring) -> APIRouter:
    """GET config; GET, PUT, DELETE config/KIND/NAME; GET config/KIND/NAME/status."""
    router = APIRouter(tags=["Config"])

    @router.get("/api/config", summary="List the documents", responses=several(answers.Document))
    async def documents(request: Request, caller: str = needs("config:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, [configuring.describe(one) for one in configuring.all()])

    @router.get("/api/config/{kind}/{name}", summary="Read a document", responses=answer(answers.DocumentBody))
    async def document(kind: str, name: str, caller: str = needs("config:show")) -> dict[str, Any]:  # noqa: ARG001
        return configuring.read(configuring.one(kind, name))

    @router.get("/api/config/{kind}/{name}/status", summary="Which engines have a document",
                responses=answer(answers.DocumentStatus))
    async def status(kind: str, name: str, caller: str = needs("config:read")) -> dict[str, Any]:  # noqa: ARG001
        return configuring.status(configuring.one(kind, name))

    @router.put("/api/config/{kind}/{name}", summary="Put a document", responses=answer(answers.Document))
    async def put(kind: str, name: str, body: Wanted, caller: str = needs("config:write")) -> dict[str, Any]:
        return configuring.describe(await configuring.put(
            kind, name, target=body.target, body=body.body, by=caller, at_once=body.at_once,
            most_failures=body.most_failures, revision=body.revision))

    @router.delete("/api/config/{kind}/{name}", summary="Take a document back", responses=answer(answers.Removed))
    async def delete(kind: str, name: str, caller: str = needs("config:write")) -> dict[str, Any]:
        await configuring.delete(kind, name, caller)
        return {"removed": f"{kind}/{name}"}

    return router
