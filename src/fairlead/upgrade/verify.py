"""Whether a bundle may be used: the root that is pinned, what was seen, the file and the time in; a verdict out.

TUF's client workflow (specification, section 5.3 and on), by python-tuf's Metadata API, over a file that is complete.
Rules, and the attack each stops:

1. All trust comes from the pinned root: a newer root counts when a threshold of the one before has signed it, and a
   threshold of its own (wrong root). The chain in the file begins at the first root and has the pinned one in it.
2. A role's metadata counts with a threshold of signatures by different keys that the newest root names for this role:
   none by a retired key, none twice, and a key has one id only, which is its hash (duplicated signatures).
3. Every signature that is there must be of such a key and hold, also one too many: nothing unchecked is carried along.
4. Versions never go below those seen (rollback), nor absurdly far above (fast-forward: who once had the keys cannot
   put the versions where no later bundle gets). The security counter likewise.
5. All four must be unexpired (freeze), and each says the version, length and hash of the next (mix-and-match).
6. Lengths are bounded before they are read, and signed from the snapshot on (endless data).
7. Bytes have one spelling: what was understood is written again and compared. So no bit of the file can change.

Not here: the network, the disk, the clock. Only bytes of one descriptor are read, each once.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from fairlead.base import strict
from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.upgrade.container import Reader, malformed, mixed
from fairlead.upgrade.manifest import MOST_BYTES, MOST_FILE_BYTES, MOST_FILES, NAME, Manifest, decode, parts
from fairlead.upgrade.seen import Seen

MOST_ROOTS = 64
MOST_ROOT_BYTES = 64 * 1024
MOST_TIMESTAMP_BYTES = 16 * 1024
MOST_SNAPSHOT_BYTES = 16 * 1024
MOST_TARGETS_BYTES = 1 << 20
MOST_TOTAL_BYTES = 2 << 30
MOST_AHEAD = 100_000
"""How far above what was seen a version may be: more bundles than anybody makes, fewer than would use up the room."""

_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_PUBLIC = re.compile(r"[0-9a-f]{64}")
_ORDER = ("timestamp", "snapshot", "targets")
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle that may be used, by the root and at the time that it was verified with."""

    manifest: Manifest
    seen: Seen
    """Of this bundle; to be merged with what was seen before."""
    root: bytes = field(repr=False)
    """The newest of the chain that the bundle carries."""
    sha256: str
    """Of the whole file, hex."""
    size: int
    """Of the whole file, bytes."""
    expires: int = 0
    """Microseconds since the epoch: when the first of its signed parts ends."""
    offsets: tuple[int, ...] = field(default=(), repr=False)
    """Where each of the manifest's files begins."""


def verify(fd: int, root: bytes, seen: Seen, now: int) -> Verified:
    """The bundle behind *fd*, believed by *root* (the pinned one) at *now* (microseconds since the epoch).

    Raises Refused: FL-UPGRADE-ROOT, -SIGNATURES, -EXPIRED, -ROLLBACK, -COUNTER, -FORWARD, -MIXED, -SIZE, -FORMAT,
    -CONTENT, -MANIFEST; OperatorError FL-FILE.
    """
    with Reader(fd) as reader:
        newest, newest_bytes, timestamp_bytes = _chain(reader, root, seen, now)
        timestamp = _signed(Timestamp, timestamp_bytes, newest)
        _at_time("timestamp", timestamp, now)
        _in_order("timestamp", timestamp.version, seen.timestamp)

        meta = timestamp.snapshot_meta
        snapshot = _next(reader, Snapshot, meta, MOST_SNAPSHOT_BYTES, newest)
        _at_time("snapshot", snapshot, now)
        _in_order("snapshot", snapshot.version, seen.snapshot)

        if set(snapshot.meta) != {"targets.json"}:
            raise malformed("its snapshot names other metadata than targets.json")
        targets = _next(reader, Targets, snapshot.meta["targets.json"], MOST_TARGETS_BYTES, newest)
        _at_time("targets", targets, now)
        _in_order("targets", targets.version, seen.targets)

        manifest = _manifest(reader, targets)
        if manifest.counter < seen.counter:
            raise _counter(manifest, seen)
        _not_ahead("security counter", manifest.counter, seen.counter)
        offsets = tuple(_content(reader, file.path, file.size, file.sha256) for file in manifest.files)
        sha256, size = reader.end()
    return Verified(manifest, Seen(newest.version, timestamp.version, snapshot.version, targets.version,
                                   manifest.counter), newest_bytes, sha256, size,
                    min(_micros(part.expires) for part in (newest, timestamp, snapshot, targets)), offsets)


