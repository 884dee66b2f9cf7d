"""A node's bundles, from the fetched file to the unpacked version."""

import asyncio
import os
from pathlib import Path

import pytest

from fairlead.base import files
from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.engine.images import OwnTrust
from fairlead.engine.upgrading import upgrades
from fairlead.upgrade.bringing import Bringing
from fairlead.upgrade.images import Images
from fairlead.upgrade.own import Taking
from fairlead.upgrade.taking import Bundles
from fairlead.upgrade.versions import Versions
from tests.unit.upgrade.ground import EXPIRES, NOW, Publisher, sha
from tests.unit.upgrade.test_bringing import Controllers
from tests.unit.upgrade.test_images import plenty
from tests.world import ManualClock

OLD = Publisher(files={"a": os.urandom(3000)}).bundle()
NEW = Publisher(files={"a": os.urandom(3000)}).bundle()


class Engine:
    """In *state*, while Controllers give both bundles."""

    def __init__(self, state: Path) -> None:
        async def now() -> int:
            return NOW

        self.images, versions = Images(state, space=plenty), Versions(state, "1.0.0")
        self.ways = Controllers(state.parent / "controllers", {"ctl-1": {sha(data): data for data in (OLD, NEW)}})
        files.make_private_folder(self.ways.folder)
        if versions.root() is None:
            versions.pin(Publisher().roots[0])
        self.bringing = Bringing(self.images, self.ways, OwnTrust(versions), ManualClock(), now)
        self.taking: Taking = upgrades(state, versions, self.bringing, lambda: NOW, lambda: None,
                                       lambda *_, **__: None).own._taking

    async def end(self) -> None:
        self.bringing.close()
        await asyncio.gather(*self.ways.tasks)


async def test_an_engine_keeps_the_newest_bundle_alone_and_finds_it_when_it_is_asked_again(tmp_path: Path) -> None:
    files.make_private_folder(state := tmp_path / "se-1")
    engine = Engine(state)
    for data in (OLD, NEW):
        await engine.taking.bring(sha(data), len(data))
    assert [engine.images.whole(sha(data)) for data in (OLD, NEW)] == [len(OLD), len(NEW)]
    await asyncio.to_thread(engine.taking.unpack, sha(NEW), folder(tmp_path / "1"))
    assert [engine.images.whole(sha(data)) for data in (OLD, NEW)] == [None, len(NEW)]
    await engine.end()
    # it is interrupted before it is installed, and asked again
    engine = Engine(state)
    await engine.taking.bring(sha(NEW), len(NEW))
    assert engine.ways.opened == []
    await asyncio.to_thread(engine.taking.unpack, sha(NEW), folder(tmp_path / "2"))
    # what has been forgotten is fetched again
    await engine.taking.bring(sha(OLD), len(OLD))
    assert engine.ways.opened == ["ctl-1"]
    await asyncio.to_thread(engine.taking.unpack, sha(OLD), folder(tmp_path / "3"))
    await engine.end()


async def test_attack_freeze_what_has_expired_by_store_time_is_not_unpacked(tmp_path: Path) -> None:
    """A Controller verifies by store time to the end, whatever its own clock says."""
    files.make_private_folder(state := tmp_path / "ctl-1")
    engine, times = Engine(state), [NOW]

    async def store_time() -> int:
        return times[0]

    taking = Bundles(engine.bringing, Versions(state, "1.0.0"), "controller", now=store_time)
    into = folder(tmp_path / "1")
    with pytest.raises(Refused) as refused:
        taking.unpack(sha(OLD), into)
    assert refused.value.code == "FL-IMAGE-UNKNOWN"
    await taking.bring(sha(OLD), len(OLD))
    await asyncio.to_thread(taking.unpack, sha(OLD), into)
    times[0] = int(EXPIRES.timestamp() + 1) * SECOND
    await taking.bring(sha(OLD), len(OLD))  # whose own store time stands still here
    with pytest.raises(Refused) as refused:
        taking.unpack(sha(OLD), folder(tmp_path / "2"))
    assert refused.value.code == "FL-UPGRADE-EXPIRED"
    await engine.end()


def folder(path: Path) -> Path:
    files.make_private_folder(path)
    return path
