"""Bundles that are not as they were exported: one line each, nothing half done, and the right one works afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Daemon, Site, fairlead

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests

Fields = dict[str, Any]


@pytest.fixture(scope="module")
def good(site: Site, controller: Daemon) -> bytes:
    return site.bundle(controller).read_bytes()


def changed(change: Callable[[Fields], object]) -> Callable[[bytes], bytes]:
    """The bundle with some of its fields changed."""
    def apply(good: bytes) -> bytes:
        fields = json.loads(good)
        change(fields)
        return json.dumps(fields).encode()
    return apply


def turned(fields: Fields) -> None:
    """Point the bundle at another machine, as somebody in the middle would."""
    fields["controllers"][0]["address"] = "127.0.0.99"


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": ("FL-BUNDLE-FORMAT", lambda _: b""),
    "truncated": ("FL-BUNDLE-FORMAT", lambda good: good[:-200]),
    "binary": ("FL-BUNDLE-FORMAT", lambda _: bytes(range(256)) * 16),
    "too large": ("FL-BUNDLE-FORMAT", lambda good: good + b" " * 65_536),
    "of a newer format": ("FL-BUNDLE-VERSION", changed(lambda fields: fields.update(fairlead_bundle=2))),
    "with a field more": ("FL-BUNDLE-FORMAT", changed(lambda fields: fields.update(verify=False))),
    "of an unknown role": ("FL-BUNDLE-FORMAT", changed(lambda fields: fields.update(role="\x1b[2Jroot"))),
    "turned to another address": ("FL-BUNDLE-DAMAGED", changed(turned)),
    "with another token": ("FL-TOKEN-CHECKSUM", changed(
        lambda fields: fields.update(token=fields["token"][:20] + "AAAA" + fields["token"][24:]))),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_bundle_is_refused_at_once(controller: Daemon, good: bytes, tmp_path: Path, how: str) -> None:
    code, breaking = BROKEN[how]
    file = tmp_path / "bundle"
    file.write_bytes(breaking(good))
    said = fairlead("engine", "join", file, "--name", "se-broken", state=tmp_path / "se").refused(code)
    assert said.isprintable()
    assert file.exists(), "nothing was spent"
    assert controller.node("se-broken") == {}


def test_the_same_folder_joins_with_the_right_bundle_then(controller: Daemon, good: bytes, tmp_path: Path) -> None:
    for number, content in enumerate((good[:100], good)):
        (tmp_path / "bundle").write_bytes(content)
        result = fairlead("engine", "join", tmp_path / "bundle", "--name", "se-broken", state=tmp_path / "se")
        assert result.code == 1 - number, result.err
    assert controller.node("se-broken")["state"] == "down"
    fairlead("engine", "join", tmp_path / "bundle", "--name", "se-broken", state=tmp_path / "se").refused("FL-FILE")
    (tmp_path / "bundle").write_bytes(good)
    fairlead("engine", "join", tmp_path / "bundle", "--name", "se-again", state=tmp_path / "se").refused(
        "FL-ALREADY-JOINED")
