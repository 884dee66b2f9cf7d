"""Which objects of a collection a request wants, and which page of them. Pure.

Only fields that are shown can be asked for: a filter on a secret would tell it piece by piece.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlead.base.errors import Refused, printable
from fairlead.objects.model import Item, Kind, facts, refs
from fairlead.objects.reference import UUID

PAGE = 200
MOST_PAGE = 1000
_OWN = frozenset(("page", "page_size", "fields", "include_name", "include_refs", "skip_default", "refers_to",
                  "referred_by", "join_subresources", "name", "uuid", "include", "sort", "tenant"))


@dataclass(frozen=True, slots=True)
class Selection:
    """What a query asks for."""

    page: int = 1
    page_size: int = PAGE
    fields: frozenset[str] | None = None
    include_name: bool = False
    skip_default: bool = False
    names: frozenset[str] = frozenset()
    uuids: frozenset[str] = frozenset()
    refers_to: tuple[str, str] | None = None
    referred_by: tuple[str, str] | None = None
    join: frozenset[str] = frozenset()
    """Subresources to be put into each object."""
    equal: Mapping[str, str] = field(default_factory=dict)
    """Values that fields have to have, by name."""
    through: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """``name`` or ``uuid`` of what a reference has to name, by field: ``cloud_ref.name=X``."""

    def page_of(self, items: Sequence[Any]) -> Sequence[Any]:
        """The wanted page of *items*; empty behind the last one."""
        return items[(self.page - 1) * self.page_size:self.page * self.page_size]

    def more(self, count: int) -> bool:
        """Whether another page follows."""
        return self.page * self.page_size < count


def parse(query: Sequence[tuple[str, str]], kind: Kind | None = None) -> Selection:
    """The selection of *query*, for objects of *kind*. Raises Refused FL-QUERY.

    Parameters that nobody knows are passed over, as clients of the public model send some of their own.
    """
    given = dict(query)
    found: dict[str, Any] = {
        "page": _number(given, "page", 1, 1_000_000), "page_size": _number(given, "page_size", PAGE, MOST_PAGE),
        "include_name": "include_name" in given, "skip_default": _truth(given, "skip_default")}
    if given.get("fields"):
        found["fields"] = frozenset(given["fields"].split(","))
    for name, kept in (("name", "names"), ("uuid", "uuids")):
        if name in given:
            found[kept] = frozenset((given[name],))
        if f"{name}.in" in given:
            found[kept] = frozenset(given[f"{name}.in"].split(","))
    for name in ("refers_to", "referred_by"):
        if name in given:
            path, colon, uuid = given[name].partition(":")
            if not colon or not UUID.fullmatch(uuid):
                raise Refused("FL-QUERY", f"{name}={printable(given[name], 80)!r} names no object",
                              f"use {name}=KIND:UUID")
            found[name] = (path, uuid)
    if given.get("join_subresources"):
        found["join"] = frozenset(given["join_subresources"].split(","))
    if kind is not None:
        found |= _filters(given, kind)
    return Selection(**found)


def _filters(given: Mapping[str, str], kind: Kind) -> dict[str, Any]:
    open_fields = {one.name: one for one in facts(kind.model) if not one.secret and one.inner is None}
    through: dict[str, tuple[str, str]] = {}
    for name, value in given.items():
        named, dot, by = name.partition(".")
        if dot and by in ("name", "uuid") and named in open_fields and open_fields[named].ref is not None:
            through[named] = (by, value)
    return {"through": through, "equal": {name: value for name, value in given.items()
                                          if name in open_fields and name not in _OWN}}


def matches(item: Item, wanted: Selection, name_of: Any) -> bool:
    """Whether *item* is one of those; *name_of(kind, uuid)*: what an object is called."""
    if wanted.names and item.name not in wanted.names:
        return False
    if wanted.uuids and item.uuid not in wanted.uuids:
        return False
    if wanted.refers_to is not None and wanted.refers_to not in set(refs(item.value)):
        return False
    for name, value in wanted.equal.items():
        said = getattr(item.value, name)
        text = str(said).lower() if isinstance(said, bool) else str(said)
        if text != (value.lower() if isinstance(said, bool) else value):
            return False
    for name, (by, value) in wanted.through.items():
        kind, _, uuid = str(getattr(item.value, name) or "").partition("/")
        if (uuid if by == "uuid" else name_of(kind, uuid)) != value:
            return False
    return True


def _number(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise Refused("FL-QUERY", f"{name}={printable(text, 40)!r} is no number of 1 to {most}", "")
    return int(text)


def _truth(given: Mapping[str, str], name: str) -> bool:
    return given.get(name, "false").lower() in ("true", "1", "yes")
