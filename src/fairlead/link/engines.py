"""What Controllers ask one another about engines: whose link is where, and what has come up of logs. Pure.

They are fields of the questions of `link.controllers`. Who asks is known from the connection's key; *by* is the person
whom that Controller let in, and goes on record with that Controller's name beside it.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base.errors import Refused
from fairlead.link.messages import MOST_RESULT

LINKED, COMMAND, STREAMS, LOGS, READ = (
    "engine-linked", "engine-command", "engine-streams", "engine-logs", "engine-logs-read")
MOST_READ = 128 * 1024
"""Bytes of logs in one answer: they go beside the questions of the cluster, and do not hold them up."""
MOST_PARTS = 1024
MOST_DEADLINE_S = 60.0
_SPOOL = "^[0-9a-f]{32}$"


class Fields(BaseModel):
    """Of a question, or of its answer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OfEngine(Fields):
    """`LINKED`, `STREAMS`: of the engine with that id."""

    engine: str = Field(max_length=64)


class Linked(Fields):
    """Whether the engine has a link that takes commands."""

    linked: bool


class Streams(Fields):
    """How many streams are open, at an engine and from it."""

    streams: int = Field(ge=0)


class CommandAsked(Fields):
    """`COMMAND`: have that engine do a word of the catalogue, for *by*."""

    engine: str = Field(max_length=64)
    word: str = Field(max_length=32)
    deadline_s: float = Field(gt=0, le=MOST_DEADLINE_S)
    by: str = Field(min_length=1, max_length=256)


class CommandDone(Fields):
    """Its answer, JSON as it came: what it nests is looked at where it is read."""

    result: str = Field(max_length=MOST_RESULT)


class LogsAsked(Fields):
    """`LOGS`: what is there of each spool from *offset* of *spool* on; an empty one: from the beginning of all."""

    engine: str = Field(max_length=64)
    spool: str = Field(pattern="^([0-9a-f]{32})?$")
    offset: int = Field(ge=0, lt=10**19)


class Part(Fields):
    """The first run of bytes of a spool that goes on after what was asked; from *end* to *end*: there is none."""

    spool: str = Field(pattern=_SPOOL)
    since: float = Field(ge=0, lt=2**40)
    """When the oldest file of that spool was written last, seconds: spools come one after another."""
    begin: int = Field(ge=0, lt=2**63)
    end: int = Field(ge=0, lt=2**63)


class Parts(Fields):
    """One for each spool."""

    parts: list[Part] = Field(max_length=MOST_PARTS)


class ReadAsked(Fields):
    """`READ`: bytes of a spool, from *offset* on."""

    engine: str = Field(max_length=64)
    spool: str = Field(pattern=_SPOOL)
    offset: int = Field(ge=0, lt=2**63)


class Read(Fields):
    """They, in base64; none when they have gone meanwhile."""

    data: str = Field(max_length=MOST_READ * 2, repr=False)


F = TypeVar("F", bound=Fields)


def parse(form: type[F], fields: dict[str, Any]) -> F:
    """The fields as that *form* has them. Raises Refused FL-PEER-QUESTION."""
    try:
        return form.model_validate(fields)
    except ValidationError:
        raise Refused("FL-PEER-QUESTION", "a question about an engine, or its answer, that cannot be understood",
                      "both must run versions of fairlead that fit") from None
