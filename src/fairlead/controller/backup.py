"""Making a backup: the store at one revision, with what opens it and by what engines know this Controller."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fairlead.api import backup as recorded
from fairlead.api.backup import BACKUP, MOST_RECORDS, Made
from fairlead.audit.record import Entry
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused
from fairlead.cluster import backup as backups
from fairlead.cluster.backup import Backup
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import Trust
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import sha256
from fairlead.objects.model import Item
from fairlead.objects.shelf import Shelf, new_uuid
from fairlead.store.protocol import Listing, StoreUnavailable


class Listed(Protocol):
    """What is needed of the store."""

    async def list(self, prefix: str) -> Listing:
        """All records under a prefix, at one revision."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...


class Keeping(Protocol):
    """Who has the cluster key."""

    cluster_key: bytes


@dataclass(frozen=True, slots=True)
class Backups:
    """Makes them, on whichever Controller is asked."""

    store: Listed
    shelf: Shelf
    """Has the records of them."""
    cluster: Keeping
    trust: Trust
    host_key: Callable[[], PrivateKey] = field(repr=False)
    """The one that is shown now."""
    keyring: Keyring = field(repr=False)

    async def create(self, recipient: str | None, passphrase: str | None, by: str) -> Made:
        """A sealed backup for *recipient*, else under *passphrase*. Raises Refused, OperatorError."""
        key = backups.read_recipient(recipient) if recipient is not None else b""
        words = backups.check_passphrase(passphrase) if passphrase is not None else ""
        if bool(key) == bool(words):
            raise Refused("FL-API-FORMAT", "a backup is sealed to a recipient or under a passphrase", "give one")
        if not self.cluster.cluster_key:
            raise StoreUnavailable("this Controller has not come in yet", "ask another one")
        now = await self.store.now()  # before the listing: whatever is in it is not younger than it claims by much
        listing = await self.store.list("")
        backup = Backup(
            self.trust.cluster_uuid, now, listing.revision, self.trust.node_id, self.trust.node,
            backups.kept(listing.records), self.trust.model_dump_json(), self.cluster.cluster_key,
            self.host_key().openssh(), self.keyring.in_use.openssh())
        sealed = await asyncio.to_thread(backups.seal_to, backup, key) if key else await asyncio.to_thread(
            backups.seal_under, backup, words)
        return Made(sealed, await self._record(backup, sealed, f"to {recipient}" if key else "under a passphrase", by))

    async def _record(self, backup: Backup, file: bytes, how: str, by: str) -> Item:
        """Keep that it was made, in one transaction with the audit record; before anybody has the file."""
        when = rfc3339(backup.time)
        record = Item(new_uuid(BACKUP), recorded.Backup(
            file_name=f"backup_{backup.name}_{when.replace(':', '')}", timestamp=when, controller=backup.name,
            made_by=by, sealed=how, size=len(file), sha256=sha256(file).hex(), checksum=backup.checksum,
            revision=backup.revision, records=len(backup.records)))
        return await self.shelf.put(BACKUP, record, Entry("backup.created", backup.name, by, {
            "uuid": record.uuid, "revision": backup.revision, "records": len(backup.records),
            "checksum": backup.checksum, "sealed": how}), last=MOST_RECORDS)
