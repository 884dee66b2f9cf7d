"""What the description of the API (OpenAPI 3.1) says of objects, of requests for them, and of refusals. Pure.

The fields are read from the same models that read the bodies (`objects.model`). Of each there are two schemas: ``X`` is
what is taken, ``XShown`` what an answer holds. What only the server says is ``readOnly`` in the first, secrets are
``writeOnly`` there and are not in the second.
"""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from fairlead.objects.model import Facts, Kind, Model, facts
from fairlead.objects.patch import MOST_STEPS

Extra = dict[str, Any]
_PLACE = "#/components/schemas/"


class Problem(BaseModel):
    """A refusal."""

    model_config = ConfigDict(extra="forbid")
    error: str = Field(description="What was refused, and why.")
    code: str = Field(pattern="^FL-", description="Stable; docs/errors.md has them all.")
    remedy: str = Field(description="What to do about it.")


def _query(name: str, text: str, kind: str = "string", **more: Any) -> Extra:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": kind} | more}


def _number(name: str, text: str, most: int) -> Extra:
    schema = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": most}, {"const": ""}]}
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


_VERSION = {"name": "X-Avi-Version", "in": "header", "required": False,
            "schema": {"type": "string", "pattern": r"^(1[6-9]|[2-9][0-9])(\.[0-9]{1,5}){1,3}$"},
            "description": "The release of the public model that the client speaks."}
_TENANT = {"name": "X-Avi-Tenant", "in": "header", "required": False, "schema": {"type": "string"},
           "description": "The tenant that the request is about; * for all."}
_NAMED = r"^[a-z]{1,64}:[A-Za-z0-9_.-]{1,128}$"
_READ = [_VERSION, _TENANT, _query("fields", "Fields that are wanted, separated by commas."),
         _query("include_name", "Show the names of what references name."),
         _query("skip_default", "Leave out what has its default: true; anything else says no.")]
READING: Extra = {"parameters": _READ}
LISTING: Extra = {"parameters": [
    *_READ, _number("page", "Which page; empty: the first.", 1_000_000),
    _number("page_size", "How many on a page; empty: 200.", 1000),
    _query("name", "Only the one of that name."), _query("uuid", "Only the one with that uuid."),
    _query("refers_to", "Only those that name KIND:UUID.", pattern=_NAMED),
    _query("referred_by", "Only those that KIND:UUID names.", pattern=_NAMED)]}
_PATCH: Extra = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": {
    **{name: {"type": "object"} for name in ("add", "replace", "delete")},
    "json_patch": {"type": "array", "maxItems": MOST_STEPS, "items": {
        "type": "object", "required": ["op", "path"], "properties": {
            "op": {"enum": ["add", "replace", "remove", "test"]}, "path": {"type": "string", "pattern": "^/"}}}},
    "_last_modified": {"type": "string"}, "uuid": {"type": "string"}, "url": {"type": "string"}}}
PATCHING: Extra = {"parameters": [_VERSION, _TENANT],
                   "requestBody": {"required": True, "content": {"application/json": {"schema": _PATCH}}}}
_SPOKEN: Extra = {"AVI_API_VERSION": {"schema": {"type": "string"},
                                      "description": "The release of the public model that was heeded."}}
Answers = dict[int | str, Extra]


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
        "application/json": {"schema": {"$ref": f"{_PLACE}{model.__name__}"}}}}}


def shown(model: type[Model], status: int = 200) -> Answers:
    """An answer with one object."""
    return {status: {"description": "The object.", "headers": _SPOKEN,
                     "content": {"application/json": {"schema": {"$ref": f"{_PLACE}{model.__name__}Shown"}}}}}


def listed(model: type[Model]) -> Answers:
    """An answer with several."""
    return {200: {"description": "A page of the collection.", "headers": _SPOKEN,
                  "content": {"application/json": {"schema": {"$ref": f"{_PLACE}{model.__name__}List"}}}}}


