"""Images brought up to a Controller: resumed, bounded, verified, on record; and the root that decides about them."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.api.images import IMAGE, Image
from fairlead.audit.log import AuditLog
from fairlead.audit.record import Entry
from fairlead.base import files
from fairlead.base.errors import FairleadError, Refused
from fairlead.controller import uploads as module
from fairlead.controller.application import shelf_for
from fairlead.controller.images import Keeping, Records
from fairlead.controller.upgrade_trust import ROOT, SEEN, UpgradeTrust
from fairlead.controller.uploads import Uploads
from fairlead.link.messages import UpgradeRoot
from fairlead.objects.model import Item
from fairlead.store.protocol import Delete, Put
from fairlead.upgrade.bringing import Bringing
from fairlead.upgrade.images import Images
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import MOST_ROOT_BYTES
from fairlead.upgrade.versions import Versions
from tests.unit.controller.ground import Ground, grounded
from tests.unit.upgrade.ground import NOW, Publisher, sha
from tests.unit.upgrade.test_images import plenty
from tests.world import ManualClock, refusal

OURS = Publisher(files={"a": os.urandom(200_000)})
BUNDLE, OTHER = OURS.bundle(), Publisher("evil").bundle()
SHA = sha(BUNDLE)


class Nobody:
    """No other Controller is connected."""

    def controllers(self) -> list[str]:
        return []

    async def stream_to(self, name: str) -> Any:
        raise NotImplementedError


@dataclass
class House:
    ground: Ground
    versions: Versions
    trust: UpgradeTrust
    images: Images
    records: Records
    uploads: Uploads
    keeping: Keeping
    used: set[str]
    """By an upgrade."""

    async def begin(self, data: bytes = BUNDLE, name: str = "b", **instead: Any) -> Item:
        fields = {"name": name, "size": len(data), "sha256": sha(data)} | instead
        return await self.uploads.make(Image(**fields), "admin", tenant="", uuid=None)

    async def bring(self, data: bytes = BUNDLE, name: str = "b") -> Item:
        item = await self.begin(data, name)
        for place in range(0, len(data), 100_000):
            item = await self.uploads.append(item.uuid, place, data[place:place + 100_000], "admin")
        return item


@contextlib.asynccontextmanager
async def housed(state: Path, *, pinned: bool = True) -> AsyncIterator[House]:
    files.make_private_folder(state)
    async with grounded(state, clock := ManualClock()) as ground:
        clock.instant = NOW
        versions = Versions(state, "1.0.0")
        trust = UpgradeTrust(ground.store, ground.audit, versions, "ctl-1")
        images, records = Images(state, space=plenty), Records(ground.shelf)
        bringing = Bringing(images, Nobody(), trust, clock, ground.store.now)

        async def nobody(kind: str, uuid: str) -> list[str]:
            return []

        used: set[str] = set()
        uploads = Uploads(state, images, records, bringing, trust, ground.audit, clock, "ctl-1", nobody,
                          used.__contains__)
        keeping = Keeping(images, records, bringing, "ctl-1", lambda: ["ctl-1"], uploads.files)
        if pinned:
            await trust.pin(OURS.roots[0], "admin")
        yield House(ground, versions, trust, images, records, uploads, keeping, used)
        bringing.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with housed(tmp_path / "ctl") as made:
        yield made


def value(item: Item) -> Image:
    assert isinstance(item.value, Image)
    return item.value


async def test_an_upload_goes_on_wherever_it_was_stopped_and_nothing_is_doubled(house: House, tmp_path: Path) -> None:
    item = await house.begin()
    append = house.uploads.append
    assert value(await append(item.uuid, 0, BUNDLE[:100_000], "admin")).offset == 100_000
    again = await append(item.uuid, 0, BUNDLE[:100_000], "admin")  # the answer was lost
    assert (value(again).offset, value(again).state, value(again).progress) == (100_000, "uploading", 47)
    assert await refusal(append(item.uuid, 100_001, b"x", "admin")) == "FL-IMAGE-OFFSET"
    assert await refusal(append(item.uuid, 100_000, bytes(len(BUNDLE)), "admin")) == "FL-IMAGE-SIZE"
    assert (await house.begin()).uuid == item.uuid  # begun again: the same
    later = Uploads(tmp_path / "ctl", house.images, house.records, cast("Any", house.uploads._checking), house.trust,
                    house.ground.audit, house.ground.clock, "ctl-1", cast("Any", None))  # started anew
    done = await later.append(item.uuid, 100_000, BUNDLE[100_000:], "admin")
    image = value(done)
    assert (image.state, image.version, image.sha256, image.size, image.controllers, image.uploaded_by) == (
        "verified", "2.0.0", SHA, len(BUNDLE), ["ctl-1"], "admin")
    assert house.records.size_of(SHA) == len(BUNDLE)
    assert (await later.append(item.uuid, 100_000, b"", "admin")).uuid == item.uuid  # that answer was lost, too
    assert [record.details["sha256"] for record in await house.ground.events("image.verified")] == [SHA]


async def test_two_bring_the_same_file_at_once(house: House) -> None:
    await asyncio.gather(*(_bring(house) for _ in range(2)))
    assert [value(item).state for item in await house.uploads.items()] == ["verified"]


@pytest.mark.parametrize("name", ["b", "another"])
async def test_one_file_has_one_record_though_two_controllers_verify_it_at_once(
        house: House, tmp_path: Path, name: str) -> None:
    ground, checking = house.ground, house.uploads._checking
    files.make_private_folder(tmp_path / "ctl-2")
    shelf = shelf_for(ground.store, audit := AuditLog(ground.store, "ctl-2"), str(ground.trust.cluster_uuid))
    await shelf.load()
    following = asyncio.ensure_future(shelf.follow())
    images, records = Images(tmp_path / "ctl-2", space=plenty), Records(shelf)
    bringing = Bringing(images, Nobody(), house.trust, ground.clock, ground.store.now)
    second = House(ground, house.versions, house.trust, images, records, Uploads(
        tmp_path / "ctl-2", images, records, bringing, house.trust, audit, ground.clock, "ctl-2", cast("Any", None)),
        house.keeping, house.used)

    class Meanwhile:
        async def check(self, sha256: str) -> Any:
            verified = await checking.check(sha256)
            await second.bring(name=name)
            return verified

    house.uploads._checking = Meanwhile()
    item = await house.bring()
    assert [(one.uuid, value(one).name, value(one).controllers) for one, _ in house.records.all()] == [
        (item.uuid, name, ["ctl-2"])]
    assert await house.keeping.turn()  # and this one says that it has it, too
    assert house.records.having(SHA) == ["ctl-1", "ctl-2"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    bringing.close()


async def _bring(house: House) -> None:
    item = await house.begin()
    while value(item).state != "verified":
        place = value(item).offset or 0
        with contextlib.suppress(FairleadError):
            item = await house.uploads.append(item.uuid, place, BUNDLE[place:place + 7_000], "admin")


@pytest.mark.parametrize(("data", "said", "code"), [
    (BUNDLE[:-1] + b"x", SHA, "FL-IMAGE-HASH"), (OTHER, None, "FL-UPGRADE"), (b"no bundle at all", None, "FL-UPGRADE"),
], ids=["other-hash", "other-root", "none"])
async def test_what_is_no_bundle_of_ours_is_refused_and_nothing_of_it_is_left(
        house: House, data: bytes, said: str | None, code: str) -> None:
    item = await house.begin(data, sha256=said or sha(data))
    found = await refusal(house.uploads.append(item.uuid, 0, data, "admin"))
    assert found.startswith(code)
    assert list(await house.uploads.items()) == []
    assert house.images.have(said or sha(data)) == 0
    assert [record.details["code"] for record in await house.ground.events("image.refused")] == [found]


async def test_without_a_root_nothing_begins(tmp_path: Path) -> None:
    async with housed(tmp_path / "ctl", pinned=False) as house:
        assert await refusal(house.begin()) == "FL-UPGRADE-UNTRUSTED"
        await house.trust.pin(OURS.roots[0], "admin")
        await house.begin()


async def test_uploads_are_bounded_and_called_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    assert await refusal(house.begin(sha256=None)) == "FL-IMAGE-UPLOAD"
    first = await house.begin()
    house.ground.clock.instant += 1
    await house.begin(OTHER, "o")
    assert await refusal(house.begin(b"third", "t")) == "FL-IMAGE-MANY"
    house.ground.clock.instant += module.IDLE
    third = await house.begin(b"third", "t")
    assert await house.uploads.item(first.uuid) is None, "nobody has brought a piece of it for long"
    await house.uploads.remove(third, "admin")
    assert await house.uploads.item(third.uuid) is None
    assert await refusal(house.uploads.append(third.uuid, 0, b"t", "admin")) == "FL-OBJECT-UNKNOWN"


async def test_attack_uploads_that_begin_at_once_are_promised_no_more_than_there_is(
        house: House, tmp_path: Path) -> None:
    house.images._most = 3 * len(BUNDLE)
    for number in range(2):
        await house.begin(sha256=str(number) * 64)
    assert await refusal(house.begin(sha256="2" * 64, size=len(BUNDLE) + 1)) == "FL-IMAGE-ROOM"
    later = Uploads(tmp_path / "ctl", house.images, house.records, cast("Any", None), house.trust, house.ground.audit,
                    house.ground.clock, "ctl-1", cast("Any", None))  # started anew
    assert dict(later.used()) == {"0" * 64: len(BUNDLE), "1" * 64: len(BUNDLE)}
    await house.bring()
    assert house.uploads.used()[SHA] == 0


async def test_a_deleted_image_goes_and_a_record_that_nobody_can_serve_goes(house: House) -> None:
    item = await house.bring()
    assert await house.keeping.turn()
    assert house.images.whole(SHA)
    await house.uploads.remove(item, "admin")
    await house.keeping.turn()
    assert house.images.have(SHA) == 0
    await house.bring()
    house.images.remove(SHA)  # as after a restore: the store has it, and no disk
    await house.keeping.turn()
    assert house.records.all() == []
    assert [record.subject for record in await house.ground.events("image.lost")] == ["image b"]


async def test_an_image_that_an_upgrade_uses_is_not_deleted(house: House) -> None:
    item = await house.bring()
    house.used.add(item.uuid)
    assert await refusal(house.uploads.remove(item, "admin")) == "FL-OBJECT-REFERRED"
    assert house.records.one(SHA) is not None
    house.used.clear()
    await house.uploads.remove(item, "admin")
    assert house.records.one(SHA) is None


async def test_another_controller_verifies_by_itself_before_it_keeps_an_image_and_says_so(house: House) -> None:
    item = await house.bring()
    before = value(item).model_copy(update={"controllers": ["ctl-2"]})
    house.images.remove(SHA)
    await house.records.shelf.put(IMAGE, replace(item, value=before), Entry("x", "x", "x"), old=item)
    asked, good = list[str](), False

    class Fetching:
        async def bring(self, sha256: str, size: int) -> Any:
            asked.append(sha256)
            if not good:
                raise Refused("FL-UPGRADE-SIGNATURES", "not ours")
            house.images.begin(sha256, size)
            house.images.path(sha256).write_bytes(BUNDLE)

    house.keeping.fetching, house.keeping.names = Fetching(), lambda: ["ctl-1", "ctl-2"]
    assert not await house.keeping.turn()
    assert house.records.having(SHA) == ["ctl-2"]
    good = True
    assert await house.keeping.turn()
    assert house.records.having(SHA) == ["ctl-1", "ctl-2"]
    assert asked == [SHA, SHA]


# -- the root ---------------------------------------------------------------------------------------------------------

async def test_a_root_is_pinned_once_and_nobody_pins_over_it(house: House) -> None:
    await house.trust.pin(OURS.roots[0], "admin")  # the same again
    assert await refusal(house.trust.pin(Publisher("evil").roots[0], "admin")) == "FL-UPGRADE-PINNED"
    assert await refusal(house.trust.pin(b"{}", "admin")) == "FL-UPGRADE-ROOT"
    assert [record.by for record in await house.ground.events("upgrade.root-pinned")] == ["admin"]
    assert house.versions.root() == OURS.roots[0]
    # a store in wrong hands leads this Controller nowhere
    await house.ground.store.transact([], [Put(ROOT, Publisher("evil").roots[0])])
    assert (await house.trust.trusted())[0] == OURS.roots[0]
    await house.ground.store.transact([], [Delete(ROOT)])
    assert await refusal(house.trust.pin(Publisher("evil").roots[0], "admin")) == "FL-UPGRADE-PINNED"
    assert await house.ground.store.get(ROOT) is None


async def test_a_root_that_no_message_could_carry_is_not_pinned(tmp_path: Path) -> None:
    async with housed(tmp_path / "ctl", pinned=False) as house:
        large = OURS.root(unrecognized_fields={"more": "x" * MOST_ROOT_BYTES})
        assert await refusal(house.trust.pin(large, "admin")) == "FL-UPGRADE-ROOT"
        assert (await house.trust.root(), house.versions.root()) == (None, None)
        room = MOST_ROOT_BYTES - len(OURS.root(unrecognized_fields={"more": ""}))
        largest = OURS.root(unrecognized_fields={"more": "x" * room})
        await house.trust.pin(largest, "admin")
        UpgradeRoot(root=largest.decode())


async def test_what_a_newer_version_keeps_beside_what_was_seen_stays(house: House) -> None:
    later = Seen(root=1).encode()[:-1] + b',"later":{"x":1}}'
    await house.ground.store.transact([], [Put(SEEN, later)])
    assert await house.trust.merge(Seen(timestamp=9)) == Seen(root=1, timestamp=9)
    kept = await house.ground.store.get(SEEN)
    assert kept is not None
    assert json.loads(kept.value)["later"] == {"x": 1}


async def test_only_a_chain_leads_to_another_root_for_all(house: House) -> None:
    ours = Publisher(files=OURS.files).rotate()
    await house.bring(ours.bundle())
    kept = await house.ground.store.get(ROOT)
    assert kept is not None
    assert kept.value == ours.roots[-1] == house.versions.root()
    assert len(await house.ground.events("upgrade.root-followed")) == 1


async def test_what_was_seen_only_rises_and_an_old_backup_lowers_nothing_once_a_node_has_told(
        tmp_path: Path) -> None:
    async with housed(tmp_path / "ctl") as house:
        await house.bring()
        assert (await house.trust.seen()).targets == 7
        assert (await house.trust.merge(Seen(targets=3), "se-1")).targets == 7
        # the Controller is made anew from a backup of before: an empty folder, an old store
        (tmp_path / "ctl" / "versions" / "seen.json").unlink()
        await house.ground.store.transact([], [Put(SEEN, Seen(root=1).encode())])
        await house.trust.merge(Seen(root=1, timestamp=9, snapshot=9, targets=9, counter=5), "se-1")
        raised = (await house.ground.events("upgrade.seen-raised"))[-1]
        assert (raised.by, raised.details["counter"]) == ("se-1", 5)
        older = Publisher(files={"a": b"older"})  # metadata 7, counter 3: signed, and good before
        assert await refusal(house.bring(older.bundle(), "older")) == "FL-UPGRADE-ROLLBACK"
        fresh = Publisher(files={"a": b"x"}, versions=dict.fromkeys(("timestamp", "snapshot", "targets"), 9))
        assert await refusal(house.bring(fresh.bundle(), "counter")) == "FL-UPGRADE-COUNTER"


async def test_the_kind_is_the_apis(house: House) -> None:
    assert house.uploads.kind is IMAGE
