"""Taking a wheel apart, entry by entry, as `pip install --target` would: into one folder, without its scripts.

Rules, and the attack each stops:

1. Regular files only, under relative, clean names: no link, device, absolute or dotted path, backslash, NUL, control
   character or drive. Two names that are one to some file system are refused, across all wheels of a bundle.
2. The directory at the end and the headers in front of the entries say the same, no two entries share bytes, and none
   is hidden before, between or behind them: no second reading of the archive exists.
3. Sizes, counts, depths and ratios are bounded, by what is said before anything is inflated, and by what comes then.
4. RECORD names each file with its SHA-256, and nothing else: the wheel is the one that its author packed.
5. A wheel is for this Python and this machine, or it is refused before anything runs.
"""

import base64
import contextlib
import csv
import hashlib
import io
import os
import re
import stat
import struct
import sys
import sysconfig
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fairlead.base.errors import Refused
from fairlead.upgrade.manifest import distinct

MOST_ENTRIES = 20_000
MOST_ENTRY_BYTES = 1 << 29
MOST_BYTES = 2 << 30
MOST_DIRECTORY_BYTES = 8 << 20
MOST_RATIO = 100
"""Inflated to stored bytes, above the first MiB of an entry."""
MOST_PATH_BYTES = 400
MOST_PART_BYTES = 200
MOST_DEPTH = 24
PIECE = 1 << 18
FREE = 1 << 20
"""What an entry may inflate to at any ratio, bytes."""

_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\3\4"
_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\5\6"
_ENCRYPTED, _STREAMED = 0x1, 0x8
_UNUSED = ("scripts", "headers", "data")
_NAME = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.!+]+)(?:-[0-9][A-Za-z0-9_.]*)?-([a-z0-9_.]+)-([a-z0-9_.]+)"
                   r"-([A-Za-z0-9_.]+)\.whl")


@dataclass(slots=True)
class Room:
    """What may still be written, for all wheels of a bundle together."""

    bytes_left: int = MOST_BYTES
    entries_left: int = MOST_ENTRIES


