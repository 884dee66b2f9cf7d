"""The manifest: which version a bundle brings, for whom, from which one on, and the files that it consists of. Pure.

Rules, and the attack each stops:

1. A path is relative and made of plain letters: no absolute, dotted or hidden part, no backslash, control or foreign
   character. So no file is written anywhere else, on no file system.
2. Paths differ also where capitals, compatibility forms or a folder of the same name are one to a file system: no file
   takes another one's place.
3. A manifest has one spelling, and all is bounded: what is understood is what was signed, and nothing else.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from fairlead.base import strict
from fairlead.base.errors import Refused

FORMAT = 1
NAME = "manifest.json"
ROLES = ("controller", "engine")
MOST_BYTES = 512 * 1024
MOST_FILES = 1000
MOST_FILE_BYTES = 1 << 30
MOST_NUMBER = 1 << 31
MOST_PATH = 200
MOST_DEPTH = 16

_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8})){2}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    """One file of the payload."""

    path: str
    """Relative, checked; a wheel's ends with .whl."""
    size: int
    """Bytes."""
    sha256: str
    """Hex, small letters."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle brings."""

    version: str
    minimum: str
    """The oldest version that may go over to this one."""
    roles: tuple[str, ...]
    """Of the nodes that it is for; sorted."""
    counter: int
    """Security counter: a node never goes below the highest that it has seen."""
    files: tuple[File, ...]
    """Sorted by path."""


def parts(version: str) -> tuple[int, ...]:
    """The numbers of ``1.2.3``, to be compared. Raises Refused FL-UPGRADE-VERSION."""
    if not _VERSION.fullmatch(version):
        raise Refused("FL-UPGRADE-VERSION", f"{version[:40]!r} is no version", "use three numbers: 1.2.3")
    return tuple(int(number) for number in version.split("."))


def encode(manifest: Manifest) -> bytes:
    """The one spelling of *manifest*."""
    return json.dumps({
        "format": FORMAT, "version": manifest.version, "minimum": manifest.minimum, "roles": list(manifest.roles),
        "counter": manifest.counter,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in manifest.files],
    }, sort_keys=True, separators=(",", ":")).encode()


def decode(data: bytes) -> Manifest:
    """The manifest of its bytes. Raises Refused FL-UPGRADE-MANIFEST."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("too large")
        fields = strict.loads(data)
        manifest = Manifest(_text(fields["version"]), _text(fields["minimum"]), tuple(map(_text, fields["roles"])),
                            _number(fields["counter"], MOST_NUMBER),
                            tuple(File(_text(f["path"]), _number(f["size"], MOST_FILE_BYTES), _text(f["sha256"]))
                                  for f in fields["files"]))
        check(manifest)
        if encode(manifest) != data:
            raise ValueError("another spelling, or fields that are not known")
    except (Refused, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused("FL-UPGRADE-MANIFEST", f"the bundle's manifest cannot be used: {error}",
                      "have the bundle built again, with a fairlead that fits this one") from None
    return manifest


def check(manifest: Manifest) -> None:
    """Whether a bundle may say so. Raises ValueError, and Refused FL-UPGRADE-VERSION."""
    if parts(manifest.minimum) > parts(manifest.version):
        raise ValueError(f"the minimum {manifest.minimum} is above the version {manifest.version}")
    roles = manifest.roles
    if not roles or list(roles) != sorted(set(roles)) or not set(roles) <= set(ROLES):
        raise ValueError(f"roles are {' and '.join(ROLES)}, each once")
    paths = [file.path for file in manifest.files]
    if not paths or len(paths) > MOST_FILES or paths != sorted(paths):
        raise ValueError(f"between one and {MOST_FILES} files, sorted")
    for file in manifest.files:
        check_path(file.path)
        if not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"the hash of {file.path} is none")
    distinct([NAME, *paths])


def check_path(path: str) -> None:
    """Whether *path* may name a file of the payload. Raises ValueError."""
    pieces = path.split("/")
    if len(path) > MOST_PATH or len(pieces) > MOST_DEPTH or not all(map(_PART.fullmatch, pieces)):
        raise ValueError(f"{path[:80]!r} is no path for a bundle: relative, at most {MOST_PATH} characters and "
                         f"{MOST_DEPTH} folders deep, of letters, digits and _ . + @ = - (not first: . + @ = -)")
    if any(piece.endswith(".") for piece in pieces):
        raise ValueError(f"{path[:80]!r} ends a name with a dot")


def distinct(paths: Iterable[str]) -> None:
    """Whether *paths* are files side by side on every file system. Raises ValueError."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        pieces = path.split("/")
        plain = folded(path)
        if plain in files or plain in folders:
            other = files.get(plain) or folders[plain]
            raise ValueError(f"{path[:80]!r} and {other[:80]!r} are one to a file system")
        files[plain] = path
        for depth in range(1, len(pieces)):
            folder = "/".join(pieces[:depth])
            plain = folded(folder)
            if plain in files or folders.setdefault(plain, folder) != folder:
                raise ValueError(f"the folder {folder[:80]!r} and {(files.get(plain) or folders[plain])[:80]!r} are "
                                 "one to a file system")


def folded(path: str) -> str:
    """*path* without what file systems do not tell apart: capitals, compatibility forms, composition."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    return value


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError("a number is none, or out of bounds")
    return value
