"""Wheels, sound ones and others."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence

NAME = "thing-1.0-py3-none-any.whl"
INFO = "thing-1.0.dist-info"
CONTENT = {"thing/__init__.py": b"x = 1\n", "thing/data.txt": b"data\n" * 500, f"{INFO}/METADATA": b"Name: thing\n"}
Entry = tuple[zipfile.ZipInfo | str, bytes]


def record(content: Mapping[str, bytes], info: str = INFO) -> bytes:
    """RECORD for *content*."""
    hashes = {path: base64.urlsafe_b64encode(hashlib.sha256(data).digest()) for path, data in content.items()}
    lines = [f"{path},sha256={digest.rstrip(b'=').decode()},{len(content[path])}" for path, digest in hashes.items()]
    return "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()


def wheel(content: Mapping[str, bytes] = CONTENT, more: Sequence[Entry] = (), info: str = INFO,
          listed: bytes | None = None) -> bytes:
    """A wheel with *content* and a RECORD of it (or *listed*), and with *more* that is nowhere recorded."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            for path, data in content.items():
                made.writestr(path, data)
            for entry, data in more:
                made.writestr(entry, data)
            made.writestr(f"{info}/RECORD", record(content, info) if listed is None else listed)
        return file.getvalue()


def entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    """An entry as Unix makes it."""
    made = zipfile.ZipInfo(name)
    made.create_system = 3
    made.external_attr = mode << 16
    return made
