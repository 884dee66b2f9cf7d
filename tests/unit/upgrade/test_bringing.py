"""Having bundles brought: resumed over cuts, believed by nobody's word, and refused from a Controller that lies."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.base import files
from fairlead.base.errors import FairleadError, Refused
from fairlead.engine.images import OwnTrust
from fairlead.fleet.images import Giving
from fairlead.link import frames
from fairlead.link.images import VERSION, Have
from fairlead.transport.peer import Peer
from fairlead.upgrade import bringing as module
from fairlead.upgrade.bringing import Bringing
from fairlead.upgrade.images import Images
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.versions import Versions
from tests.unit.fleet.test_logs import pair
from tests.unit.upgrade.ground import NOW, Publisher, sha
from tests.unit.upgrade.test_images import plenty
from tests.world import ManualClock

GOOD = Publisher(files={"a": os.urandom(300_000)})
BUNDLE = GOOD.bundle()
SHA = sha(BUNDLE)
EVIL = Publisher("evil").bundle()


@dataclass
class Controllers:
    """By name: what each gives for which hash. *cut*: a channel ends after so many bytes."""

    folder: Path
    gives: dict[str, dict[str, bytes]]
    cut: int = 2**60
    refusing: dict[str, Have] = field(default_factory=dict)
    """By name: what is said instead."""
    opened: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def controllers(self) -> list[str]:
        return sorted(self.gives)

    async def stream_to(self, name: str) -> Any:
        return _Tunnel(self, name)


@dataclass
class _Tunnel:
    all: Controllers
    name: str

    async def subsystem(self, name: str) -> Any:
        assert name == "fairlead-image"
        ours, theirs = pair()
        theirs.left = self.all.cut
        self.all.opened.append(self.name)
        if (refusal := self.all.refusing.get(self.name)) is not None:
            await theirs.send(frames.encode(refusal.model_dump()))
            return ours
        state = self.all.folder / self.name
        state.mkdir(mode=0o700, exist_ok=True)
        images = Images(state, space=plenty)
        for told, data in self.all.gives[self.name].items():
            images.begin(told, len(data))
            images.path(told).write_bytes(data)
        sizes = {told: len(data) for told, data in self.all.gives[self.name].items()}
        giving = Giving(images, cast("Any", _Sizes(sizes)), rate=2**40)
        cast("Any", theirs).open = True
        peer = Peer(node_id="n", node="se-1", role="engine", user="u", standing="active", fingerprint="f")
        cast("Any", theirs).send_now = ours.came.put_nowait

        async def serve() -> None:
            await giving.serve(peer, cast("Any", theirs))
            theirs.close()

        self.all.tasks.append(asyncio.get_running_loop().create_task(serve()))
        return ours


@dataclass
class _Sizes:
    sizes: dict[str, int]

    def size_of(self, sha256: str) -> int | None:
        return self.sizes.get(sha256)


@dataclass
class House:
    bringing: Bringing
    images: Images
    versions: Versions
    ways: Controllers
    lying: list[str]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    files.make_private_folder(tmp_path / "state")
    tmp_path = tmp_path / "state"
    images, versions, liars = Images(tmp_path, space=plenty), Versions(tmp_path, "1.0.0"), list[str]()
    ways = Controllers(tmp_path, {"ctl-1": {SHA: BUNDLE}})

    async def lying(name: str, sha256: str) -> None:
        liars.append(name)

    async def now() -> int:
        return NOW

    made = Bringing(images, ways, OwnTrust(versions), ManualClock(), now, lying=lying)
    versions.pin(GOOD.roots[0])
    yield House(made, images, versions, ways, liars)
    made.close()
    for task in ways.tasks:
        task.cancel()
    await asyncio.gather(*ways.tasks, return_exceptions=True)


async def refused(house: House, sha256: str = SHA, size: int = len(BUNDLE)) -> str:
    with pytest.raises(FairleadError) as found:
        await house.bringing.bring(sha256, size)
    return found.value.code


async def test_a_bundle_comes_over_cuts_and_is_held_as_it_was_verified(house: House) -> None:
    house.ways.cut = 100_000
    verified = await house.bringing.bring(SHA, len(BUNDLE))
    assert (verified.sha256, verified.manifest.version) == (SHA, "2.0.0")
    assert len(house.ways.opened) == 4
    assert (house.bringing.moved.bytes, house.bringing.moved.files, house.bringing.came(SHA)) == (
        len(BUNDLE), 1, len(BUNDLE))
    house.images.path(SHA).unlink()
    house.images.path(SHA).write_bytes(b"another file in its place")
    handle = house.bringing.open(SHA)
    assert os.pread(handle, len(BUNDLE) + 1, 0) == BUNDLE
    os.close(handle)
    seen = house.versions.seen()
    assert (seen.targets, seen.counter) == (7, 0), "the counter counts once the version has proved itself"


async def test_a_controller_that_gives_other_bytes_is_named_and_another_one_asked(house: House) -> None:
    house.ways.gives = {"ctl-1": {SHA: EVIL.ljust(len(BUNDLE), b"x")[:len(BUNDLE)]}, "ctl-2": {SHA: BUNDLE}}
    for _ in range(5):
        await house.bringing.bring(SHA, len(BUNDLE))
        house.images.remove(SHA)
    house.ways.gives.pop("ctl-2")
    assert await refused(house) == "FL-IMAGE-HASH"
    assert set(house.lying) == {"ctl-1"}
    assert house.images.have(SHA) == 0


async def test_bytes_of_two_controllers_make_no_file_and_the_one_that_lies_is_found(house: House) -> None:
    house.ways.gives = {"ctl-1": {SHA: bytes(len(BUNDLE))}, "ctl-2": {SHA: BUNDLE}}
    house.images.begin(SHA, len(BUNDLE))
    house.images.write(SHA, 0, bytes(1000), len(BUNDLE))  # of nobody knows whom
    await house.bringing.bring(SHA, len(BUNDLE))
    assert set(house.lying) <= {"ctl-1"}


async def test_a_compromised_controllers_own_bundle_is_refused_by_the_pinned_root(house: House) -> None:
    house.ways.gives["ctl-1"] = {sha(EVIL): EVIL}
    assert await refused(house, sha(EVIL), len(EVIL)) in ("FL-UPGRADE-ROOT", "FL-UPGRADE-SIGNATURES")
    assert house.images.have(sha(EVIL)) == 0
    with pytest.raises(Refused):
        house.bringing.open(sha(EVIL))
    assert house.versions.root() == GOOD.roots[0]


async def test_attack_a_bundle_over_which_this_software_stumbles_is_refused_and_not_kept(
        house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(*_: Any) -> Any:
        raise ValueError("negative count")

    with monkeypatch.context() as patch:
        patch.setattr(house.bringing, "_verify", stumbles)
        assert await refused(house) == "FL-INTERNAL"
    assert house.images.have(SHA) == 0
    await house.bringing.bring(SHA, len(BUNDLE))


async def test_nothing_is_fetched_without_a_root_and_nothing_older_than_what_was_seen_is_kept(
        house: House, tmp_path: Path) -> None:
    house.versions.remember(Seen(root=1, timestamp=8, snapshot=8, targets=8, counter=3))
    assert await refused(house) == "FL-UPGRADE-ROLLBACK"
    assert house.images.have(SHA) == 0
    (tmp_path / "state" / "versions" / "root.json").unlink()
    house.ways.opened.clear()
    assert await refused(house) == "FL-UPGRADE-UNTRUSTED"
    assert house.ways.opened == []


@pytest.mark.parametrize("turns", ["one", "many"])
async def test_attack_slow_retrieval_a_controller_that_drips_holds_nobody_up(
        house: House, monkeypatch: pytest.MonkeyPatch, turns: str) -> None:
    monkeypatch.setattr(module, "TURN_S", 0.3)
    house.ways.gives["ctl-2"] = house.ways.gives["ctl-1"]
    house.bringing._having = lambda _: ["ctl-1"]  # it says so, and is asked first
    asked, drips = list[str](), _Drips(many=turns == "many")
    real = house.ways.stream_to

    async def stream_to(name: str) -> Any:
        asked.append(name)
        return drips if name == "ctl-1" else await real(name)

    monkeypatch.setattr(house.ways, "stream_to", stream_to)
    async with asyncio.timeout(20):
        await house.bringing.bring(SHA, len(BUNDLE))
    assert asked == ["ctl-1", "ctl-2"]
    assert house.lying == []
    assert 0 < drips.at < len(BUNDLE) // 2


@dataclass
class _Drips:
    """A Controller that is never silent for long, and gives a byte at a time. *many*: a byte a turn."""

    many: bool
    at: int = 0
    left: list[bytes] = field(default_factory=list)

    async def subsystem(self, name: str) -> Any:
        self.left = [frames.encode(Have(v=VERSION, size=len(BUNDLE)).model_dump())]
        return self

    async def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...

    async def receive(self) -> bytes:
        if self.left:
            return self.left.pop()
        await asyncio.sleep(0.02)
        if self.many:
            self.left = [b""]
        self.at += 1
        return BUNDLE[self.at - 1:self.at]


@pytest.mark.parametrize("code", ["FL-DISK", "FL-IMAGE-ROOM", "FL-IMAGE-HASH", "FL-UPGRADE-SIGNATURES"])
async def test_attack_a_controllers_refusal_is_not_taken_for_this_nodes_own_fault(house: House, code: str) -> None:
    house.ways.gives["ctl-2"] = house.ways.gives["ctl-1"]
    house.ways.refusing["ctl-1"] = Have(v=VERSION, size=0, code=code, words="\x1b[2J" * 200)
    house.bringing._having = lambda _: ["ctl-1"]  # it says so, and is asked first
    house.images.begin(SHA, len(BUNDLE))
    house.images.write(SHA, 0, BUNDLE[:1000], len(BUNDLE))
    await house.bringing.bring(SHA, len(BUNDLE))
    assert (house.ways.opened, house.lying) == (["ctl-1", "ctl-2"], [])
    assert house.bringing.came(SHA) == len(BUNDLE) - 1000, "what was here has stayed"
    house.images.remove(SHA)
    house.ways.gives.pop("ctl-2")
    with pytest.raises(Refused) as found:
        await house.bringing.bring(SHA, len(BUNDLE))
    assert (found.value.code, found.value.message.isprintable()) == ("FL-IMAGE-UNKNOWN", True)


async def test_what_is_here_but_for_its_name_is_not_asked_for(house: House) -> None:
    house.images.begin(SHA, len(BUNDLE))
    house.images.write(SHA, 0, BUNDLE, len(BUNDLE))  # it was killed before it had seen the hash
    await house.bringing.bring(SHA, len(BUNDLE))
    assert len(house.ways.opened) == 1


async def test_what_is_here_is_used_however_full_the_disk_is(house: House) -> None:
    await house.bringing.bring(SHA, len(BUNDLE))
    house.images._space = lambda _: -1
    await house.bringing.bring(SHA, len(BUNDLE))
    house.images.remove(SHA)
    assert await refused(house) == "FL-IMAGE-ROOM"


async def test_nobody_has_it_and_nobody_is_there(house: House) -> None:
    assert await refused(house, "f" * 64) == "FL-IMAGE-UNKNOWN"
    house.ways.gives.clear()
    assert await refused(house) == "FL-IMAGE-AWAY"
