"""The folder of those who publish bundles: their keys, the chain of roots, and the number of the last bundle.

A folder is 0700 and holds ``N.root.json`` from 1 on, ``root.json`` (the newest, to be pinned), ``last.json``, and keys
as PKCS#8 in ``*.pem``, 0600. Which key is for what, the newest root says: keys may be elsewhere, as long as a threshold
for timestamp, snapshot and targets is there when a bundle is built. Root keys are needed for a new root only.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Key, Metadata, Role, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from fairlead.base import strict
from fairlead.base.errors import OperatorError
from fairlead.base.files import read_private, write_private
from fairlead.upgrade.verify import MOST_ROOTS, read_root

ROLES = ("root", "timestamp", "snapshot", "targets")
KEYS, THRESHOLD = 3, 2
ROOT_LIFETIME = timedelta(days=3 * 365)
LAST = "last.json"
PIN = "root.json"


@dataclass(frozen=True, slots=True)
class Last:
    """The last bundle that was built."""

    number: int = 0
    """The version of its timestamp, snapshot and targets."""
    content: str = ""
    """SHA-256, hex, of what was signed, but for the number."""
    counter: int = 0


class Keys:
    """The folder, read. Raises OperatorError FL-UPGRADE-KEYS, FL-STATE-OPEN."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _check(folder)
        self.roots: list[bytes] = []
        while (path := folder / f"{len(self.roots) + 1}.root.json").exists() and len(self.roots) < MOST_ROOTS:
            self.roots.append(read_private(path))
        if not self.roots:
            raise _wrong(f"{folder} has no 1.root.json", "make keys with --demo-keys DIR, or name the right folder")
        read_root(self.roots[-1])
        self.root = Metadata[Root].from_bytes(self.roots[-1]).signed
        self._signers = _signers(folder)

    def sign(self, signed: Timestamp | Snapshot | Targets) -> bytes:
        """*signed* with all keys for its role that are here, in its one spelling. Raises OperatorError."""
        named = self.root.roles[signed.type]
        signers = [self._signers[id_] for id_ in named.keyids if id_ in self._signers]
        if len(signers) < named.threshold:
            raise _wrong(f"{self.folder} has {len(signers)} of the {named.threshold} keys that {signed.type} needs",
                         "bring the missing ones; the newest root names them")
        return written(signed, signers)

    def last(self) -> Last:
        """The last bundle that was built with this folder. Raises OperatorError."""
        try:
            found = Last(**strict.loads(read_private(self.folder / LAST)))
            if not (type(found.number) is int and type(found.counter) is int and isinstance(found.content, str)):
                raise ValueError("other fields")
        except FileNotFoundError:
            return Last()
        except (ValueError, TypeError):
            raise _wrong(f"{self.folder / LAST} is damaged", 'write the number of the newest bundle into it: '
                         '{"number":N,"content":"","counter":C}') from None
        return found

    def remember(self, last: Last) -> None:
        """Keep *last* durably. Raises OperatorError."""
        write_private(self.folder / LAST, json.dumps(
            {"number": last.number, "content": last.content, "counter": last.counter}).encode())

    def rotate(self, now: datetime) -> int:
        """New keys for all roles, and a root that names them, signed by the old and the new; its version.

        The old keys stay where they are and are no longer used. Raises OperatorError.
        """
        version = self.root.version + 1
        old = [self._signers[id_] for id_ in self.root.roles[Root.type].keyids if id_ in self._signers]
        if len(old) < self.root.roles[Root.type].threshold:
            raise _wrong(f"{self.folder} lacks root keys", "bring a threshold of them for as long as this takes")
        _make(self.folder, version, now, old)
        return version


def demo(folder: Path, now: datetime) -> None:
    """Make *folder* with throw-away keys, two of three for each role. Raises OperatorError FL-UPGRADE-KEYS, FL-DISK."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise _wrong(f"{folder} is not empty", "use what is in it with --keys, or name a new folder")
    except OSError as error:
        raise _wrong(f"{folder} cannot be made: {error.strerror}", "name a folder that this user can make") from None
    _check(folder)
    _make(folder, 1, now, ())


def _make(folder: Path, version: int, now: datetime, old: Sequence[CryptoSigner]) -> None:
    roles: dict[str, Role] = {}
    keys: dict[str, Key] = {}
    own: list[CryptoSigner] = []
    for role in ROLES:
        signers = [CryptoSigner.generate_ed25519() for _ in range(KEYS)]
        for number, signer in enumerate(signers, 1):
            assert isinstance(signer.public_key, Key)
            keys[signer.public_key.keyid] = signer.public_key
            write_private(folder / f"{role}-{version}-{number}.pem", signer.private_bytes)
        roles[role] = Role(sorted(signer.public_key.keyid for signer in signers), THRESHOLD)
        own += signers if role == Root.type else []
    data = written(Root(version=version, expires=now.replace(microsecond=0) + ROOT_LIFETIME, keys=keys, roles=roles,
                        consistent_snapshot=True), [*old, *own])
    write_private(folder / f"{version}.root.json", data)
    write_private(folder / PIN, data)


def written(signed: Root | Timestamp | Snapshot | Targets, signers: Iterable[CryptoSigner]) -> bytes:
    """*signed* with signatures in the order of their key ids, in the one spelling that is verified."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in sorted(signers, key=lambda one: one.public_key.keyid):
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def _signers(folder: Path) -> dict[str, CryptoSigner]:
    found: dict[str, CryptoSigner] = {}
    for path in sorted(folder.glob("*.pem")):
        try:
            key = load_pem_private_key(read_private(path), None)
        except (ValueError, TypeError):
            raise _wrong(f"{path} is no private key without a password", "PKCS#8, PEM, ed25519") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise _wrong(f"{path} is no ed25519 key", "keys of bundles are ed25519")
        signer = CryptoSigner(key)
        found[signer.public_key.keyid] = signer
    return found


def _check(folder: Path) -> None:
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise _wrong(f"{folder}: {error.strerror}", "make keys with --demo-keys DIR, or name the right folder"
                     ) from None
    if not folder.is_dir() or mode & 0o077:
        raise _wrong(f"{folder} is open to others, or no folder", f"chmod 700 {folder}")


def _wrong(message: str, remedy: str) -> OperatorError:
    return OperatorError("FL-UPGRADE-KEYS", message, remedy)


def at(seconds: int) -> datetime:
    """The time that TUF metadata speaks of."""
    return datetime.fromtimestamp(seconds, UTC)
