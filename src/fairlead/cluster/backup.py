"""A backup: all that a cluster needs to begin again, sealed, in one file. Pure.

    one line of JSON: format, cluster, time, how it is sealed
    the sealed content
    SHA-256 of all that stands before (32 bytes)

Rules, and what each stops:

1. In the clear stand the format, the cluster's UUID, the time and how it is sealed, nothing else. The content is the
   cluster: it has the cluster key, under which the root CA's key lies, and the SSH keys that engines know it by.
2. It is sealed to a recipient's X25519 key (HPKE; a machine that makes backups every night cannot open them), or under
   a passphrase (Argon2id). The line in the clear is bound in: it cannot be put before another content.
3. A file that was harmed is told from a wrong key: the last 32 bytes are a checksum, which proves nothing else.
4. What must not come back is not in it: the leader, leases that run, the note of a move.
5. The cost of a passphrase stands here and not in the file: a foreign file cannot ask for all of the memory.

Who may write to where backups lie can put another one there that is sealed to the same recipient: the sum that
`backup create` prints, and its audit record keeps, tells them apart.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from argon2.low_level import Type, hash_secret_raw
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead.base import strict
from fairlead.base.clock import LAST_INSTANT, from_rfc3339, rfc3339
from fairlead.base.errors import OperatorError, Refused
from fairlead.cluster.move import MOVED, checksum
from fairlead.cluster.tenure import LEADER
from fairlead.enrol.redeem import LIVE
from fairlead.keys.seal import KEY_BYTES, hpke_open, hpke_seal, new_recipient, recipient_public, seal, unseal
from fairlead.keys.wire import b64, from_b64, sha256
from fairlead.store.protocol import MARK, Record
from fairlead.users.apitokens import TOKENS
from fairlead.users.sessions import SESSIONS

FORMAT = 1
LABEL = "fairlead-backup-v1"
IDENTITY = "fairlead-backup-identity-1 "
SALT_BYTES = 16
DIGEST_BYTES = 32
MOST_HEADER = 4096
LEAST_PASSPHRASE, MOST_PASSPHRASE = 12, 1024  # bytes


class Header(BaseModel):
    """What stands in the clear."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fairlead_backup: Literal[1] = 1
    cluster_uuid: UUID
    created: str
    """RFC 3339, store time."""
    sealed: Literal["recipient", "passphrase"]
    to: str
    """Base64: the recipient's public key, or the passphrase's salt."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The content. Times in microseconds."""

    cluster_uuid: UUID
    time: int
    """Store time when it was made: a restored store never goes below it."""
    revision: int
    """Of the store; all records are of this one."""
    node_id: str
    """The Controller that made it, and that it restores."""
    name: str
    records: Mapping[str, bytes] = field(repr=False)
    trust: str = field(repr=False)
    """Its ``trust.json``."""
    cluster_key: bytes = field(repr=False)
    host_key: bytes = field(repr=False)
    """In OpenSSH's format, as `user_key`."""
    user_key: bytes = field(repr=False)

    @property
    def checksum(self) -> str:
        """One hash over the records, hexadecimal."""
        return checksum(self.records)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    cluster_uuid: UUID
    time: int = Field(ge=0, lt=LAST_INSTANT)
    revision: int = Field(ge=0)
    node_id: str
    name: str
    checksum: str
    records: dict[str, str]
    trust: str
    cluster_key: str
    host_key: str
    user_key: str


def kept(records: Sequence[Record]) -> dict[str, bytes]:
    """Of a listing, what a backup keeps: nothing that lives for a while only, such as sessions and tokens of people.

    One that was revoked after the backup would be good again.
    """
    return {r.key: r.value for r in records
            if r.key not in (LEADER, MOVED, MARK) and not r.key.startswith((LIVE, SESSIONS, TOKENS))}


# -- keys -------------------------------------------------------------------------------------------------------------

def new_identity() -> tuple[bytes, str]:
    """The content of a new identity file, and the recipient (base64) that backups are sealed to."""
    private = new_recipient()
    return f"{IDENTITY}{b64(private)}\n".encode(), b64(recipient_public(private))


def read_identity(data: bytes) -> bytes:
    """The private key of an identity file. Raises OperatorError FL-BACKUP-IDENTITY."""
    text = data.decode("ascii", errors="replace").strip()
    try:
        key = from_b64(text.removeprefix(IDENTITY))
    except ValueError:
        key = b""
    if not text.startswith(IDENTITY) or len(key) != KEY_BYTES:
        raise OperatorError("FL-BACKUP-IDENTITY", "the file is no identity of `fairlead backup key`",
                            "name the file that it has written")
    return key


