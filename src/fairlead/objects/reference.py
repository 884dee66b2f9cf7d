"""How one object names another one. Pure.

On the wire a reference is an absolute address, with the other's name behind a ``#`` when it was asked for; clients may
also send ``/api/KIND/UUID`` and ``/api/KIND?name=X``. In the store it is ``KIND/UUID``, whatever host and name the
client wrote: neither of them is believed.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from fairlead.base.errors import Refused, printable

UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,159}")
_PATH = re.compile(r"/?(?:api/)?([a-z]{1,64})(?:/([^/]*))?/?")
MOST = 2048


@dataclass(frozen=True, slots=True)
class Reference:
    """Another object, by one of both."""

    kind: str
    uuid: str = ""
    name: str = ""


def parse(text: str, kind: str) -> Reference:
    """What *text* names, which has to be of *kind*. Raises Refused FL-OBJECT-REF."""
    if len(text) <= MOST:
        try:
            parts = urlsplit(text)
            query = dict(parse_qsl(parts.query, strict_parsing=True, max_num_fields=8)) if parts.query else {}
        except ValueError:
            parts, query = urlsplit(""), {}
        found = _PATH.fullmatch(parts.path)
        if found and parts.scheme in ("", "https", "http"):
            if found[1] != kind:
                raise Refused("FL-OBJECT-REF", f"a reference to {printable(found[1], 80)} stands where one to {kind} "
                              "belongs", f"use /api/{kind}/UUID or /api/{kind}?name=NAME")
            if found[2] and UUID.fullmatch(found[2]):
                return Reference(kind, uuid=found[2])
            if not found[2] and query.get("name"):
                return Reference(kind, name=query["name"])
    raise Refused("FL-OBJECT-REF", f"{printable(text, 120)!r} is no reference to an object",
                  f"use /api/{kind}/UUID or /api/{kind}?name=NAME")


def kept(kind: str, uuid: str) -> str:
    """The reference as the store keeps it."""
    return f"{kind}/{uuid}"
