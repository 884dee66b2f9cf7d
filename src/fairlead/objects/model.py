"""How the objects of the public model say what their fields are. Pure.

A kind's fields are those of a pydantic model below `Model`, with what the wire needs beside the type: `Ref` for fields
that name other objects, `Since` for fields that older clients are not shown, `Computed` for what only the server says,
`Secret` for what is taken in and never given out, `Fixed` for what can have its default value only, with the reason.
"""

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from fairlead.base.errors import Refused, printable
from fairlead.base.version import PUBLIC_MODEL

Version = tuple[int, ...]
NEWEST = PUBLIC_MODEL
OLDEST = "15.2"
UNSAID = "16.4.2"
"""What a client that says no version is shown."""
_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,5}){1,3}")
MOST_DEPTH = 24
MOST_ENTRIES = 10_000
_SECRET = re.compile(r"(?i)password|passphrase|passwd|secret|credential|community|token$|_keys?$")


@dataclass(frozen=True, slots=True)
class Ref:
    """The field names an object of *kind*, or several."""

    kind: str


@dataclass(frozen=True, slots=True)
class Since:
    """The field is shown to clients of this release and newer ones."""

    version: str


@dataclass(frozen=True, slots=True)
class Computed:
    """Only the server says it: what a client sends is passed over, so that what was read can be sent back."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Taken in, and never given out."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Nothing but its default value is taken."""

    reason: str


class Model(BaseModel):
    """Fields that are known by name; another one is refused. What was refused is never shown: it may be a secret."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True, ser_json_inf_nan="constants",
                              allow_inf_nan=False)


class Open(Model):
    """A model whose kind has fields that do not concern fairlead: they are kept as they are given, without effect."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one field."""

    name: str
    default: Any
    ref: str | None = None
    since: Version = ()
    computed: bool = False
    secret: bool = False
    fixed: str = ""
    inner: type[Model] | None = None
    """The model of its value, or of its value's items."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object as it stands."""

    uuid: str
    value: Model
    modified: int = 0
    """Store time, microseconds."""
    tenant: str = ""
    """The uuid of its tenant, for kinds that have one."""
    sealed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets of it as the store keeps them, by field."""

    @property
    def name(self) -> str:
        """What people call it; empty for what has no name."""
        return str(getattr(self.value, "name", "") or "")


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of objects."""

    path: str
    """As addresses name it: ``sslkeyandcertificate``."""
    title: str
    """As errors name it: ``SSLKeyAndCertificate``."""
    model: type[Model]
    permission: str
    """``X`` for the permissions ``X:read`` and ``X:write``."""
    singleton: str | None = None
    """The uuid of the only one."""
    scoped: bool = False
    """Whether each belongs to a tenant."""
    methods: frozenset[str] = frozenset(("POST", "PUT", "PATCH", "DELETE"))
    """By what its objects may be changed."""
    also: tuple[str, ...] = ()
    """Older paths of it."""


@cache
def facts(model: type[Model]) -> tuple[Facts, ...]:
    """What is known of the fields of *model*, in their order."""
    return tuple(_facts(name, info) for name, info in model.model_fields.items())


def read(kind: Kind, fields: Mapping[str, Any]) -> Model:
    """The value that a client's *fields* make. Raises Refused FL-OBJECT-FIELD, FL-OBJECT-FIXED."""
    _check_shape(fields)
    taken = _taken(kind.model, fields)
    try:
        value = kind.model.model_validate(taken)
    except ValidationError as error:
        raise _malformed(kind, error) from None
    _check_fixed(value, kind.title)
    if not str(getattr(value, "name", "") or "").isprintable():
        raise Refused("FL-OBJECT-FIELD", f"{kind.title}.name has a character that cannot be printed", "leave it out")
    return value


def _check_shape(value: Any, left: int = MOST_DEPTH) -> None:
    """Whether an object is no deeper and no wider than any that is meant. Raises Refused FL-OBJECT-FIELD."""
    if not isinstance(value, Mapping | list):
        return
    if left == 0 or len(value) > MOST_ENTRIES:
        raise Refused("FL-OBJECT-FIELD", f"the object nests deeper than {MOST_DEPTH} levels, or has more than "
                      f"{MOST_ENTRIES} entries in one place", "make it simpler")
    for one in value.values() if isinstance(value, Mapping) else value:
        _check_shape(one, left - 1)


