"""``fairlead.toml`` in the state folder: written by the flags of ``init`` and ``join``, unknown keys refused."""

import tomllib
from pathlib import Path
from typing import TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from fairlead.base.errors import OperatorError
from fairlead.base.files import read_private, write_private

FILE = "fairlead.toml"


class Settings(BaseModel):
    """Base of a daemon's settings: strict, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Settings)


def load(state: Path, kind: type[S]) -> S:
    """The settings in *state*. Raises OperatorError: what is wrong, and where; FileNotFoundError: there are none."""
    path = state / FILE
    return decode(read_private(path), path, kind)


def decode(data: bytes, path: Path, kind: type[S]) -> S:
    """The settings of a file's content, found at *path*. Raises OperatorError FL-CONFIG."""
    try:
        return kind.model_validate(tomllib.loads(data.decode()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = "is not a setting" if first["type"] == "extra_forbidden" else str(first["msg"])
        raise OperatorError("FL-CONFIG", f"{path}: {where}: {what}", "mend it, or remove the line") from None
    except (ValueError, RecursionError) as error:  # the parser's own, a number of 5000 digits, a thousand brackets
        raise OperatorError("FL-CONFIG", f"{path} is not TOML: {error}", "mend it") from None


def encode(settings: Settings) -> bytes:
    """The content of a file that `decode` reads."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)).encode()


def save(state: Path, settings: Settings) -> None:
    """Write *settings* into *state*. Raises OperatorError."""
    write_private(state / FILE, encode(settings))
