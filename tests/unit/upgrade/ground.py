"""Publishers of bundles, honest and others: every part of a bundle can be made otherwise, and signed by whomever."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp

from fairlead.base.clock import SECOND
from fairlead.upgrade import manifest as manifests
from fairlead.upgrade.container import END, header, padding
from fairlead.upgrade.keys import written
from fairlead.upgrade.manifest import File, Manifest
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import Verified, place, verify

TIME = datetime(2026, 12, 1, tzinfo=UTC)
NOW = int(TIME.timestamp()) * SECOND
EXPIRES = TIME + timedelta(days=30)
KINDS = ("root", "timestamp", "snapshot", "targets")
FILES = {"notes/read.me": b"for people", "x" * 60 + ".cfg": b"a name beyond what a tar's header holds"}
Parts = list[tuple[str, bytes]]


def signer(name: str) -> CryptoSigner:
    """Always the same key for *name*."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


@dataclass
class Publisher:
    """Keys, and what is made with them. Whatever is set on it is what comes."""

    name: str = "ours"
    generation: int = 1
    signed_by: dict[str, Sequence[str]] = field(default_factory=dict)
    """Names of the keys that sign a kind, where not all that are due."""
    threshold: int = 2
    expires: dict[str, datetime] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=lambda: FILES)
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the manifest."""
    roots: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roots = self.roots or [self.root()]

    def keys(self, kind: str, generation: int | None = None) -> list[str]:
        return [f"{self.name} {kind} {generation or self.generation} {n}" for n in (1, 2, 3)]

    def signers(self, kind: str) -> list[CryptoSigner]:
        return [signer(name) for name in self.signed_by.get(kind, self.keys(kind))]

    def root(self, version: int = 1, by: Sequence[str] | None = None, **fields: Any) -> bytes:
        """A root for this generation's keys, signed by *by*."""
        keys = {name: signer(name).public_key for kind in KINDS for name in self.keys(kind)}
        roles = {kind: Role(sorted(keys[name].keyid for name in self.keys(kind)), self.threshold) for kind in KINDS}
        root = Root(version=version, expires=self.expires.get("root", EXPIRES), roles=roles,
                    keys={key.keyid: key for key in keys.values()}, consistent_snapshot=True, **fields)
        return written(root, map(signer, by if by is not None else self.keys("root")))

    def rotate(self) -> "Publisher":
        """The next generation, which the one before has signed."""
        before = self.keys("root")
        self.generation += 1
        self.roots = [*self.roots, self.root(len(self.roots) + 1, [*before, *self.keys("root")])]
        return self

    def listing(self) -> bytes:
        """The manifest."""
        files = tuple(File(path, len(data), sha(data)) for path, data in sorted(self.files.items()))
        asked: dict[str, Any] = {"version": "2.0.0", "minimum": "1.0.0", "roles": ("controller", "engine"),
                                 "counter": 3, "files": files}
        return manifests.encode(Manifest(**asked | self.fields))

    def targets(self, extra: Mapping[str, bytes] | None = None) -> bytes:
        contents = {**self.files, manifests.NAME: self.listing()} | dict(extra or {})
        named = {path: TargetFile(len(data), {"sha256": sha(data)}, path) for path, data in contents.items()}
        return written(Targets(version=self.version("targets"), expires=self.expires.get("targets", EXPIRES),
                               targets=named), self.signers("targets"))

    def snapshot(self, targets: bytes) -> bytes:
        return written(Snapshot(version=self.version("snapshot"), expires=self.expires.get("snapshot", EXPIRES),
                                meta={"targets.json": meta(self.version("targets"), targets)}),
                       self.signers("snapshot"))

    def timestamp(self, snapshot: bytes) -> bytes:
        return written(Timestamp(version=self.version("timestamp"), expires=self.expires.get("timestamp", EXPIRES),
                                 snapshot_meta=meta(self.version("snapshot"), snapshot)), self.signers("timestamp"))

    def version(self, kind: str) -> int:
        return self.versions.get(kind, 7)

    def parts(self, **instead: bytes) -> Parts:
        """All entries, in their order; *instead*: metadata to put in place of one kind, without telling the others."""
        targets = self.targets()
        snapshot = self.snapshot(targets)
        timestamp = self.timestamp(snapshot)
        listing = self.listing()
        return [
            *((f"metadata/{at}.root.json", root) for at, root in enumerate(self.roots, 1)),
            ("metadata/timestamp.json", instead.get("timestamp", timestamp)),
            (f"metadata/{self.version('snapshot')}.snapshot.json", instead.get("snapshot", snapshot)),
            (f"metadata/{self.version('targets')}.targets.json", instead.get("targets", targets)),
            (place(manifests.NAME, sha(listing)), listing),
            *((place(path, sha(data)), data) for path, data in sorted(self.files.items())),
        ]

    def bundle(self, **instead: bytes) -> bytes:
        return packed(self.parts(**instead))


def meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": sha(data)})


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(parts: Parts) -> bytes:
    """The file of *parts*."""
    return b"".join(header(name, len(data)) + data + bytes(padding(len(data))) for name, data in parts) + END


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    """A descriptor of a file with *data*."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def checked(data: bytes, root: bytes, seen: Seen = Seen(), now: int = NOW) -> Verified:  # noqa: B008 - it is frozen
    with opened(data) as fd:
        found = verify(fd, root, seen, now)
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(data), "it reads by place, and moves nobody's position"
        return found