def fits(manifest: Manifest, role: str, running: str, seen: Seen) -> None:
    """Whether a node with *role* that runs version *running* may go over.

    Raises Refused FL-UPGRADE-ROLE, -MINIMUM, -COUNTER, -VERSION.
    """
    if role not in manifest.roles:
        raise Refused("FL-UPGRADE-ROLE", f"the bundle is for {' and '.join(manifest.roles)}, this node is none: {role}",
                      "build one with --role for both, or apply it where it belongs")
    if parts(running) < parts(manifest.minimum):
        raise Refused("FL-UPGRADE-MINIMUM", f"{manifest.version} can be reached from {manifest.minimum} on, "
                      f"this node runs {running}", f"upgrade to {manifest.minimum} first")
    if manifest.counter < seen.counter:
        raise _counter(manifest, seen)


def read_root(data: bytes) -> str:
    """Whether *data* is a root that can be pinned; its SHA-256, hex. Raises Refused FL-UPGRADE-ROOT."""
    if len(data) > MOST_ROOT_BYTES:  # no bundle could carry it, and no message of the link
        raise _wrong_root(f"it has more than {MOST_ROOT_BYTES} bytes")
    _root(data, None, alone=True)
    return hashlib.sha256(data).hexdigest()


def signers(root: bytes) -> Mapping[str, tuple[int, tuple[str, ...]]]:
    """For each kind of metadata the threshold and the ids of the keys that a verified *root* names."""
    found = _root(root, None, alone=True)
    return {name: (found.roles[name].threshold, tuple(found.roles[name].keyids)) for name in ("root", *_ORDER)}


def _chain(reader: Reader, pinned: bytes, seen: Seen, now: int) -> tuple[Root, bytes, bytes]:
    """The newest root, its bytes, and those of the timestamp that follows it."""
    known = _root(pinned, None, alone=True)
    newest: Root | None = None
    data = b""
    first = "metadata/1.root.json"
    name, content = reader.either([first], MOST_ROOT_BYTES)
    while name != "metadata/timestamp.json":
        newest, data = _root(content, newest), content
        if newest.version == known.version and data != pinned:
            raise _wrong_root(f"its root {known.version} is not the one that is pinned here")
        if newest.version > MOST_ROOTS:
            raise _wrong_root(f"more than {MOST_ROOTS} roots")
        name, content = reader.either([f"metadata/{newest.version + 1}.root.json", "metadata/timestamp.json"],
                                      MOST_ROOT_BYTES)
    if newest is None or newest.version < known.version:
        raise _wrong_root(f"its newest root is older than the pinned one, {known.version}: keys that are retired")
    _at_time("root", newest, now)
    _in_order("root", newest.version, seen.root)
    if len(content) > MOST_TIMESTAMP_BYTES:
        raise malformed("its timestamp is too large")
    return newest, data, content


