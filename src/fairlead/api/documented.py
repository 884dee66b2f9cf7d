"""What the description of the API (OpenAPI 3.1) says of routes that read their bodies themselves. Pure."""

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from fairlead.objects.model import Model, facts

Extra = dict[str, Any]


class Problem(BaseModel):
    """A refusal."""

    error: str
    code: str
    """``FL-...``"""
    remedy: str


def _query(name: str, text: str, kind: str = "string", **more: Any) -> Extra:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": kind} | more}


_VERSION = {"name": "X-Avi-Version", "in": "header", "required": False, "schema": {"type": "string"},
            "description": "The release of the public model that the client speaks."}
_TENANT = {"name": "X-Avi-Tenant", "in": "header", "required": False, "schema": {"type": "string"},
           "description": "The tenant that the request is about; * for all."}
_READ = [_VERSION, _TENANT, _query("fields", "Fields that are wanted, separated by commas."),
         _query("include_name", "Show the names of what references name."),
         _query("skip_default", "Leave out what has its default.", "boolean")]
READING: Extra = {"parameters": _READ}
LISTING: Extra = {"parameters": [
    *_READ, _query("page", "Which page.", "integer", minimum=1, maximum=1_000_000),
    _query("page_size", "How many on a page.", "integer", minimum=1, maximum=1000),
    _query("name", "Only the one of that name."), _query("uuid", "Only the one with that uuid."),
    _query("refers_to", "Only those that name KIND:UUID."),
    _query("referred_by", "Only those that KIND:UUID names.")]}
_PATCH: Extra = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": {
    **{name: {"type": "object"} for name in ("add", "replace", "delete")},
    "json_patch": {"type": "array", "items": {"type": "object"}}, "_last_modified": {"type": "string"},
    "uuid": {"type": "string"}, "url": {"type": "string"}}}
PATCHING: Extra = {"parameters": [_VERSION, _TENANT],
                   "requestBody": {"required": True, "content": {"application/json": {"schema": _PATCH}}}}


def parameters(singleton: str | None) -> Extra:
    """Those of the path."""
    return {} if singleton is not None else {"parameters": [
        {"name": "uuid", "in": "path", "required": True, "schema": {"type": "string"}}]}


def merged(one: Extra, other: Extra) -> Extra:
    """Both, with the parameters of both."""
    return one | other | {"parameters": [*other.get("parameters", ()), *one.get("parameters", ())]}


def taken(model: type[Model]) -> Extra:
    """A body of *model*'s fields."""
    return {"parameters": [_VERSION, _TENANT], "requestBody": {"required": True, "content": {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}}


def shown(model: type[Model], status: int = 200) -> dict[int | str, Extra]:
    """An answer with one object."""
    return {status: {"model": _shown(model), "description": "The object."}}


def listed(model: type[Model]) -> dict[int | str, Extra]:
    """An answer with several."""
    return {200: {"model": _listed(model), "description": "A page of the collection."}}


@cache
def _shown(model: type[Model]) -> type[BaseModel]:
    """What of *model* an answer holds: no secret, and what only the server says."""
    fields: dict[str, Any] = {one.name: (Any if one.name not in model.model_fields else _type(model, one.name), None)
                              for one in facts(model) if not one.secret}
    return create_model(f"{model.__name__}Shown", __config__=ConfigDict(extra="allow"), uuid=(str, ...),
                        url=(str, ...), **fields)


def _type(model: type[Model], name: str) -> Any:
    inner = next(one for one in facts(model) if one.name == name).inner
    annotation = model.model_fields[name].annotation
    return Any if inner is not None else annotation


@cache
def _listed(model: type[Model]) -> type[BaseModel]:
    results: Any = list[_shown(model)]  # type: ignore[misc]
    return create_model(f"{model.__name__}List", __config__=ConfigDict(extra="forbid"), count=(int, Field(ge=0)),
                        results=(results, ...), next=(str | None, None))
