"""The objects of the public model: the same routes for every kind.

What is special of a kind is its `objects.catalogue.Source`; what a request wants to see, which objects it means and how
it changes one is decided in one way for all of them.

Rules, and the attack each stops:

1. Fields that only the server says are passed over, unknown ones are refused: nobody sets what he is not asked for.
2. References are resolved to objects that are there and are of the kind that belongs at that place.
3. A change names what it was made from: by ``_last_modified``, or else by what was read a moment before. Of two changes
   at once the second is refused, or made from what the first has left.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from fairlead.api import documented
from fairlead.api.application import needs
from fairlead.api.asking import Asking
from fairlead.base.errors import Refused, printable
from fairlead.objects import patch as patches
from fairlead.objects.catalogue import Catalogue, Changeable, Source, stale
from fairlead.objects.model import Item, Kind
from fairlead.objects.view import whole

TRIES = 3
_SLUG = re.compile(r"[a-z]{1,64}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def routes(source: Source, catalogue: Catalogue) -> APIRouter:
    """GET, POST KIND; GET, PUT, PATCH, DELETE KIND/UUID; of a singleton also without its uuid."""
    kind = source.kind
    router = APIRouter(tags=[kind.title])
    for path in (kind.path, *kind.also):
        if kind.singleton is None:
            _collection(router, path, source, catalogue)
            _single(router, f"/api/{path}/{{uuid}}", source, catalogue)
        else:
            _single(router, f"/api/{path}", source, catalogue)
            _single(router, f"/api/{path}/{kind.singleton}", source, catalogue)
    return router


def _collection(router: APIRouter, path: str, source: Source, catalogue: Catalogue) -> None:
    kind, url = source.kind, f"/api/{path}"

    @router.get(url, summary=f"List {kind.title} objects", responses=documented.listed(kind.model),
                openapi_extra=documented.LISTING)
    async def several(request: Request, caller: str = needs(f"{kind.permission}:read")) -> Response:  # noqa: ARG001
        asked = Asking(request, catalogue, kind)
        items = await asked.select(source)
        answer: dict[str, Any] = {"count": len(items),
                                  "results": await asked.show(source, asked.wanted.page_of(items))}
        if asked.wanted.more(len(items)):
            answer["next"] = asked.next_page()
        return JSONResponse(answer, headers=asked.headers)

    if "POST" not in kind.methods:
        return

    @router.post(url, summary=f"Make a {kind.title}", status_code=201, responses=documented.shown(kind.model, 201),
                 openapi_extra=documented.taken(kind.model))
    async def make(request: Request, caller: str = needs(f"{kind.permission}:write")) -> Response:
        asked, changeable = Asking(request, catalogue, kind), cast("Changeable", source)
        fields = await asked.body()
        uuid = await _forced(request, source)
        made = await changeable.make(await asked.value(fields), caller, tenant=await asked.tenant_of(fields), uuid=uuid)
        shown = (await asked.show(source, [made], written=True))[0]
        place = str(shown["url"]).partition("#")[0]  # behind it stands the name, in any letters; a header has few
        return JSONResponse(shown, 201, asked.headers | {"location": place})


def _single(router: APIRouter, url: str, source: Source, catalogue: Catalogue) -> None:
    kind = source.kind
    only = kind.singleton

    async def found(asked: Asking, request: Request) -> Item:
        return await asked.find(source, only or request.path_params["uuid"])

    extra = documented.parameters(only)

    @router.get(url, summary=f"Read a {kind.title}", responses=documented.shown(kind.model),
                openapi_extra=documented.merged(documented.READING, extra))
    async def one(request: Request, caller: str = needs(f"{kind.permission}:read")) -> Response:  # noqa: ARG001
        asked = Asking(request, catalogue, kind)
        return JSONResponse((await asked.show(source, [await found(asked, request)]))[0], headers=asked.headers)

    if "PUT" in kind.methods:
        @router.put(url, summary=f"Replace a {kind.title}", responses=documented.shown(kind.model),
                    openapi_extra=documented.merged(documented.taken(kind.model), extra))
        async def replace(request: Request, caller: str = needs(f"{kind.permission}:write")) -> Response:
            asked, changeable = Asking(request, catalogue, kind), cast("Changeable", source)
            fields = await asked.body()
            old = await found(asked, request)
            _check_fresh(kind, old, fields)
            made = await changeable.change(old, await asked.value(fields), caller)
            return JSONResponse((await asked.show(source, [made], written=True))[0], headers=asked.headers)

    if "PATCH" in kind.methods:
        @router.patch(url, summary=f"Change fields of a {kind.title}", responses=documented.shown(kind.model),
                      openapi_extra=documented.merged(documented.PATCHING, extra))
        async def patch(request: Request, caller: str = needs(f"{kind.permission}:write")) -> Response:
            asked, changeable = Asking(request, catalogue, kind), cast("Changeable", source)
            body = await asked.body()
            for left in range(TRIES - 1, -1, -1):
                old = await found(asked, request)
                _check_fresh(kind, old, body)
                value = await asked.value(patches.apply(whole(old.value), body))
                try:
                    made = await changeable.change(old, value, caller)
                    break
                except Refused as refusal:
                    if refusal.code != "FL-OBJECT-STALE" or not left or "_last_modified" in body:
                        raise
            return JSONResponse((await asked.show(source, [made], written=True))[0], headers=asked.headers)

    if "DELETE" in kind.methods:
        @router.delete(url, summary=f"Delete a {kind.title}", status_code=204, openapi_extra=extra)
        async def delete(request: Request, caller: str = needs(f"{kind.permission}:write")) -> Response:
            asked, changeable = Asking(request, catalogue, kind), cast("Changeable", source)
            await changeable.remove(await found(asked, request), caller)
            return Response(status_code=204, headers=asked.headers)


async def _forced(request: Request, source: Source) -> str | None:
    """The uuid that the client wants for what it makes. Raises Refused FL-OBJECT-UUID, FL-OBJECT-EXISTS."""
    slug, kind = request.headers.get("slug"), source.kind
    if slug is None:
        return None
    if not _SLUG.fullmatch(slug) or not slug.startswith(f"{kind.path}-"):
        raise Refused("FL-OBJECT-UUID", f"{printable(slug, 80)!r} cannot be the uuid of a {kind.title}",
                      f"use {kind.path}- and a UUID")
    if await source.item(slug) is not None:
        raise Refused("FL-OBJECT-EXISTS", f"{kind.title} {slug} already exists", "leave the Slug header out")
    return slug


def _check_fresh(kind: Kind, old: Item, fields: Mapping[str, Any]) -> None:
    """Whether a change was made from *old*. Raises Refused FL-OBJECT-STALE, FL-OBJECT-UUID."""
    said = fields.get("_last_modified")
    if said is not None and str(said) != str(old.modified):
        raise stale(kind, old.uuid)
    if fields.get("uuid") not in (None, old.uuid):
        raise Refused("FL-OBJECT-UUID", "the object has another uuid than the address", "leave the uuid out")