def read_recipient(text: str) -> bytes:
    """The public key of a recipient. Raises OperatorError FL-BACKUP-RECIPIENT."""
    try:
        key = from_b64(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise OperatorError("FL-BACKUP-RECIPIENT", "the recipient is no key that `fairlead backup key` prints",
                            "it has 44 characters of base64")
    return key


def check_passphrase(passphrase: str) -> str:
    """*passphrase*, when it may seal a backup. Raises OperatorError FL-PASSWORD."""
    if not LEAST_PASSPHRASE <= len(passphrase.encode()) <= MOST_PASSPHRASE:
        raise OperatorError("FL-PASSWORD", f"a passphrase has {LEAST_PASSPHRASE} to {MOST_PASSPHRASE} bytes",
                            "choose another one; several words that nobody would put together are good")
    return passphrase


# -- closing ----------------------------------------------------------------------------------------------------------

def seal_to(backup: Backup, recipient: bytes) -> bytes:
    """The file, for the holder of *recipient*. Raises Refused FL-SEAL-BROKEN for what is no key."""
    line = _line(backup, "recipient", recipient)
    return _closed(line, hpke_seal(recipient, _purpose(line).encode(), _encoded(backup)))


def seal_under(backup: Backup, passphrase: str) -> bytes:
    """The file, for who knows *passphrase*. Takes a moment and 64 MiB."""
    salt = os.urandom(SALT_BYTES)
    line = _line(backup, "passphrase", salt)
    return _closed(line, seal(_stretched(passphrase, salt), _encoded(backup), _purpose(line)))


# -- opening ----------------------------------------------------------------------------------------------------------

def header(data: bytes) -> Header:
    """What stands in the clear. Raises Refused FL-BACKUP-DAMAGED, FL-BACKUP-VERSION."""
    return _parts(data)[0]


def open_with(data: bytes, *, identity: bytes | None = None, passphrase: str | None = None) -> Backup:
    """The content. Raises Refused FL-BACKUP-DAMAGED, FL-BACKUP-VERSION, FL-BACKUP-SEALED."""
    head, line, sealed = _parts(data)
    if head.sealed == "recipient" and identity is None:
        raise Refused("FL-BACKUP-SEALED", f"the backup is sealed to the recipient {head.to}",
                      "name the file of `fairlead backup key` with --identity")
    if head.sealed == "passphrase" and passphrase is None:
        raise Refused("FL-BACKUP-SEALED", "the backup is sealed under a passphrase", "give it with --passphrase-file")
    try:
        if head.sealed == "recipient" and identity is not None:
            content = hpke_open(identity, _purpose(line).encode(), sealed)
        else:
            content = unseal(_stretched(passphrase or "", from_b64(head.to)), sealed, _purpose(line))
    except (Refused, ValueError):
        raise Refused("FL-BACKUP-SEALED", "the backup does not open with this "
                      + ("identity" if head.sealed == "recipient" else "passphrase"),
                      f"it was sealed to the recipient {head.to}" if head.sealed == "recipient" else
                      "see that it is the one that it was made with") from None
    found = _decoded(content)
    if (found.cluster_uuid, rfc3339(found.time)) != (head.cluster_uuid, head.created):
        raise _damaged("its content is of another cluster or time")
    return found


def _parts(data: bytes) -> tuple[Header, bytes, bytes]:
    """Header, its line, and the sealed content of a file that is whole."""
    line, newline, rest = data[:MOST_HEADER].partition(b"\n")
    try:
        fields: Any = strict.loads(line)
        if not newline or not isinstance(fields, dict) or "fairlead_backup" not in fields:
            raise ValueError
    except ValueError:
        raise _damaged("it does not begin as one") from None
    if len(rest) < DIGEST_BYTES or sha256(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise _damaged("its checksum does not fit")
    version = fields["fairlead_backup"]
    if type(version) is int and version > FORMAT:
        raise Refused("FL-BACKUP-VERSION", f"the backup has format {version}, this fairlead knows {FORMAT}",
                      "restore it with the version that made it")
    try:
        head = Header.model_validate(fields)
        from_rfc3339(head.created)
    except ValueError:  # pydantic's is one
        raise _damaged("its first line is wrong") from None
    return head, line, data[len(line) + 1:-DIGEST_BYTES]


def _line(backup: Backup, sealed: Literal["recipient", "passphrase"], to: bytes) -> bytes:
    return Header(cluster_uuid=backup.cluster_uuid, created=rfc3339(backup.time), sealed=sealed,
                  to=b64(to)).model_dump_json().encode()


def _closed(line: bytes, sealed: bytes) -> bytes:
    whole = line + b"\n" + sealed
    return whole + sha256(whole)


def _purpose(line: bytes) -> str:
    return f"{LABEL}\n{line.decode()}"


def _stretched(passphrase: str, salt: bytes) -> bytes:
    """RFC 9106, the second recommended setting."""
    return hash_secret_raw(passphrase.encode(), salt, time_cost=3, memory_cost=64 * 1024, parallelism=4,
                           hash_len=KEY_BYTES, type=Type.ID)


def _encoded(backup: Backup) -> bytes:
    return json.dumps({
        "cluster_uuid": str(backup.cluster_uuid), "time": backup.time, "revision": backup.revision,
        "node_id": backup.node_id, "name": backup.name, "checksum": backup.checksum, "trust": backup.trust,
        "records": {key: b64(value) for key, value in sorted(backup.records.items())},
        "cluster_key": b64(backup.cluster_key), "host_key": b64(backup.host_key),
        "user_key": b64(backup.user_key)}).encode()


def _decoded(content: bytes) -> Backup:
    """Whoever sealed it may have been a stranger: a recipient's key is public. Raises Refused FL-BACKUP-DAMAGED."""
    try:
        found = _Content.model_validate_json(content)
        backup = Backup(
            found.cluster_uuid, found.time, found.revision, found.node_id, found.name,
            {key: from_b64(value) for key, value in found.records.items()}, found.trust,
            from_b64(found.cluster_key), from_b64(found.host_key), from_b64(found.user_key))
    except (ValidationError, ValueError):
        raise _damaged("its content is none") from None
    if backup.checksum != found.checksum or len(backup.cluster_key) != KEY_BYTES:
        raise _damaged("its records are not those that were saved")
    return backup


def _damaged(why: str) -> Refused:
    return Refused("FL-BACKUP-DAMAGED", f"this is no backup, or it is damaged: {why}", "take another copy of it")
