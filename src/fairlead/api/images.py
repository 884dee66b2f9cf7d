"""Images: versions of the software as upgrade bundles, brought up in pieces, verified, and then on record.

An upload is an object like any other: it says how far it is, and from there it goes on, after whatever stopped it. It
belongs to the Controller that it was begun on. When the last byte is there it is verified; then it stands in the store,
and every Controller fetches it, or it is refused and nothing of it is left.
"""

from typing import Annotated, Protocol

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from fairlead.api import answers, documented
from fairlead.api.application import Json, needs
from fairlead.api.documented import answer
from fairlead.base.errors import Refused
from fairlead.link.images import MOST_SIZE
from fairlead.objects.catalogue import Changeable
from fairlead.objects.model import Computed, Item, Kind, Open
from fairlead.objects.shelf import Built
from fairlead.upgrade.verify import MOST_ROOT_BYTES

MOST_PIECE = 1024 * 1024


class Image(Open):
    """A version of the software. From ``size`` on, the fields are fairlead's own."""

    name: str = Field(max_length=256)
    type: Annotated[str | None, Computed()] = None
    progress: Annotated[int | None, Computed()] = Field(default=None, ge=0, le=100)
    start_time: Annotated[str | None, Computed()] = None
    end_time: Annotated[str | None, Computed()] = None
    size: int | None = Field(default=None, ge=1, le=MOST_SIZE, description="Of the file, bytes.")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="Of the file, hexadecimal.")
    state: Annotated[str | None, Computed()] = Field(default=None, description="uploading, or verified.")
    offset: Annotated[int | None, Computed()] = Field(
        default=None, description="How many bytes are here: the next piece begins there.")
    version: Annotated[str | None, Computed()] = None
    minimum: Annotated[str | None, Computed()] = Field(
        default=None, description="The lowest version from which a node may come to it.")
    roles: Annotated[list[str] | None, Computed()] = Field(default=None, description="The nodes it is for.")
    counter: Annotated[int | None, Computed()] = Field(default=None, description="The security counter.")
    number: Annotated[int | None, Computed()] = Field(default=None, description="Of the bundle, by its publisher.")
    uploaded_by: Annotated[str | None, Computed()] = None
    controllers: Annotated[list[str] | None, Computed()] = Field(
        default=None, description="Names of those that have the file, verified.")


IMAGE = Kind("image", "Image", Image, "image", methods=frozenset(("POST", "DELETE")))
BUILT = (Built(IMAGE),)


class Uploads(Changeable, Protocol):
    """Who has images, and takes files in."""

    async def append(self, uuid: str, offset: int, data: bytes, by: str) -> Item:
        """The image, with *data* where it belongs at *offset*; after the last piece, verified.

        What is there already is passed over. Raises Refused, OperatorError.
        """
        ...


class Trusting(Protocol):
    """Who keeps the root of the signatures of bundles."""

    async def pin(self, root: bytes, by: str) -> str:
        """From now on bundles are verified by that root; its SHA-256. Raises Refused."""
        ...

    async def standing(self) -> dict[str, object]:
        """An `answers.UpgradeRoot`."""
        ...


def routes(uploads: Uploads) -> APIRouter:
    """PUT image/UUID/content; all else has the routes that all objects have."""
    router = APIRouter(tags=[IMAGE.title])

    @router.put("/api/image/{uuid}/content", summary="Bring a piece of an image", responses=answer(answers.Upload),
                openapi_extra=_BYTES)
    async def content(uuid: str, request: Request, offset: int = Query(ge=0, le=MOST_SIZE),
                      caller: str = needs("image:write")) -> Response:
        image = (await uploads.append(uuid, offset, await request.body(), caller)).value
        assert isinstance(image, Image)
        return Json({"uuid": uuid, "state": image.state, "offset": image.offset, "size": image.size,
                     "version": image.version})

    return router


def trusting(trust: Trusting) -> APIRouter:
    """GET, POST upgrade/root: the root by which bundles are verified."""
    router = APIRouter(tags=["Upgrade"])

    @router.get("/api/upgrade/root", summary="The root by which bundles are verified",
                responses=answer(answers.UpgradeRoot))
    async def shown(caller: str = needs("image:read")) -> dict[str, object]:  # noqa: ARG001
        return await trust.standing()

    @router.post("/api/upgrade/root", summary="Pin the root by which bundles are verified, once",
                 responses=answer(answers.UpgradeRootPinned), openapi_extra=_ROOT)
    async def pin(request: Request, caller: str = needs("upgrade:trust")) -> dict[str, str]:
        root = await request.body()
        if len(root) > MOST_ROOT_BYTES:
            raise Refused("FL-API-FORMAT", f"the root has more than {MOST_ROOT_BYTES} bytes", "send a root.json")
        return {"sha256": await trust.pin(root, caller)}

    return router


_BYTES: documented.Extra = {"requestBody": {"required": True, "content": {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary", "maxLength": MOST_PIECE}}}}}
_ROOT: documented.Extra = {"requestBody": {"required": True, "content": {
    "application/json": {"schema": {"type": "object", "description": "A root.json of TUF, byte by byte as it is."}}}}}
