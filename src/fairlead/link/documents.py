"""Configuration documents as both sides know them: what a body of each kind holds, and what is not taken. Pure.

A Controller refuses a body that no engine could take; the engine checks it again, and its driver has the last word.

Rules, and the attack each stops:

1. A document names no program, and no folder but by the name under which the engine's own settings declare it: who may
   write documents, or a Controller in wrong hands, runs nothing on an engine and writes nowhere else.
2. Every text that is put into another program's configuration has a form of its own, without blanks, quotes and ends of
   lines: no value becomes a directive.
3. A path is made of plain names, downwards only.
"""

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fairlead.base import strict
from fairlead.base.errors import Refused, printable

MOST_BYTES = 256 * 1024
"""Of a body."""
MOST_DOCUMENTS = 256
"""Of one engine."""

QUOTED = 24
"""Characters of what a refusal repeats: it may be a secret that was pasted in the wrong place."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_HEALTH_PATH = re.compile(r"/[A-Za-z0-9._~/%?=&-]{0,200}")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _path(text: str) -> str:
    parts = text.split("/")
    if len(parts) > 4 or not all(map(_PART.fullmatch, parts)):
        raise ValueError("a path is one to four names of letters, digits, '.', '_' and '-', with '/' between them")
    return text


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError("a name is made of letters, digits, '.', '_' and '-'")
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    if "%" in host:  # the name of an interface, at which nobody looks: anything may stand there
        raise ValueError("an address has no interface")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("an address is IP:PORT")
    return f"[{address}]:{int(port)}" if address.version == 6 else f"{address}:{int(port)}"


def _health_path(text: str) -> str:
    if not _HEALTH_PATH.fullmatch(text):  # the whole of it: a model's `pattern` looks for it anywhere
        raise ValueError("a health path begins with '/' and has letters, digits and ._~/%?=&- only")
    return text


HealthPath = Annotated[str, AfterValidator(_health_path)]
Path = Annotated[str, Field(max_length=400), AfterValidator(_path)]
Word = Annotated[str, AfterValidator(_word)]
Address = Annotated[str, Field(max_length=64), AfterValidator(_address)]
"""``IPV4:PORT`` or ``[IPV6]:PORT``."""


class File(_Body):
    """A file that a document brings."""

    path: Path
    """Below the destination."""
    content: str | None = None
    content_base64: str | None = None
    mode: Literal["0600", "0640", "0644", "0700", "0750", "0755"] = "0644"

    @model_validator(mode="after")
    def _one_content(self) -> "File":
        if (self.content is None) == (self.content_base64 is None):
            raise ValueError("give one of content and content_base64")
        try:
            base64.b64decode(self.content_base64 or "", validate=True)
        except binascii.Error:
            raise ValueError("content_base64 is not base64") from None
        return self

    @property
    def data(self) -> bytes:
        """What is in it."""
        return self.content.encode() if self.content is not None else base64.b64decode(self.content_base64 or "")


class Files(_Body):
    """Kind ``files``: files that belong together, at a destination that the engine declares."""

    destination: Word = "state"
    """Its name in the engine's settings; ``state`` is the folder ``files`` in the engine's state folder."""
    files: Annotated[list[File], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _distinct(self) -> "Files":
        paths = [file.path for file in self.files]
        if len(set(paths)) < len(paths) or any(one.startswith(f"{other}/") for one in paths for other in paths):
            raise ValueError("two files have the same path, or one is the folder of another")
        return self


class Server(_Body):
    """Where a back end sends what comes: an address of the engine's network, or a service of the mesh."""

    name: Word
    address: Address | None = None
    service: Word | None = None
    """A service that the engine may reach: its address is what the engine's plan says."""
    owner: Word | None = None
    """Which owner's, where several nodes own the service."""
    weight: Annotated[int, Field(ge=0, le=256)] = 100
    check: bool = True

    @model_validator(mode="after")
    def _one_place(self) -> "Server":
        if (self.address is None) == (self.service is None) or (self.owner is not None and self.service is None):
            raise ValueError("give one of address and service; an owner belongs to a service")
        return self


