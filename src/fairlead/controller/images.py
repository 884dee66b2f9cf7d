"""This Controller's images: the files that the cluster has on record, each fetched and verified by this Controller.

Rules, and what each stops:

1. An image is on record once one Controller has verified it; each other one verifies it again by itself before it keeps
   it, gives it on, and says so in the record. Engines may then have it of any of them.
2. A file that no record names goes. A record of which nobody has the file any more, after a restore say, goes too: it
   would promise what nobody can give.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from fairlead.api.images import IMAGE, Image
from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError, Refused
from fairlead.objects.model import Item
from fairlead.objects.shelf import Shelf
from fairlead.upgrade.images import Images
from fairlead.upgrade.verify import Verified

AGAIN_S = 15.0
"""What could not be fetched is tried again then, or when a record changes."""

log = structlog.get_logger("fairlead.controller")


class Fetching(Protocol):
    """Who has a bundle brought here, verified (`upgrade.bringing`)."""

    async def bring(self, sha256: str, size: int) -> Verified:
        """Raises FairleadError."""
        ...


class Known(Protocol):
    """The directory, as far as it says which Controllers there are."""

    def controllers(self) -> Sequence[object]:
        """Those that are up; each has a ``name``."""
        ...


@dataclass(slots=True, eq=False)
class Records:
    """The cluster's record of images: what `fleet.images` gives, and who has it."""

    shelf: Shelf

    def all(self) -> Sequence[tuple[Item, Image]]:
        """Each with its value."""
        return [(item, item.value) for item in self.shelf.all(IMAGE.path) if isinstance(item.value, Image)]

    def one(self, sha256: str) -> Item | None:
        """The image whose file that is."""
        return next((item for item, image in self.all() if image.sha256 == sha256), None)

    def size_of(self, sha256: str) -> int | None:
        """Of an image on record; None: there is none."""
        item = self.one(sha256)
        return item.value.size if item is not None and isinstance(item.value, Image) else None

    def having(self, sha256: str) -> Sequence[str]:
        """The names of the Controllers that have it."""
        item = self.one(sha256)
        return item.value.controllers or () if item is not None and isinstance(item.value, Image) else ()

    def files(self) -> set[str]:
        """The hashes of all of them."""
        return {image.sha256 for _, image in self.all() if image.sha256}


@dataclass(slots=True, eq=False)
class Keeping:
    """Follows the record, until cancelled. *uploads*: files that are coming, which stay."""

    images: Images
    records: Records
    fetching: Fetching
    me: str
    names: Callable[[], Collection[str]]
    """Of the Controllers that there are."""
    uploads: Callable[[], Collection[str]] = tuple
    problem: str = ""
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.records.shelf.listen(self._moved.set)

    async def follow(self) -> None:
        """Keep up with the record."""
        while True:
            self._moved.clear()
            try:
                whole = await self.turn()
                self.problem = ""
            except FairleadError as error:
                whole, self.problem = False, error.line() if error.code in ("FL-DISK", "FL-IMAGE-ROOM") else ""
                log.info("images.later", code=error.code, reason=error.message)
            try:
                async with asyncio.timeout(None if whole else AGAIN_S):
                    await self._moved.wait()
            except TimeoutError:
                continue

    async def turn(self) -> bool:
        """Do what is due; whether all is here. Raises FairleadError."""
        await asyncio.to_thread(self.images.forget, self.records.files() | set(self.uploads()))
        whole = True
        for item, image in self.records.all():
            assert image.sha256
            assert image.size
            have = list(image.controllers or ())
            here = await asyncio.to_thread(self.images.whole, image.sha256) is not None
            others = {*have} - {self.me} & {*self.names()}
            if not here and not others:
                await self._lost(item, image)
                continue
            try:
                if not here:
                    await self.fetching.bring(image.sha256, image.size)
                if self.me not in have:
                    await self._say(item, image, sorted({*have, self.me}), "image.kept")
            except Refused as error:  # of this one; the others are looked at
                whole = False
                log.warning("image.not-kept", sha256=image.sha256, code=error.code, reason=error.message)
                if self.me in have:
                    await self._say(item, image, sorted({*have} - {self.me}), "image.not-kept")
        return whole

    async def _say(self, item: Item, image: Image, controllers: Sequence[str], event: str) -> None:
        value = image.model_copy(update={"controllers": list(controllers)})
        await self.records.shelf.put(IMAGE, replace(item, value=value), self._entry(event, image), old=item)

    async def _lost(self, item: Item, image: Image) -> None:
        log.warning("image.lost", sha256=image.sha256, version=image.version)
        await self.records.shelf.drop(IMAGE, item, self._entry("image.lost", image))

    def _entry(self, event: str, image: Image) -> Entry:
        return Entry(event, f"image {image.name}"[:256], self.me, {"sha256": image.sha256 or ""})
