"""Bundle files on a node: what has come is kept, and a file is called by its hash only when it has it."""

import errno
import hashlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.upgrade import images as module
from fairlead.upgrade.images import Images, fetch

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def images(tmp_path: Path) -> Images:
    tmp_path.chmod(0o700)
    return Images(tmp_path, most_bytes=30_000, most_size=20_000, space=plenty)


def plenty(_: Path) -> int:
    """Of a disk, whatever this machine's has."""
    return 2**50


class Source:
    """Gives *data*; *cut*: ends after so many bytes."""

    def __init__(self, data: bytes = DATA, cut: int = 2**30) -> None:
        self.data, self.cut, self.asked = data, cut, list[int]()

    async def rest(self, sha256: str, size: int, offset: int) -> AsyncGenerator[bytes]:
        self.asked.append(offset)
        for place in range(offset, min(len(self.data), offset + self.cut), 1000):
            yield self.data[place:min(place + 1000, offset + self.cut)]


async def test_what_was_cut_off_goes_on_and_is_whole_by_its_hash_alone(images: Images) -> None:
    images.begin(SHA, len(DATA))
    assert await fetch(images, SHA, len(DATA), Source(cut=2500)) == 2500
    assert images.whole(SHA) is None
    with pytest.raises(Refused) as refused:
        images.open(SHA)
    assert refused.value.code == "FL-IMAGE-UNKNOWN"
    rest = Source()
    assert await fetch(images, SHA, len(DATA), rest) == len(DATA) - 2500
    assert rest.asked == [2500]
    assert images.whole(SHA) == images.have(SHA) == len(DATA)
    assert images.path(SHA).stat().st_mode & 0o777 == 0o600
    handle = images.open(SHA)
    assert os.pread(handle, 2 * len(DATA), 0) == DATA
    os.close(handle)


@pytest.mark.parametrize(("data", "code"), [(DATA[:-1] + b"x", "FL-IMAGE-HASH"), (DATA + b"x", "FL-IMAGE-SIZE"),
                                            (DATA * 100, "FL-IMAGE-SIZE")], ids=["other", "longer", "endless"])
async def test_other_bytes_and_more_bytes_are_refused(images: Images, data: bytes, code: str) -> None:
    images.begin(SHA, len(DATA))
    with pytest.raises(Refused) as refused:
        await fetch(images, SHA, len(DATA), Source(data))
    assert refused.value.code == code
    assert images.whole(SHA) is None
    assert images.have(SHA) <= len(DATA)
    assert (images.have(SHA) == 0) == (code == "FL-IMAGE-HASH")


def test_a_piece_belongs_at_the_end(images: Images) -> None:
    images.begin(SHA, len(DATA))
    assert images.write(SHA, 0, DATA[:100], len(DATA)) == 100
    for offset in (0, 99, 101):
        with pytest.raises(Refused) as refused:
            images.write(SHA, offset, b"x", len(DATA))
        assert refused.value.code == "FL-IMAGE-OFFSET"
    assert images.have(SHA) == 100


def test_no_link_is_followed_and_no_name_leads_elsewhere(images: Images, tmp_path: Path) -> None:
    images.begin(SHA, len(DATA))
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    images.path(SHA).with_suffix(".part").symlink_to(victim)
    with pytest.raises(OperatorError):
        images.write(SHA, 0, DATA, len(DATA))
    assert victim.read_bytes() == b""
    for name in ("../victim", "", SHA.upper(), SHA + "0"):
        with pytest.raises(Refused):
            images.path(name)


def test_there_is_a_bound_and_the_oldest_that_nobody_uses_goes(images: Images) -> None:
    for number, age in ((1, 3), (2, 2), (3, 1)):
        name = str(number) * 64
        images.begin(name, 9_000)
        images.write(name, 0, bytes(9_000), 9_000)
        os.utime(images.path(name).with_suffix(".part"), (1_000_000 - age, 1_000_000 - age))
    images.begin(OTHER, 9_000, used={"1" * 64: 0})
    assert [images.have(str(number) * 64) for number in (1, 2, 3)] == [9_000, 0, 9_000]
    with pytest.raises(Refused) as refused:
        images.begin(OTHER, 15_000, used={"1" * 64: 0, "3" * 64: 0})
    assert refused.value.code == "FL-IMAGE-ROOM"
    for size in (0, 20_001):
        with pytest.raises(Refused) as refused:
            images.begin(OTHER, size)
        assert refused.value.code == "FL-IMAGE-SIZE"


def test_attack_many_that_begin_at_once_get_no_more_than_there_is(images: Images) -> None:
    promised = dict[str, int]()
    for number in range(3):
        images.begin(name := str(number) * 64, 10_000, used=promised)
        promised[name] = 10_000
    images.write("0" * 64, 0, bytes(4_000), 10_000)
    with pytest.raises(Refused) as refused:
        images.begin(SHA, 1, used=promised)
    assert refused.value.code == "FL-IMAGE-ROOM"
    images.begin("0" * 64, 10_000, used=promised)  # its own promise does not stand in its way


def test_attack_images_fill_no_disk(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    disk = 10_000
    images = Images(tmp_path, space=lambda folder: disk - sum(one.stat().st_size for one in folder.iterdir()))
    images.begin("1" * 64, 6_000)
    with pytest.raises(Refused) as refused:
        images.begin("2" * 64, 4_001, used={"1" * 64: 6_000})  # not a byte of it has come
    assert refused.value.code == "FL-IMAGE-ROOM"
    images.begin("2" * 64, 4_000, used={"1" * 64: 6_000})
    images.write("1" * 64, 0, bytes(3_000), 6_000)
    images.begin("1" * 64, 6_000, used={"2" * 64: 4_000})  # what is here of it takes no room once more
    disk = 5_000  # the store grows meanwhile
    assert images.write("1" * 64, 3_000, bytes(2_000), 6_000) == 5_000
    with pytest.raises(Refused) as refused:
        images.write("1" * 64, 5_000, b"x", 6_000)
    assert refused.value.code == "FL-IMAGE-ROOM"
    assert images.have("1" * 64) == 5_000
    images.begin("2" * 64, 4_000)  # what nobody uses makes room on the disk, too
    assert images.have("1" * 64) == 0


@pytest.mark.parametrize(("blocks", "available", "free"), [
    (2**23, 2**19, 2**31 - 2**30), (1000, 100, 0), (1000, 1, -405_504)], ids=["large", "small", "full"])
def test_a_disk_keeps_some_space(monkeypatch: pytest.MonkeyPatch, blocks: int, available: int, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=available, f_frsize=4096, f_blocks=blocks))
    assert module.free(Path("/")) == free


def test_a_full_disk_costs_nothing_that_was_there(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    images.begin(SHA, len(DATA))
    images.write(SHA, 0, DATA[:1000], len(DATA))
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if os.fstat(handle).st_size >= 1500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:500])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FairleadError) as refused:
        images.write(SHA, 1000, DATA[1000:3000], len(DATA))
    assert refused.value.code == "FL-DISK"
    monkeypatch.undo()
    assert images.have(SHA) == 1500
    images.write(SHA, 1500, DATA[1500:], len(DATA))
    images.finish(SHA)
    assert images.whole(SHA) == len(DATA)