class BackEnd(_Body):
    """Servers that do the same."""

    name: Word
    mode: Literal["tcp", "http"] = "tcp"
    balance: Literal["roundrobin", "leastconn", "source"] = "roundrobin"
    health_path: HealthPath | None = None
    """Asked for by HTTP to see whether a server is well; without it a connection is enough."""
    servers: Annotated[list[Server], Field(min_length=1, max_length=256)]


class Listener(_Body):
    """Where somebody may connect."""

    name: Word
    bind: Annotated[list[Address], Field(min_length=1, max_length=16)]
    mode: Literal["tcp", "http"] = "tcp"
    back_end: Word
    most_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class Timeouts(_Body):
    """Seconds."""

    connect: Annotated[float, Field(gt=0, le=3600)] = 5.0
    client: Annotated[float, Field(gt=0, le=86400)] = 60.0
    server: Annotated[float, Field(gt=0, le=86400)] = 60.0


class Haproxy(_Body):
    """Kind ``haproxy``: listeners and back ends of the engine's HAProxy."""

    listeners: Annotated[list[Listener], Field(max_length=256)] = Field(default_factory=list)
    back_ends: Annotated[list[BackEnd], Field(max_length=256)] = Field(default_factory=list)
    timeouts: Timeouts = Field(default_factory=Timeouts)

    @model_validator(mode="after")
    def _fits(self) -> "Haproxy":
        for names in ([one.name for one in self.listeners], [one.name for one in self.back_ends],
                      *([server.name for server in one.servers] for one in self.back_ends)):
            if len(set(names)) < len(names):
                raise ValueError("a name is there twice")
        modes = {one.name: one.mode for one in self.back_ends}
        for listener in self.listeners:
            if modes.get(listener.back_end) != listener.mode:
                raise ValueError(f"listener {listener.name} needs a back end {listener.back_end} of mode "
                                 f"{listener.mode}")
        binds = [bind for listener in self.listeners for bind in listener.bind]
        if len(set(binds)) < len(binds):
            raise ValueError("two listeners bind the same address")
        return self


BODIES: dict[str, type[_Body]] = {"files": Files, "haproxy": Haproxy}
"""Every kind of document, by the name of the driver that applies it."""


def check(kind: str, body: Any) -> str:
    """The one text of *body*, which is fit for *kind*. Raises Refused FL-DOCUMENT-KIND, FL-DOCUMENT, -SIZE."""
    text = _model(kind, body).model_dump_json(exclude_defaults=True)
    _check_size(text)
    return text


def read(kind: str, text: str) -> Any:
    """The body (`Files`, `Haproxy`) of a *text* that `check` has made. Raises Refused as `check` does."""
    _check_size(text)
    try:
        found = strict.loads(text.encode())
    except ValueError:
        raise Refused("FL-DOCUMENT", "the document is not JSON", "put it again") from None
    return _model(kind, found)


def _model(kind: str, body: Any) -> _Body:
    model = BODIES.get(kind)
    if model is None:
        raise Refused("FL-DOCUMENT-KIND", f"there is no kind {printable(kind, QUOTED)!r} of documents",
                      f"use one of {', '.join(sorted(BODIES))}")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = "is not a field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise Refused("FL-DOCUMENT", f"the document's {printable(where, 120) or 'body'}: {printable(what, 300)}",
                      "see the guide's page about documents") from None


def _check_size(text: str) -> None:
    if len(text.encode()) > MOST_BYTES:
        raise Refused("FL-DOCUMENT-SIZE", f"the document has more than {MOST_BYTES} bytes", "split it")


def digest(text: str) -> str:
    """By which a body is known, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def shown(text: str) -> Any:
    """The body of a text as people read it."""
    return json.loads(text)
