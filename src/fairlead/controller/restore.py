"""`backup restore`: a single Controller in an empty folder, out of a backup. Nothing runs meanwhile.

It is the Controller that made the backup: its name, its SSH keys, its place, so engines that still run know it again.
What changes is in `anew`. As with init ``fairlead.toml`` is written last: a folder without it is no Controller, and a
restore that was stopped anywhere is repeated.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from fairlead.audit.log import AuditLog
from fairlead.audit.record import Entry
from fairlead.base import configuration
from fairlead.base.clock import Clock, rfc3339
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.base.files import make_private_folder, remove, write_private
from fairlead.cluster.backup import Backup
from fairlead.cluster.move import batches
from fairlead.controller import secrets
from fairlead.controller.anew import Anew, begin_anew
from fairlead.controller.initialise import PENDING, STORE, clear, refuse_foreign
from fairlead.controller.settings import ControllerSettings
from fairlead.enrol.exchange import CoreController
from fairlead.enrol.trust import HOST_KEY, KEYS, USER_KEY, Trust, save_key
from fairlead.keys.seal import new_key
from fairlead.keys.ssh import KeyRefused, PrivateKey, PublicKey
from fairlead.nodes.node import Endpoint, Node
from fairlead.nodes.records import KEYS as KEYS_OF_NODES
from fairlead.nodes.records import NODES, encode, key_from, node_from
from fairlead.pki.authority import Authority
from fairlead.store.protocol import MARK, Delete, Operation, Put, Record, mark_value
from fairlead.store.sqlite import SQLiteStore


@dataclass(frozen=True, slots=True)
class Found:
    """What a backup restores, read and checked."""

    backup: Backup
    me: Node
    trust: Trust
    host_key: PrivateKey
    user_key: PrivateKey


@dataclass(frozen=True, slots=True)
class _Reading:
    records: Mapping[str, bytes]

    async def get(self, key: str) -> Record | None:
        value = self.records.get(key)
        return Record(key, value, 0, 0) if value is not None else None


async def examine(backup: Backup) -> Found:
    """See that *backup* makes a Controller. Raises Refused FL-BACKUP-DAMAGED."""
    try:
        root = await secrets.open_certified(_Reading(backup.records), backup.cluster_key, secrets.ROOT)
        Authority.load(root.certificate_pem, root.key_pem)
        me = node_from(backup.records[NODES + backup.node_id])
        trust = Trust.model_validate_json(backup.trust)
        host_key, user_key = PrivateKey.from_openssh(backup.host_key), PrivateKey.from_openssh(backup.user_key)
    except (FairleadError, KeyRefused, ValidationError, KeyError, TypeError, ValueError):
        raise _none("what it holds is not a Controller's") from None
    if (trust.node_id, trust.cluster_uuid, trust.role, trust.node) != (
            me.id, backup.cluster_uuid, "controller", me.name) or host_key.public not in me.host_keys or (
            user_key.public.line not in me.user_keys):
        raise _none("its parts are of several nodes")
    me = replace(me, user_key=user_key.public.line, next_key="", last_key="")
    return Found(backup, me, trust, host_key, user_key)


def nodes_of(found: Found) -> Sequence[Node]:
    """All nodes that the backup holds. Raises Refused FL-BACKUP-DAMAGED."""
    try:
        nodes = [node_from(value) for key, value in found.backup.records.items() if key.startswith(NODES)]
    except ValueError:
        raise _none("a record of it cannot be read") from None
    return sorted(nodes, key=lambda node: (node.role, node.name))


def endpoint_of(found: Found) -> Endpoint:
    """Where the Controller was found. Raises Refused FL-BACKUP-DAMAGED."""
    if found.me.endpoint is None:
        raise _none("its Controller has no address")
    return found.me.endpoint


async def restore(state: Path, found: Found, settings: ControllerSettings, removed: Collection[str],
                  clock: Clock) -> Anew:
    """Make the Controller in *state*. Raises FairleadError; then nothing of it is left.

    *removed*: nodes that were removed since, by name.
    """
    backup = found.backup
    now = max(backup.time, clock.now())
    try:
        anew = begin_anew(backup.records, found.me.id, removed, by="restore", now=now)
    except ValueError:
        raise _none("a record of it cannot be read") from None
    make_private_folder(state)
    if (state / configuration.FILE).exists():
        raise OperatorError("FL-ALREADY-INITIALISED", f"there is a node in {state} already",
                            "use another --state, or `fairlead controller destroy` first")
    refuse_foreign(state)
    write_private(state / PENDING, b"")
    clear(state)
    try:
        await _make(state, found, settings, anew, clock, now)
        configuration.save(state, settings)
    except BaseException:
        clear(state)
        remove(state / PENDING)
        raise
    remove(state / PENDING)
    return anew


async def _make(state: Path, found: Found, settings: ControllerSettings, anew: Anew, clock: Clock, now: int) -> None:
    backup, me = found.backup, found.me
    node_key = new_key()
    make_private_folder(state / KEYS)
    save_key(state, HOST_KEY, found.host_key)
    save_key(state, USER_KEY, found.user_key)
    write_private(state / secrets.NODE_KEY, node_key)
    alone(found.trust, me, settings.endpoint).save(state)
    store = SQLiteStore.open(state / STORE, clock)
    try:
        for batch in batches(_records(backup, me, anew, secrets.wrapped(node_key, me.id, backup.cluster_key), now)):
            await store.transact([], batch)
        await AuditLog(store, me.name).append(Entry("cluster.restored", me.name, "restore", {
            "made": rfc3339(backup.time), "revision": backup.revision, "checksum": backup.checksum,
            "removed": " ".join(anew.removed), "revoked": anew.revoked}), *anew.entries)
    finally:
        await store.close()


def _one_user_key(values: Mapping[str, bytes], me: Node) -> dict[str, bytes]:
    """Of a Controller whose user key was being changed: the backup has one of them, and that is it."""
    before = node_from(values[NODES + me.id])
    others = [KEYS_OF_NODES + PublicKey.from_line(line).fingerprint for line in before.user_keys if line != me.user_key]
    return {NODES + me.id: encode(me), **{
        other: encode(replace(key_from(values[other]), state="revoked")) for other in others if other in values}}


def _records(backup: Backup, me: Node, anew: Anew, key: Put, now: int) -> Sequence[Operation]:
    """All that the new store holds; its time goes on from the backup's, whatever this machine's clock says."""
    values = dict(backup.records)
    for operation in anew.operations:
        if isinstance(operation, Delete):
            values.pop(operation.key, None)
        else:
            values[operation.key] = operation.value
    values |= {key.key: key.value, MARK: mark_value(now), **_one_user_key(values, me)}
    return [Put(name, value) for name, value in sorted(values.items())]


def alone(trust: Trust, me: Node, endpoint: Endpoint) -> Trust:
    """*trust*, in which this Controller is the only one."""
    return trust.but(removed=False, controllers=[CoreController(
        name=me.name, address=host, portal_port=port, ssh_port=endpoint.ssh_port,
        internal_address=me.internal_address, host_key=me.host_key, user_key=me.user_key,
        node_id=me.id, next_host_key=me.next_host_key).model_dump() for host, port in endpoint.places])


def _none(why: str) -> Refused:
    return Refused("FL-BACKUP-DAMAGED", f"the backup cannot be restored: {why}",
                   "take another one; whoever made this one was not a Controller of yours")