class Wheel:
    """A wheel whose entries have been checked, and none inflated. Raises Refused FL-UPGRADE-WHEEL."""

    def __init__(self, name: str, file: BinaryIO, room: Room) -> None:
        self.name = name
        self._file = file
        self._room = room
        self._dist = for_this_machine(name)
        with self._named():
            _checked_end(file, room)
            self._zip = zipfile.ZipFile(file)
            self.entries = {info.filename: info for info in self._checked(self._zip.infolist())}
            self._record = self._recorded()
            targets = [target for path in self.entries if (target := self._target(path)) is not None]
            distinct(targets)
            self.targets: list[str] = targets

    def unpack(self, write: Callable[[str, Iterator[bytes]], None]) -> None:
        """Hand each file of the wheel, with where it belongs, to *write*; its hash is compared as it passes.

        Raises Refused FL-UPGRADE-WHEEL, and what *write* raises.
        """
        for path, info in self.entries.items():
            target = self._target(path)
            with self._named():
                pieces = self._inflated(path, info)
                if target is None:
                    for _ in pieces:
                        pass
                else:
                    write(target, pieces)

    def _checked(self, found: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
        self._room.entries_left -= len(found)
        kept: list[zipfile.ZipInfo] = []
        at: int = 0
        for info in sorted(found, key=lambda one: one.header_offset):
            _checked_entry(info)
            at = self._beside(info, at)
            self._room.bytes_left -= info.file_size
            if self._room.bytes_left < 0:
                raise ValueError(f"more than {MOST_BYTES} bytes when inflated")
            if not info.is_dir():
                kept.append(info)
        if at != self._zip.start_dir:
            raise ValueError("something lies between its entries and its directory")
        if len({info.filename for info in kept}) != len(kept):
            raise ValueError("a name comes twice")
        return kept

    def _beside(self, info: zipfile.ZipInfo, at: int) -> int:
        """Where *info* ends, which begins at *at* with a header that says what the directory says."""
        if info.header_offset != at:
            raise ValueError(f"{info.filename!r} does not begin where the entry before it ends")
        self._file.seek(at)
        magic, _, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL.unpack(
            self._file.read(_LOCAL.size))
        name = self._file.read(name_length)
        sizes = (info.CRC, info.compress_size, info.file_size)
        if (magic, flags, method, (crc, stored, size)) != (_LOCAL_MAGIC, info.flag_bits, info.compress_type, sizes):
            raise ValueError(f"{info.filename!r} says one thing in front of it and another in the directory")
        if name != info.filename.encode("utf-8" if flags & 0x800 else "cp437"):
            raise ValueError(f"{info.filename!r} has another name in front of it")
        return int(at + _LOCAL.size + name_length + extra_length + info.compress_size)

    def _recorded(self) -> dict[str, tuple[str, int]]:
        """SHA-256 (unpadded base64) and size by path, of RECORD."""
        folders = {path.split("/")[0] for path in self.entries if path.split("/")[0].endswith(".dist-info")}
        if len(folders) != 1 or _plain(next(iter(folders)).removesuffix(".dist-info")) != _plain(self._dist):
            raise ValueError("it has no .dist-info of its own name, or others too")
        path = f"{folders.pop()}/RECORD"
        if path not in self.entries or self.entries[path].file_size > FREE * 4:
            raise ValueError("it has no RECORD, or a huge one")
        found: dict[str, tuple[str, int]] = {}
        text = b"".join(self._read(self.entries[path])).decode()
        for row in csv.reader(io.StringIO(text, newline="")):
            name, digest, size = row
            if name in found:
                raise ValueError(f"RECORD names {name[:80]!r} twice")
            found[name] = (digest, int(size) if size else -1)
        unsigned = {path, f"{path}.jws", f"{path}.p7s"}
        if found.keys() - unsigned != self.entries.keys() - unsigned:
            one = min((found.keys() ^ self.entries.keys()) - unsigned)
            raise ValueError(f"{one[:80]!r} is in RECORD or in the wheel, and not in both")
        self._unsigned = unsigned
        return found

    def _inflated(self, path: str, info: zipfile.ZipInfo) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        for piece in self._read(info):
            digest.update(piece)
            size += len(piece)
            yield piece
        if path not in self._unsigned:
            text = "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            if (text, size) != self._record[path]:
                raise ValueError(f"{path[:80]!r} is not what RECORD says")

    def _read(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        left = info.file_size
        with self._zip.open(info) as source:
            while piece := source.read(PIECE):
                left -= len(piece)
                if left < 0:
                    raise ValueError(f"{info.filename!r} inflates to more than it says")
                yield piece
        if left:
            raise ValueError(f"{info.filename!r} inflates to less than it says")

    def _target(self, path: str) -> str | None:
        """Where *path* belongs; None for what only an installation for people has: scripts, headers, data."""
        top, slash, rest = path.partition("/")
        if not top.endswith(".data"):
            return path
        scheme, _, inner = rest.partition("/")
        if _plain(top.removesuffix(".data")) != _plain(self._dist) or not slash or not inner:
            raise ValueError(f"{path[:80]!r} is of another wheel's data")
        if scheme in {"purelib", "platlib"}:
            return inner
        if scheme in _UNUSED:
            return None
        raise ValueError(f"{path[:80]!r} belongs to no place that a wheel knows")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError, struct.error, csv.Error, EOFError, zlib.error, zipfile.BadZipFile,
                NotImplementedError, RuntimeError, OverflowError) as error:
            raise _refused(self.name, str(error)) from None


def for_this_machine(name: str) -> str:
    """``name-version`` of a wheel that this Python on this machine can load. Raises Refused FL-UPGRADE-WHEEL.

    Which libc it needs is not looked at: the version that does not start goes back by itself.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise _refused(name, "its name is none for a wheel")
    dist, version, pythons, abis, platforms = found.groups()
    if not (any(_python(tag, abi) for tag in pythons.split(".") for abi in abis.split("."))
            and any(map(_platform, platforms.split(".")))):
        here = f"cp{sys.version_info[0]}{sys.version_info[1]}, {sysconfig.get_platform()}"
        raise _refused(name, f"it is for {pythons}-{abis}-{platforms}, and this is {here}")
    return f"{dist}-{version}"


def _python(tag: str, abi: str) -> bool:
    major, minor = sys.version_info[:2]
    kind, number = tag[:2], tag[2:]
    if kind not in {"py", "cp"} or not number.isdigit() or int(number[0]) != major:
        return False
    newest = int(number[1:] or 0)
    if abi == f"cp{major}{minor}":
        return kind == "cp" and newest == minor
    if abi == "abi3":
        return kind == "cp" and newest <= minor
    return abi == "none" and (newest <= minor if kind == "py" else newest == minor)


def _platform(tag: str) -> bool:
    system, _, machine = sysconfig.get_platform().replace(".", "_").partition("-")
    if tag == "any":
        return True
    mine = [f"{system}_", "musllinux" if "musl" in str(sysconfig.get_config_var("SOABI")) else "manylinux"]
    return tag.startswith(tuple(mine)) and tag.endswith(f"_{machine.replace('-', '_')}")


def _checked_end(file: BinaryIO, room: Room) -> None:
    """The archive ends where its directory does, which is small enough to be read."""
    length = file.seek(0, os.SEEK_END)
    if length < _END.size:
        raise ValueError("it is no archive")
    file.seek(length - _END.size)
    magic, disk, first, here, entries, size, start, comment = _END.unpack(file.read(_END.size))
    if (magic, disk, first, here, comment) != (_END_MAGIC, 0, 0, entries, 0) or start + size + _END.size != length:
        raise ValueError("it does not end with its directory")
    if entries > room.entries_left or size > MOST_DIRECTORY_BYTES:
        raise ValueError(f"more than {MOST_ENTRIES} entries")


def _checked_entry(info: zipfile.ZipInfo) -> None:
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if info.orig_filename != name:
        raise ValueError(f"{info.orig_filename[:80]!r} has a NUL in its name")
    _checked_path(name.removesuffix("/"))
    if info.is_dir():
        if info.file_size or info.compress_size or kind not in {0, stat.S_IFDIR}:
            raise ValueError(f"{name[:80]!r} is a folder with something in it")
    elif kind not in {0, stat.S_IFREG}:
        raise ValueError(f"{name[:80]!r} is a link, a device or the like")
    if info.flag_bits & (_ENCRYPTED | _STREAMED):
        raise ValueError(f"{name[:80]!r} is encrypted, or does not say its length in front")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError(f"{name[:80]!r} is packed in another way than deflate")
    if info.file_size > MOST_ENTRY_BYTES:
        raise ValueError(f"{name[:80]!r} inflates to more than {MOST_ENTRY_BYTES} bytes")
    if info.file_size > FREE + MOST_RATIO * info.compress_size:
        raise ValueError(f"{name[:80]!r} inflates to more than {MOST_RATIO} times its size")


def _checked_path(path: str) -> None:
    pieces = path.split("/")
    clean = (path.isprintable() and not set(path) & set('\\:*?"<>|') and len(path.encode()) <= MOST_PATH_BYTES
             and len(pieces) <= MOST_DEPTH and unicodedata.normalize("NFC", path) == path
             and all(piece and not piece.endswith((".", " ")) and len(piece.encode()) <= MOST_PART_BYTES
                     for piece in pieces))
    if not clean:
        raise ValueError(f"{path[:80]!r} is no clean, relative path")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _refused(name: str, why: str) -> Refused:
    return Refused("FL-UPGRADE-WHEEL", f"the wheel {name} cannot be used: {why}",
                   "build the bundle with a sound wheel, for the Python and the machines that it is for")