def _root(data: bytes, before: Root | None, *, alone: bool = False) -> Root:
    """One root, signed by itself and by the one *before*; *alone*: the one before is not at hand.

    Raises Refused FL-UPGRADE-ROOT.
    """
    try:
        metadata, body = _parsed(Root, data)
        root = metadata.signed
        due = before.version + 1 if before else 1
        if root.version != due and not alone:
            raise ValueError(f"the root {root.version} where {due} belongs")
        for id_, key in root.keys.items():
            public = key.keyval.get("public")
            if (key.keytype, key.scheme, set(key.keyval), key.unrecognized_fields) != (
                    "ed25519", "ed25519", {"public"}, {}) or not _PUBLIC.fullmatch(str(public)):
                raise ValueError("a key is no ed25519 key")
            if SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(public)))).keyid != id_:
                raise ValueError("a key stands under an id that is not its own: it could be counted twice")
        for name, role in root.roles.items():
            if len(role.keyids) < role.threshold or not set(role.keyids) <= set(root.keys):
                raise ValueError(f"it names fewer keys for {name} than it asks for")
        if root.consistent_snapshot is not True:
            raise ValueError("it is not for consistent snapshots")
        result = root.get_root_verification_result(before, body, metadata.signatures)
    except Refused as error:
        raise _wrong_root(error.message) from None
    except (ValueError, TypeError, AttributeError, RepositoryError, SecureSystemsError) as error:
        raise _wrong_root(str(error)) from None
    if not result:
        which = "the one before it" if not result.first else "its own"
        raise _wrong_root(f"the root {root.version} is not signed by a threshold of {which}")
    if result.signed.keys() != metadata.signatures.keys() and (root.version == 1 or not alone):
        # a later one that stands alone has signatures of the one before as well
        raise _wrong_root(f"the root {root.version} carries a signature that does not hold")
    return root


def _next(reader: Reader, kind: type[S], meta: MetaFile, most: int, root: Root) -> S:
    """The metadata that *meta* speaks of: the very one."""
    if meta.length is None or meta.hashes is None or set(meta.hashes) != {"sha256"}:
        raise malformed(f"nothing says the length and the hash of {kind.type}")
    name = f"metadata/{meta.version}.{kind.type}.json"
    data = reader.entry(name, most, meta.length)
    if hashlib.sha256(data).hexdigest() != meta.hashes["sha256"]:
        raise mixed(f"{name} is not the one that is signed for")
    signed = _signed(kind, data, root)
    if signed.version != meta.version:
        raise mixed(f"{kind.type} {signed.version} where {meta.version} is signed for")
    return signed


def _signed(kind: type[S], data: bytes, root: Root) -> S:
    """Metadata that a threshold of *root* has signed. Raises Refused FL-UPGRADE-FORMAT, -SIGNATURES."""
    metadata, body = _parsed(kind, data)
    result = root.get_verification_result(kind.type, body, metadata.signatures)
    if strangers := metadata.signatures.keys() - set(root.roles[kind.type].keyids):
        raise _signatures(f"{kind.type} is signed by {min(strangers)[:16]}..., a key that the root {root.version} does "
                          "not name for it, or no longer")
    if not result:
        raise _signatures(f"{kind.type} has {len(result.signed)} good signatures of {result.threshold}")
    if result.signed.keys() != metadata.signatures.keys():
        raise _signatures(f"{kind.type} carries a signature that does not hold")
    return metadata.signed


def _parsed(kind: type[S], data: bytes) -> tuple[Metadata[S], bytes]:
    """What *data* says, where it says it in the one way, and what of it is signed.

    Raises Refused FL-UPGRADE-FORMAT, -SIGNATURES.
    """
    try:
        fields: dict[str, Any] = strict.loads(data)
        ids = [signature["keyid"] for signature in fields["signatures"]]
        if len(set(ids)) != len(ids):
            raise _signatures(f"{kind.type} carries two signatures of one key")
        metadata: Metadata[S] = Metadata.from_dict(fields)
        if (metadata.signed.type != kind.type or metadata.unrecognized_fields or ids != sorted(ids)
                or not all(_SIGNATURE.fullmatch(s.signature) and not s.unrecognized_fields
                           for s in metadata.signatures.values())
                or metadata.to_bytes(JSONSerializer(compact=True)) != data):
            raise ValueError("another spelling")
        body = metadata.signed_bytes
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, RepositoryError) as error:
        raise malformed(f"{kind.type} cannot be read as it is written ({type(error).__name__})") from None
    return metadata, body


