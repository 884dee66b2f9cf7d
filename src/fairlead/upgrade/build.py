"""Making a bundle: the same keys, payload and time give the same bytes.

The number of a bundle is the version of its timestamp, snapshot and targets. It is one above the last that was built
with this folder of keys; whoever builds the very same again gets the same number, and so the same bytes.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from tuf.api.metadata import MetaFile, Snapshot, TargetFile, Targets, Timestamp

from fairlead.base.errors import OperatorError
from fairlead.upgrade import manifest as manifests
from fairlead.upgrade.container import END, PIECE, header, padding
from fairlead.upgrade.keys import Keys, Last
from fairlead.upgrade.manifest import File, Manifest
from fairlead.upgrade.verify import MOST_TARGETS_BYTES, MOST_TOTAL_BYTES, place


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bundle is to be."""

    version: str
    minimum: str
    roles: tuple[str, ...]
    counter: int | None
    """None: as in the last bundle."""
    expires: datetime
    payload: tuple[tuple[str, Path], ...]
    """The path in the bundle, and where it is."""


def gather(payload: Sequence[Path]) -> tuple[tuple[str, Path], ...]:
    """All files of *payload*: a file under its name, a folder's content under its path in the folder.

    Raises OperatorError FL-UPGRADE-PAYLOAD.
    """
    found: list[tuple[str, Path]] = []
    for one in payload:
        try:
            found += _gathered(one)
        except OSError as error:
            raise _payload(f"{error.filename or one} cannot be read: {error.strerror}",
                           "name files and folders that can be") from None
    if not found:
        raise _payload("there is no file in it", "name files, or folders with files in them")
    return tuple(sorted(found))


def _gathered(one: Path) -> Iterator[tuple[str, Path]]:
    """Raises OSError."""
    if one.is_dir():
        for folder, folders, names in os.walk(one, onerror=_raised):
            for path in (Path(folder, name) for name in (*folders, *names)):
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    raise _payload(f"{path} is a link, a device or the like", "a bundle has plain files only")
                if path.is_file():
                    yield path.relative_to(one).as_posix(), path
    elif one.is_file():
        yield one.name, one
    else:
        raise _payload(f"{one} is no file and no folder", "name what is to be in the bundle")


def _raised(error: OSError) -> None:
    """A folder that cannot be read is not passed over."""
    raise error


def build(output: Path, keys: Keys, plan: Plan) -> Manifest:
    """Write the bundle to *output*, whole or not at all; what it holds.

    Raises OperatorError FL-UPGRADE-PAYLOAD, -KEYS, FL-DISK; Refused FL-UPGRADE-VERSION.
    """
    last = keys.last()
    counter = last.counter if plan.counter is None else plan.counter
    if counter < last.counter:
        raise _payload(f"the security counter {counter} is below the last one, {last.counter}",
                       "it never goes down: nodes would refuse the bundle")
    files = tuple(File(path, *_measured(where)) for path, where in plan.payload)
    manifest = Manifest(plan.version, plan.minimum, tuple(sorted(set(plan.roles))), counter, files)
    try:
        manifests.check(manifest)
    except ValueError as error:
        raise _payload(str(error), "rename or leave out what cannot be in a bundle") from None
    if any(f.size > manifests.MOST_FILE_BYTES for f in files) or sum(f.size for f in files) > MOST_TOTAL_BYTES:
        raise _payload("it is too large",
                       f"at most {manifests.MOST_FILE_BYTES} bytes a file, {MOST_TOTAL_BYTES} in all")
    listing = manifests.encode(manifest)
    content = hashlib.sha256(keys.roots[-1] + listing + plan.expires.isoformat().encode()).hexdigest()
    number = last.number if content == last.content else last.number + 1
    metadata = _metadata(keys, listing, files, number, plan.expires)
    keys.remember(Last(number, content, counter))  # first: a number that was used once is never used for another
    _write(output, metadata, listing, zip(files, (where for _, where in plan.payload), strict=True))
    return manifest


def _metadata(keys: Keys, listing: bytes, files: Sequence[File], number: int, expires: datetime
              ) -> list[tuple[str, bytes]]:
    """All signed parts, by their names, in their order."""
    named = {file.path: TargetFile(file.size, {"sha256": file.sha256}, file.path) for file in files}
    named[manifests.NAME] = TargetFile(len(listing), {"sha256": hashlib.sha256(listing).hexdigest()}, manifests.NAME)
    targets = keys.sign(Targets(version=number, expires=expires, targets=named))
    if len(targets) > MOST_TARGETS_BYTES:
        raise _payload("it has too many files", "put them into a wheel")
    snapshot = keys.sign(Snapshot(version=number, expires=expires, meta={"targets.json": _meta(number, targets)}))
    timestamp = keys.sign(Timestamp(version=number, expires=expires, snapshot_meta=_meta(number, snapshot)))
    return [*((f"metadata/{at}.root.json", root) for at, root in enumerate(keys.roots, 1)),
            ("metadata/timestamp.json", timestamp), (f"metadata/{number}.snapshot.json", snapshot),
            (f"metadata/{number}.targets.json", targets)]


def _meta(number: int, data: bytes) -> MetaFile:
    return MetaFile(number, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _write(output: Path, metadata: Sequence[tuple[str, bytes]], listing: bytes,
           files: "zip[tuple[File, Path]]") -> None:
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
        with os.fdopen(handle, "wb") as out:
            for name, data in [*metadata, (place(manifests.NAME, hashlib.sha256(listing).hexdigest()), listing)]:
                out.write(header(name, len(data)) + data + bytes(padding(len(data))))
            for file, where in files:
                out.write(header(place(file.path, file.sha256), file.size))
                _copy(where, file, out)
                out.write(bytes(padding(file.size)))
            out.write(END)
            out.flush()
            os.fchmod(out.fileno(), 0o644)
            os.fsync(out.fileno())
        Path(temporary).replace(output)
        temporary = ""
    except OSError as error:
        raise OperatorError("FL-DISK", f"{output} cannot be written: {error.strerror}",
                            "free some space or mend the disk, then repeat the command") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _copy(where: Path, file: File, out: BinaryIO) -> None:
    digest, left = hashlib.sha256(), file.size
    with where.open("rb") as source:
        while piece := source.read(min(PIECE, left)):
            digest.update(piece)
            out.write(piece)
            left -= len(piece)
    if left or digest.hexdigest() != file.sha256:
        raise _payload(f"{where} has changed meanwhile", "repeat the command when nothing writes to it")


def _measured(where: Path) -> tuple[int, str]:
    try:
        with where.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256")
            return source.tell(), digest.hexdigest()
    except OSError as error:
        raise _payload(f"{where} cannot be read: {error.strerror}", "check its permissions") from None


def _payload(why: str, remedy: str) -> OperatorError:
    return OperatorError("FL-UPGRADE-PAYLOAD", f"no bundle can be made of it: {why}", remedy)


