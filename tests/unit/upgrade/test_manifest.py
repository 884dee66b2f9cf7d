"""A manifest has one spelling, clean paths, and no two files that are one."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fairlead.base.errors import Refused
from fairlead.upgrade.manifest import File, Manifest, check_path, decode, distinct, encode, parts

SHA = "0" * 64
SOUND = Manifest("1.10.0", "1.2.0", ("controller", "engine"), 4, (File("a.whl", 3, SHA), File("b/c", 0, SHA)))


def test_it_is_read_as_it_is_written() -> None:
    assert decode(encode(SOUND)) == SOUND


@pytest.mark.parametrize("bad", [
    replace(SOUND, version="1.2"), replace(SOUND, version="1.2.3.4"), replace(SOUND, version="01.2.3"),
    replace(SOUND, version="1.2.3\n"), replace(SOUND, version="1.2.٣"), replace(SOUND, minimum="1.10.1"),
    replace(SOUND, roles=()), replace(SOUND, roles=("engine", "controller")),
    replace(SOUND, roles=("engine", "engine")), replace(SOUND, roles=("portal",)), replace(SOUND, counter=-1),
    replace(SOUND, counter=True),
    replace(SOUND, counter=1 << 40), replace(SOUND, files=()), replace(SOUND, files=SOUND.files[::-1]),
    replace(SOUND, files=SOUND.files * 2), replace(SOUND, files=(File("a", -1, SHA),)),
    replace(SOUND, files=(File("a", 1 << 40, SHA),)), replace(SOUND, files=(File("a", 1, "A" * 64),)),
    replace(SOUND, files=(File("manifest.json", 1, SHA),)), replace(SOUND, files=(File("Manifest.JSON", 1, SHA),)),
    replace(SOUND, files=tuple(File(f"{n:04}", 0, SHA) for n in range(1001)))])
def test_what_is_none_is_refused(bad: Manifest) -> None:
    with pytest.raises(Refused) as caught:
        decode(encode(bad))
    assert caught.value.code == "FL-UPGRADE-MANIFEST"


def _changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(encode(SOUND)) | fields, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("data", [
    b"", b"null", b"[]", b"{}", encode(SOUND) + b"\n", b" " + encode(SOUND), _changed(more=1), _changed(format=2),
    _changed(counter=4.0), _changed(counter="4"), _changed(version=None), _changed(roles="engine"), _changed(files={}),
    encode(SOUND).replace(b"a.whl", b"\\u0061.whl"), b"[" * 100_000, b"\xff", b"0" * 600_000],
    ids=lambda data: data[:12].decode("ascii", "replace"))
def test_it_has_one_spelling(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode(data)
    assert caught.value.code == "FL-UPGRADE-MANIFEST"


@pytest.mark.parametrize("path", [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "./a", "a\\b", "a\0", "a\n", "a b", "é", "ａ", ".hidden",
    "-rf", "a.", "a./b", "C:x", "a|b", "x" * 201, "/".join("a" * 17)])
def test_a_path_is_clean_and_relative(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|dot"):
        check_path(path)


@pytest.mark.parametrize("paths", [
    ["a", "a"], ["a", "A"], ["a/b", "A/b"], ["a/b", "A/c"], ["a", "a/b"], ["a/b", "a"], ["a", "A/b"], ["ﬁ", "fi"],
    ["\u00e9", "e\u0301"], ["stra\u00dfe", "strasse"], ["K", "\u212a"]])
def test_paths_that_are_one_to_a_file_system(paths: list[str]) -> None:
    with pytest.raises(ValueError, match="one to a file system"):
        distinct(paths)
    distinct(["a/b", "a/c", "ab", "b/a"])


def test_versions_are_compared_by_number() -> None:
    assert parts("1.10.0") > parts("1.9.9") > parts("0.10.0")
    for bad in ("", "1", "1.2", "v1.2.3", "1.2.3-rc1", "1.2.1234567890", " 1.2.3"):
        with pytest.raises(Refused) as caught:
            parts(bad)
        assert caught.value.code == "FL-UPGRADE-VERSION"
