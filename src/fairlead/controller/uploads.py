"""Images as they are brought up to this Controller, piece by piece, and what becomes of them.

Rules, and what each stops:

1. An upload says its size and its hash before its first byte, and never gets more than that: endless data has an end.
   It is begun only where a root is pinned, without which nothing could be verified.
2. A piece belongs exactly where the last one ended. One that came before is passed over, one that leaves a gap is
   refused: whoever was cut off asks where it is and goes on, and two that bring the same file help one another.
3. Nothing of it leaves this Controller, or is used, before all of it was verified; the record of that and its audit
   record are one transaction. What is refused is deleted at once. One file has one record, whatever it was called at
   how many Controllers.
4. There is a bound of uploads, of the oldest of which nobody has brought a piece for long; and of bytes (`Images`), in
   which an upload counts from its beginning as what it will be.

What is under way stands in ``uploads.json``, so that it goes on after a restart.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import structlog

from fairlead.api.images import IMAGE, Image
from fairlead.audit.record import Entry
from fairlead.base import files, strict
from fairlead.base.clock import MINUTE, Clock, rfc3339
from fairlead.base.errors import FairleadError, Refused, printable
from fairlead.controller.images import Records
from fairlead.objects.model import Item, Kind, Model
from fairlead.objects.shelf import Shelved, new_uuid
from fairlead.upgrade.images import Images
from fairlead.upgrade.verify import Verified

FILE = "uploads.json"
MOST = 8
"""Uploads at once on one Controller."""
IDLE = 60 * MINUTE
"""One that nobody has brought a piece for so long makes room for another."""

log = structlog.get_logger("fairlead.controller")


class Checking(Protocol):
    """Who verifies a file that is here (`upgrade.bringing`)."""

    async def check(self, sha256: str) -> Verified:
        """Raises Refused, and then it is deleted; StoreUnavailable."""
        ...


class Trusting(Protocol):
    """By what bundles are verified."""

    async def trusted(self) -> object:
        """Raises Refused FL-UPGRADE-UNTRUSTED where nothing is pinned, StoreUnavailable."""
        ...


class Journal(Protocol):
    """The audit log."""

    async def append(self, *entries: Entry) -> None:
        """Record them. Raises StoreUnavailable."""
        ...


@dataclass(slots=True)
class Upload:
    """One that is under way."""

    uuid: str
    name: str
    sha256: str
    size: int
    by: str
    began: int
    """Microseconds."""
    touched: int = 0


class Uploads:
    """The images of this Controller, for the API: a `Changeable`."""

    def __init__(self, state: Path, images: Images, records: Records, checking: Checking, trust: Trusting,
                 audit: Journal, clock: Clock, me: str, referrers: Callable[[str, str], object],
                 in_use: Callable[[str], bool] = lambda _: False) -> None:
        """*referrers*: who names an image, `Catalogue.referrers`. *in_use*: whether an upgrade brings the image of that
        uuid to the nodes.
        """
        self._file = state / FILE
        self._images = images
        self._records = records
        self._checking = checking
        self._trust = trust
        self._audit = audit
        self._clock = clock
        self._me = me
        self._in_use = in_use
        self._shelved = Shelved(records.shelf, IMAGE, referrers)
        self._uploads = {one.uuid: one for one in _read(self._file)}
        self._turns: dict[str, asyncio.Lock] = {}
        self._beginning = asyncio.Lock()

    @property
    def kind(self) -> Kind:
        """That of images."""
        return IMAGE

    def files(self) -> Collection[str]:
        """The hashes of those that are under way."""
        return {one.sha256 for one in self._uploads.values()}

    def used(self) -> Mapping[str, int]:
        """The hashes of all files that have to stay here, of those under way with the size that each was promised."""
        return dict.fromkeys(self._records.files(), 0) | {one.sha256: one.size for one in self._uploads.values()}

    async def items(self) -> Sequence[Item]:
        """Those on record, and those that are coming here."""
        coming = [await self._item(one) for one in self._uploads.values()]
        return [*self._shelved.shelf.all(IMAGE.path), *coming]

    async def item(self, uuid: str) -> Item | None:
        """One of them."""
        if (upload := self._uploads.get(uuid)) is not None:
            return await self._item(upload)
        return await self._shelved.item(uuid)

    # -- bringing one up ----------------------------------------------------------------------------------------------

    async def make(self, value: Model, by: str, *, tenant: str, uuid: str | None) -> Item:  # noqa: ARG002 - Changeable
        """Begin an upload; the one that is there already, or the image, of the same file.

        Raises Refused FL-IMAGE-UPLOAD, FL-IMAGE-SIZE, FL-IMAGE-ROOM, FL-IMAGE-MANY, FL-UPGRADE-UNTRUSTED.
        """
        assert isinstance(value, Image)
        if value.size is None or value.sha256 is None:
            raise Refused("FL-IMAGE-UPLOAD", "an upload says the file's size and its sha256",
                          "POST name, size and sha256; then PUT its pieces to image/UUID/content")
        await self._trust.trusted()
        async with self._beginning:
            if (known := self._records.one(value.sha256)) is not None:
                return known
            upload = next((one for one in self._uploads.values() if one.sha256 == value.sha256), None)
            if upload is None:
                upload = await self._begin(uuid or new_uuid(IMAGE), value.name, value.sha256, value.size, by)
            elif upload.size != value.size:
                raise Refused("FL-IMAGE-SIZE", f"that file was begun with {upload.size} bytes, not {value.size}",
                              "delete that upload, or say its size")
        return await self._item(upload)

    async def _begin(self, uuid: str, name: str, sha256: str, size: int, by: str) -> Upload:
        now = self._clock.now()
        while len(self._uploads) >= MOST:
            oldest = min(self._uploads.values(), key=lambda one: one.touched)
            if now - oldest.touched < IDLE:
                raise Refused("FL-IMAGE-MANY", f"{MOST} uploads are under way here", "wait, or delete one")
            await self._drop(oldest)
        await asyncio.to_thread(self._images.begin, sha256, size, self.used())
        upload = self._uploads[uuid] = Upload(uuid, name, sha256, size, by, now, now)
        try:
            await self._save()
        except FairleadError:
            del self._uploads[uuid]
            raise
        return upload

    async def append(self, uuid: str, offset: int, data: bytes, by: str) -> Item:
        """The image, with *data* where it belongs at *offset*; after the last piece, verified.

        Raises Refused FL-OBJECT-UNKNOWN, FL-IMAGE-OFFSET, FL-IMAGE-SIZE, FL-IMAGE-HASH, FL-UPGRADE-...;
        StoreUnavailable, OperatorError FL-DISK.
        """
        async with self._turns.setdefault(uuid, asyncio.Lock()):
            upload = self._uploads.get(uuid)
            if upload is None:
                self._turns.pop(uuid, None)
                if (done := await self._shelved.item(uuid)) is not None:
                    return done  # the answer to the last piece was lost
                raise Refused("FL-OBJECT-UNKNOWN", f"Image object not found: {printable(uuid, 80)}",
                              "an upload goes on at the Controller that it was begun on; see GET /api/image")
            upload.touched = self._clock.now()
            have = await asyncio.to_thread(self._images.have, upload.sha256)
            if offset >= have and data:
                have = await asyncio.to_thread(self._images.write, upload.sha256, offset, data, upload.size)
            if have < upload.size:
                return await self._item(upload)
            return await self._complete(upload, by)

    async def _complete(self, upload: Upload, by: str) -> Item:
        """Verify it; then it is on record. Raises Refused, StoreUnavailable, OperatorError."""
        try:
            if await asyncio.to_thread(self._images.whole, upload.sha256) is None:
                await asyncio.to_thread(self._images.finish, upload.sha256)
            verified = await self._checking.check(upload.sha256)
        except Refused as refusal:
            await self._drop(upload)
            await self._audit.append(Entry("image.refused", f"image {upload.name}"[:256], by, {
                "sha256": upload.sha256, "code": refusal.code}))
            raise
        item = await self._record(upload, verified, by)
        await self._forget(upload)
        return item

    async def _record(self, upload: Upload, verified: Verified, by: str) -> Item:
        manifest, name = verified.manifest, upload.name
        if any(image.name == name for _, image in self._records.all()):
            name = f"{name[:200]} ({upload.sha256[:12]})"

        def insist() -> None:
            if self._records.one(upload.sha256) is not None:
                raise Refused("FL-OBJECT-EXISTS", f"the image {upload.sha256} is on record", "use that one")

        value = Image(
            name=name, type="IMAGE_TYPE_SYSTEM", progress=100, start_time=rfc3339(upload.began),
            end_time=rfc3339(self._clock.now()), size=upload.size, sha256=upload.sha256, state="verified",
            offset=upload.size, version=manifest.version, minimum=manifest.minimum, roles=list(manifest.roles),
            counter=manifest.counter, number=verified.seen.timestamp, uploaded_by=by, controllers=[self._me])
        try:
            return await self._records.shelf.put(IMAGE, Item(upload.uuid, value), Entry(
                "image.verified", f"image {name}"[:256], by, {
                    "uuid": upload.uuid, "version": manifest.version, "sha256": upload.sha256, "size": upload.size,
                    "counter": manifest.counter}), insist=insist)
        except Refused:
            if (known := self._records.one(upload.sha256)) is not None:  # it was brought to another Controller, too
                return known
            raise

    # -- taking one away ----------------------------------------------------------------------------------------------

    async def remove(self, old: Item, by: str) -> None:
        """It is no more: an image on every Controller, an upload here. Raises Refused FL-OBJECT-REFERRED."""
        async with self._turns.setdefault(old.uuid, asyncio.Lock()):
            if (upload := self._uploads.get(old.uuid)) is not None:
                await self._drop(upload)
                await self._audit.append(Entry("image.called-off", f"image {upload.name}"[:256], by, {
                    "sha256": upload.sha256}))
                return
        self._turns.pop(old.uuid, None)
        if self._in_use(old.uuid):
            raise Refused("FL-OBJECT-REFERRED", "Cannot delete, an upgrade to this image is under way",
                          "wait for its end, or `fairlead upgrade abort`")
        await self._shelved.remove(old, by)

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Images do not change."""
        raise NotImplementedError

    # -- what is under way --------------------------------------------------------------------------------------------

    async def _item(self, upload: Upload) -> Item:
        have = min(await asyncio.to_thread(self._images.have, upload.sha256), upload.size)
        return Item(upload.uuid, Image(
            name=upload.name, type="IMAGE_TYPE_SYSTEM", progress=min(99, have * 100 // upload.size),
            start_time=rfc3339(upload.began), size=upload.size, sha256=upload.sha256, state="uploading", offset=have,
            uploaded_by=upload.by), upload.touched)

    async def _drop(self, upload: Upload) -> None:
        await asyncio.to_thread(self._images.remove, upload.sha256)
        await self._forget(upload)

    async def _forget(self, upload: Upload) -> None:
        self._uploads.pop(upload.uuid, None)
        self._turns.pop(upload.uuid, None)
        await self._save()

    async def _save(self) -> None:
        text = json.dumps([asdict(one) for one in self._uploads.values()]).encode()
        await asyncio.to_thread(files.write_private, self._file, text)


def _read(path: Path) -> Sequence[Upload]:
    try:
        return [Upload(**fields) for fields in strict.loads(files.read_private(path))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):  # what was under way is brought again
        log.warning("uploads.unread", code="FL-STATE-DAMAGED")
        return []
