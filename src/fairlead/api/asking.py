"""What of a request matters for objects: the client's version, its tenant, what it selects, and the body.

A body is one JSON object, read once and strictly. Fields that only the server says are passed over, unknown ones are
refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlencode

from fastapi import Request

from fairlead.base import strict
from fairlead.base.errors import Refused, printable
from fairlead.objects import selection
from fairlead.objects.catalogue import Catalogue, Source
from fairlead.objects.model import Item, Kind, Model, read, refs, version_of
from fairlead.objects.selection import Selection
from fairlead.objects.view import ALWAYS, View

MOST_BODY = 256 * 1024
EVERY_TENANT = "*"
ADMIN_TENANT = "tenant-admin"
"""The uuid of the tenant that the cluster begins with."""
_SAID_BY_SERVER = frozenset(("uuid", "url", "_last_modified"))


@runtime_checkable
class Joining(Protocol):
    """A source whose objects have subresources that may be shown inside of them."""

    async def joined(self, item: Item, name: str) -> Any:
        """The subresource *name* of *item*; None: it has none."""
        ...


@runtime_checkable
class Recognising(Protocol):
    """A source whose objects are known by a secret text, which stands nowhere."""

    async def recognise(self, text: str) -> Item | None:
        """The object whose text that is."""
        ...


class Asking:
    """One request about objects of a kind. Raises Refused FL-API-VERSION, FL-QUERY."""

    def __init__(self, request: Request, catalogue: Catalogue, kind: Kind) -> None:
        self.kind = kind
        self.wanted = selection.parse(request.query_params.multi_items(), kind)
        self._request = request
        self._catalogue = catalogue
        self._version = version_of(request.headers.get("x-avi-version"))
        self.headers = {"AVI_API_VERSION": "_".join(str(part) for part in self._version)}
        """Of every answer."""

    async def tenant(self) -> str:
        """The uuid of the tenant that the request is about; `EVERY_TENANT`: of all. Raises Refused FL-TENANT."""
        uuid, name = (self._request.headers.get(header) for header in ("x-avi-tenant-uuid", "x-avi-tenant"))
        if EVERY_TENANT in (uuid, name):
            return EVERY_TENANT
        if not uuid and not name:
            return ADMIN_TENANT
        source = self._catalogue.source("tenant")
        for tenant in await source.items() if source is not None else ():
            if tenant.uuid == uuid or (not uuid and tenant.name == name):
                return tenant.uuid
        raise Refused("FL-TENANT", f"there is no tenant {printable(uuid or name or '', 80)!r}", "see GET /api/tenant")

    async def body(self) -> dict[str, Any]:
        """The JSON object of the body. Raises Refused FL-API-FORMAT."""
        return object_of(await self._request.body())

    async def select(self, source: Source) -> list[Item]:
        """The objects that the request wants, of all pages."""
        if isinstance(source, Recognising) and self.wanted.names:
            recognised = [await source.recognise(name) for name in sorted(self.wanted.names)]
            if any(recognised):
                return [item for item in recognised if item is not None]
        items = list(await source.items())
        if self.kind.scoped and (tenant := await self.tenant()) != EVERY_TENANT:
            items = [item for item in items if item.tenant in ("", tenant)]
        if (by := self.wanted.referred_by) is not None:
            named = await self._catalogue.find(*by)
            uuids = {uuid for kind, uuid in refs(named.value) if kind == self.kind.path} if named is not None else set()
            items = [item for item in items if item.uuid in uuids]
        names = await self._catalogue.names((i.value for i in items) if self.wanted.through else ())
        return [item for item in items if selection.matches(item, self.wanted, names)]

    async def find(self, source: Source, uuid: str) -> Item:
        """The object with that uuid. Raises Refused FL-OBJECT-UNKNOWN."""
        item = await source.item(uuid)
        asked = {"x-avi-tenant", "x-avi-tenant-uuid"} & set(self._request.headers)  # else a uuid says enough
        if item is not None and item.tenant and asked and await self.tenant() not in (EVERY_TENANT, item.tenant):
            item = None
        if item is None:
            raise Refused("FL-OBJECT-UNKNOWN", f"{self.kind.title} object not found: {printable(uuid, 80)}",
                          f"see GET /api/{self.kind.path}")
        return item

    async def show(self, source: Source, items: Sequence[Item], *, written: bool = False) -> list[dict[str, Any]]:
        """*items* as the request wants them; what was *written* is shown with names in any case."""
        wanted, named = self.wanted, self.wanted.include_name or written
        names = await self._catalogue.names(item.value for item in items) if named else None
        view = View(str(self._request.base_url).rstrip("/"), self._version, names, wanted.skip_default, wanted.fields)
        shown = [view.show(self.kind, item) for item in items]
        if wanted.join and isinstance(source, Joining):
            for item, fields in zip(items, shown, strict=True):
                for name in sorted(wanted.join):
                    if (said := await source.joined(item, name)) is not None:
                        fields[name] = said
        return shown

    def next_page(self) -> str:
        """The address of the page behind this one."""
        return _next(self._request, self.wanted)

    async def value(self, fields: Mapping[str, Any]) -> Model:
        """What a client's *fields* make. Raises Refused FL-OBJECT-FIELD, FL-OBJECT-FIXED, FL-OBJECT-REF."""
        plain = {name: said for name, said in fields.items() if name not in _SAID_BY_SERVER}
        if self.kind.scoped:
            plain.pop("tenant_ref", None)
        return read(self.kind, await self._catalogue.resolve(self.kind.model, plain))

    async def tenant_of(self, fields: Mapping[str, Any]) -> str:
        """The tenant that a new object belongs to: the one that it says, or else the request's. Raises Refused."""
        if self.kind.scoped and fields.get("tenant_ref") is not None:
            return (await self._catalogue.kept("tenant", fields["tenant_ref"])).partition("/")[2]
        tenant = await self.tenant()
        return ADMIN_TENANT if tenant == EVERY_TENANT else tenant


def listing(request: Request, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """*rows* of a resource of our own, by the conventions of collections; all of them unless a page is asked for."""
    query = request.query_params
    wanted = selection.parse(query.multi_items())
    found = [row for row in rows if not wanted.names or row.get("name") in wanted.names]
    answer: dict[str, Any] = {"count": len(found)}
    if "page" in query or "page_size" in query:
        if wanted.more(len(found)):
            answer["next"] = _next(request, wanted)
        found = list(wanted.page_of(found))
    return answer | {"results": [
        row if wanted.fields is None else {k: v for k, v in row.items() if k in wanted.fields or k in ALWAYS}
        for row in found]}


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object of *body*. Raises Refused FL-API-FORMAT, in which nothing of it is shown."""
    try:
        if len(body) > MOST_BODY:
            raise ValueError(f"larger than {MOST_BODY} bytes")
        fields = strict.loads(body)
    except ValueError as error:
        raise Refused("FL-API-FORMAT", f"the body is no JSON object: {error}", "send one object") from None
    if not isinstance(fields, dict):
        raise Refused("FL-API-FORMAT", "the body is JSON, but no object", "send one object")
    return fields


def _next(request: Request, wanted: Selection) -> str:
    query = {"page": str(wanted.page + 1), "page_size": str(wanted.page_size)}
    query |= {name: value for name, value in request.query_params.items() if name not in query}
    return f"{str(request.base_url).rstrip('/')}{request.url.path}?{urlencode(query)}"