def answer(model: type[BaseModel], text: str = "Done.", status: int = 200) -> Answers:
    """An answer of a route of our own."""
    return {status: {"model": model, "description": text}}


def several(model: type[BaseModel]) -> Answers:
    """The same with all that there are."""
    results: Any = list[model]  # type: ignore[valid-type]
    return answer(create_model(f"{model.__name__}Listing", __config__=ConfigDict(extra="forbid"),
                               count=(int, Field(ge=0)), results=(results, ...), next=(str | None, None)),
                  "All of them.")


def components(kinds: Iterable[Kind]) -> Extra:
    """The schemas of objects that routes of *kinds* name."""
    made: Extra = {}
    for kind in kinds:
        name = kind.model.__name__
        for model in _within(kind.model):
            made.setdefault(model.__name__, _taken(model))
            made.setdefault(f"{model.__name__}Shown", _shown(model))
        said = {"uuid": {"type": "string"}, "url": {"type": "string"}, "_last_modified": {"type": "string"}}
        if kind.scoped:
            said["tenant_ref"] = {"type": "string", "description": _reference("tenant")}
        made[name]["properties"] |= said
        whole = made[f"{name}Shown"]
        whole["properties"] = said | whole["properties"]
        whole["required"] = ["uuid", "url"]
        made[f"{name}List"] = {
            "type": "object", "title": f"{name}List", "required": ["count", "results"], "additionalProperties": False,
            "properties": {"count": {"type": "integer", "minimum": 0, "description": "On all pages."},
                           "results": {"type": "array", "items": {"$ref": f"{_PLACE}{name}Shown"}},
                           "next": {"type": "string", "description": "The address of the next page."}}}
    return made


def _within(model: type[Model]) -> list[type[Model]]:
    """*model*, and those of its fields."""
    found = [model]
    for one in found:
        found += [each.inner for each in facts(one) if each.inner is not None and each.inner not in found]
    return list(dict.fromkeys(found))


def _taken(model: type[Model]) -> Extra:
    schema = _plain(model)
    for one in facts(model):
        said = schema["properties"][one.name]
        if one.computed:
            said = {"title": said.get("title", one.name), "readOnly": True}
        elif one.fixed and one.ref is None:
            said = {"title": said.get("title", one.name), "const": one.default}
        if one.secret:
            said["writeOnly"] = True
        if words := _words(one):
            said["description"] = words
        schema["properties"][one.name] = said
    return schema


def _shown(model: type[Model]) -> Extra:
    schema = _plain(model)
    schema.pop("required", None)
    schema.pop("additionalProperties", None)  # clients may ask for subresources, which stand beside the fields
    for one in facts(model):
        if one.secret:
            del schema["properties"][one.name]
        elif words := _words(one):
            schema["properties"][one.name]["description"] = words
    for inner in _within(model):
        named = f"{_PLACE}{inner.__name__}"
        schema = json.loads(json.dumps(schema).replace(f'"{named}"', f'"{named}Shown"'))
    return schema | {"title": f"{model.__name__}Shown"}


def _plain(model: type[Model]) -> Extra:
    """The schema of one model, without those of its fields."""
    schema = model.model_json_schema(ref_template=_PLACE + "{model}")
    schema.pop("$defs", None)
    schema.setdefault("properties", {})
    return schema


def _words(one: Facts) -> str:
    """What is to be known of a field beside its type."""
    said = [_reference(one.ref)] if one.ref is not None else []
    if one.fixed:
        said.append(f"Cannot be changed: {one.fixed}.")
    if one.computed:
        said.append("Said by the server; passed over when it is sent.")
    if one.secret:
        said.append("Taken in, never given out.")
    if one.since:
        said.append(f"Since {'.'.join(map(str, one.since))}.")
    return " ".join(said)


def _reference(kind: str) -> str:
    return f"A reference to a {kind}: /api/{kind}/UUID or /api/{kind}?name=NAME."
