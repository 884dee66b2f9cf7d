"""Nodes: who is in the cluster, how they are, and how they leave it."""

from typing import Any, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fairlead.api import answers
from fairlead.api.application import needs
from fairlead.api.asking import listing
from fairlead.api.documented import answer, several
from fairlead.base.errors import Refused


class Listing(Protocol):
    """Who knows the nodes."""

    def nodes(self) -> list[dict[str, Any]]:
        """Each with at least name, role, state, address, internal_address, fingerprint, joined_at."""
        ...


class Managing(Protocol):
    """Who changes them; each call names who asked."""

    async def remove_node(self, name: str, by: str) -> None:
        """Out of the cluster. Raises Refused."""
        ...

    async def release_node(self, name: str, fingerprint: str, by: str) -> None:
        """Unfreeze. Raises Refused."""
        ...

    async def label_node(self, name: str, labels: list[str], by: str) -> None:
        """Set labels. Raises Refused."""
        ...

    async def drain_node(self, name: str, by: str, *, drained: bool) -> None:
        """Have nothing new begin at an engine, or again. Raises Refused."""
        ...


class Commanding(Protocol):
    """Who asks engines to do something."""

    async def run(self, name: str, word: str, deadline_s: float, by: str) -> dict[str, Any]:
        """What the engine answers. Raises Refused, OperatorError."""
        ...


class Draining(Protocol):
    """Who knows what is still open at engines."""

    async def streams(self, name: str) -> dict[str, Any]:
        """Of the engine *name*, at all Controllers: streams, unheard. Raises Refused."""
        ...


class Drain(BaseModel):
    """The body of POST /api/node/NAME/drain."""

    model_config = ConfigDict(extra="forbid", strict=True)
    drained: bool = True


class CommandWanted(BaseModel):
    """The body of POST /api/node/NAME/command."""

    model_config = ConfigDict(extra="forbid")
    command: str = Field(max_length=32)
    deadline_s: float = Field(default=10.0, gt=0, le=60)


class Observing(Protocol):
    """Who saw engines come and go."""

    def of(self, name: str) -> list[dict[str, Any]]:
        """The last changes of a node, newest first: time, state, before. Raises Refused FL-NODE-UNKNOWN."""
        ...


class Release(BaseModel):
    """The body of POST /api/node/NAME/release."""

    model_config = ConfigDict(extra="forbid")
    fingerprint: str = Field(max_length=100)


class Labels(BaseModel):
    """The body of POST /api/node/NAME/label."""

    model_config = ConfigDict(extra="forbid")
    labels: list[str] = Field(min_length=1, max_length=64)


def reading(cluster: Listing) -> APIRouter:
    """GET node, node/NAME."""
    router = APIRouter(tags=["Node"])

    @router.get("/api/node", summary="List the nodes", responses=several(answers.Node))
    async def nodes(request: Request, caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, cluster.nodes())

    @router.get("/api/node/{name}", summary="A node", responses=answer(answers.Node))
    async def node(name: str, caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return _named(cluster, name)

    return router


def watching(observing: Observing) -> APIRouter:
    """GET node/NAME/events."""
    router = APIRouter(tags=["Node"])

    @router.get("/api/node/{name}/events", summary="When an engine came, was late and went, as this Controller saw it",
                responses=several(answers.NodeEvent))
    async def events(request: Request, name: str,
                     caller: str = needs("node:read")) -> dict[str, Any]:  # noqa: ARG001
        return listing(request, observing.of(name))

    return router


def writing(cluster: Listing, managing: Managing) -> APIRouter:
    """DELETE node/NAME; POST node/NAME/release, node/NAME/label, node/NAME/drain."""
    router = APIRouter(tags=["Node"])

    @router.delete("/api/node/{name}", summary="Take a node out of the cluster", responses=answer(answers.Removed))
    async def remove(name: str, caller: str = needs("node:write")) -> dict[str, Any]:
        await managing.remove_node(name, caller)
        return {"removed": name}

    @router.post("/api/node/{name}/release", summary="Unfreeze a node", responses=answer(answers.Node))
    async def release(name: str, body: Release, caller: str = needs("node:write")) -> dict[str, Any]:
        await managing.release_node(name, body.fingerprint, caller)
        return _named(cluster, name)

    @router.post("/api/node/{name}/label", summary="Set labels of a node", responses=answer(answers.Node))
    async def label(name: str, body: Labels, caller: str = needs("node:write")) -> dict[str, Any]:
        await managing.label_node(name, body.labels, caller)
        return _named(cluster, name)

    @router.post("/api/node/{name}/drain", summary="Have nothing new begin at an engine",
                 responses=answer(answers.Node))
    async def drain(name: str, body: Drain, caller: str = needs("node:write")) -> dict[str, Any]:
        await managing.drain_node(name, caller, drained=body.drained)
        return _named(cluster, name)

    return router


def commanding(engines: Commanding) -> APIRouter:
    """POST node/NAME/command."""
    router = APIRouter(tags=["Node"])

    @router.post("/api/node/{name}/command", summary="Have an engine do something of the catalogue",
                 responses=answer(answers.CommandDone))
    async def command(name: str, body: CommandWanted, caller: str = needs("node:write")) -> dict[str, Any]:
        return await engines.run(name, body.command, body.deadline_s, caller)

    return router


def draining(engines: Draining) -> APIRouter:
    """GET node/NAME/streams."""
    router = APIRouter(tags=["Node"])

    @router.get("/api/node/{name}/streams", summary="How many streams are open at an engine and from it",
                responses=answer(answers.NodeStreams))
    async def streams(name: str, caller: str = needs("tunnel:read")) -> dict[str, Any]:  # noqa: ARG001
        return await engines.streams(name)

    return router


def _named(cluster: Listing, name: str) -> dict[str, Any]:
    for node in cluster.nodes():
        if node["name"] == name:
            return node
    raise Refused("FL-NODE-UNKNOWN", f"there is no node {name[:80]!r}", "see `fairlead node list`")