def _manifest(reader: Reader, targets: Targets) -> Manifest:
    """The manifest, which names the very files that are signed for."""
    if targets.delegations is not None or not 1 < len(targets.targets) <= MOST_FILES + 1:
        raise malformed("its targets are none of ours")
    signed: dict[str, tuple[int, str]] = {}
    for path, file in targets.targets.items():
        if set(file.hashes) != {"sha256"} or file.unrecognized_fields:
            raise malformed("a target is signed for with other words than its length and SHA-256")
        signed[path] = (file.length, file.hashes["sha256"])
    if NAME not in signed:
        raise malformed("no manifest is signed for")
    length, sha256 = signed.pop(NAME)
    if length > MOST_BYTES:
        raise malformed("its manifest is too large")
    collected = bytearray()
    _content(reader, NAME, length, sha256, collected)
    manifest = decode(bytes(collected))
    if signed != {file.path: (file.size, file.sha256) for file in manifest.files}:
        raise mixed("the manifest names other files than are signed for")
    if sum(file.size for file in manifest.files) > MOST_TOTAL_BYTES:
        raise Refused("FL-UPGRADE-SIZE", f"the bundle has more than {MOST_TOTAL_BYTES} bytes", "build a smaller one")
    return manifest


def _content(reader: Reader, path: str, size: int, sha256: str, into: bytearray | None = None) -> int:
    """Read one target and compare its hash; where it begins. Raises Refused."""
    digest = hashlib.sha256()

    def use(piece: memoryview) -> None:
        digest.update(piece)
        if into is not None:
            into.extend(piece)

    if size > MOST_FILE_BYTES or not _PUBLIC.fullmatch(sha256):
        raise malformed(f"{path} is signed for with a length or a hash that cannot be")
    begin = reader.stream(place(path, sha256), size, use)
    if digest.hexdigest() != sha256:
        raise Refused("FL-UPGRADE-CONTENT", f"{path} is not the file that is signed for", "fetch the bundle again")
    return begin


def place(path: str, sha256: str) -> str:
    """Where a target is in a repository with consistent snapshots."""
    folder, slash, name = path.rpartition("/")
    return f"targets/{folder}{slash}{sha256}.{name}"


def _at_time(name: str, signed: Signed, now: int) -> None:
    if now >= _micros(signed.expires):
        raise Refused("FL-UPGRADE-EXPIRED", f"the bundle's {name} has expired at {signed.expires.isoformat()}",
                      "build it again, or see whether this machine's clock is right; an old bundle may be offered to "
                      "keep a newer one away")


def _in_order(name: str, version: int, seen: int) -> None:
    if version < seen:
        raise Refused("FL-UPGRADE-ROLLBACK", f"the bundle's {name} has version {version}, and {seen} was seen",
                      "use the newest bundle; where it is the newest, its builder has lost count (last.json)")
    _not_ahead(name, version, seen)


def _not_ahead(name: str, version: int, seen: int) -> None:
    if version > seen + MOST_AHEAD:
        raise Refused("FL-UPGRADE-FORWARD", f"the bundle's {name} jumps to {version}, and {seen} was seen",
                      f"number bundles one by one; at most {MOST_AHEAD} may be missing in between")


def _micros(time: datetime) -> int:
    return int(time.replace(tzinfo=UTC).timestamp()) * SECOND


def _counter(manifest: Manifest, seen: Seen) -> Refused:
    return Refused("FL-UPGRADE-COUNTER", f"the bundle's security counter is {manifest.counter}, and {seen.counter} was "
                   "seen", "use a bundle in which what the counter was raised for is mended")


def _signatures(why: str) -> Refused:
    return Refused("FL-UPGRADE-SIGNATURES", f"the bundle is not signed as its root asks: {why}",
                   "fetch it again, or have it signed with the keys that the newest root names")


def _wrong_root(why: str) -> Refused:
    return Refused("FL-UPGRADE-ROOT", f"the bundle's root is not one to follow from here: {why}",
                   "see that the bundle is of the publisher whose root.json is pinned here")