def _check_fixed(value: Model, where: str) -> None:
    for one in facts(type(value)):
        said = getattr(value, one.name)
        if one.fixed and said != one.default:
            raise Refused("FL-OBJECT-FIXED", f"{where}.{one.name} cannot be changed here: {one.fixed}",
                          "leave the field out")
        for each in said if isinstance(said, list | tuple) else (said,):
            if isinstance(each, Model):
                _check_fixed(each, f"{where}.{one.name}")


def _bare(value: Any) -> Any:
    """What does not concern us is kept, but for secrets in it: nobody here needs them, and many may read them."""
    if isinstance(value, Mapping):
        hidden = value.get("is_sensitive") is True
        return {name: _bare(said) for name, said in value.items()
                if not _SECRET.search(str(name)) and not (hidden and name == "value")}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _taken(model: type[Model], fields: Mapping[str, Any]) -> dict[str, Any]:
    """*fields* without what only the server says, at every level."""
    known = {one.name: one for one in facts(model)}
    taken: dict[str, Any] = {}
    for name, value in fields.items():
        one = known.get(name)
        if one is None:
            if not (_SECRET.search(name) and issubclass(model, Open)):
                taken[name] = _bare(value)
        elif one.inner is None:
            if not one.computed:
                taken[name] = value if one.secret or isinstance(value, str) else _bare(value)
        elif isinstance(value, list):
            taken[name] = [_taken(one.inner, each) if isinstance(each, Mapping) else each for each in value]
        else:
            taken[name] = _taken(one.inner, value) if isinstance(value, Mapping) else value
    return taken


def refs(value: Model) -> Iterator[tuple[str, str]]:
    """Kind and uuid of everything that *value* names."""
    for one in facts(type(value)):
        said = getattr(value, one.name)
        for each in said if isinstance(said, list | tuple) else (said,):
            if each is None:
                continue
            if one.ref is not None:
                kind, _, uuid = str(each).partition("/")
                yield kind, uuid
            elif isinstance(each, Model):
                yield from refs(each)


def version_of(text: str | None) -> Version:
    """The release of the public model that a client speaks. Raises Refused FL-API-VERSION."""
    if text is None:
        return parts(UNSAID)
    if not _VERSION.fullmatch(text) or parts(text) < parts(OLDEST):
        raise Refused("FL-API-VERSION", f"Invalid version {printable(text, 40)!r} in X-Avi-Version",
                      f"use {OLDEST} to {NEWEST}")
    return parts(text)


def parts(text: str) -> Version:
    """The numbers of a release."""
    return tuple(int(part) for part in text.split("."))


def _facts(name: str, info: FieldInfo) -> Facts:
    found: dict[str, Any] = {}
    for one in info.metadata:
        match one:
            case Ref(kind):
                found["ref"] = kind
            case Since(version):
                found["since"] = parts(version)
            case Computed():
                found["computed"] = True
            case Secret():
                found["secret"] = True
            case Fixed(reason):
                found["fixed"] = reason
    return Facts(name, info.get_default(call_default_factory=True) if not info.is_required() else None,
                 inner=_model_in(info.annotation), **found)


def _model_in(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    if get_origin(annotation) in (list, tuple, Union, types.UnionType):
        return next((found for one in get_args(annotation) if (found := _model_in(one))), None)
    return None


def _malformed(kind: Kind, error: ValidationError) -> Refused:
    first = error.errors()[0]
    where = printable(".".join(str(part) for part in first["loc"]), 200)
    if first["type"] == "extra_forbidden":
        return Refused("FL-OBJECT-FIELD", f"{kind.title} has no field {where!r}", "leave it out")
    return Refused("FL-OBJECT-FIELD", f"{kind.title}.{where}: {first['msg']}",
                   "see what GET shows, or the description of the API")
