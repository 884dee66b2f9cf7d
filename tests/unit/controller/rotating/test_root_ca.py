"""When a rotation of the root may begin, whom it would leave behind, and who is waited for in each phase."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fairlead.base.clock import HOUR
from fairlead.controller.rotating.root_ca import RootCA
from fairlead.controller.telling import Telling
from fairlead.fleet.attached import Whereabouts
from fairlead.rotation.phases import Phase, Rotation
from tests.world import refusal

ROTATION = Rotation("r", "root-ca", "root", 1, 1, "stage", 1, material={"old": "aa", "new": "bb"})


def kind(told: dict[str, dict[str, str]], *, believed: int = 1, skew_s: int = 0) -> RootCA:
    nodes = [SimpleNamespace(id=name, name=name) for name in ("ctl-1", "ctl-2")]
    directory = SimpleNamespace(controllers=lambda: nodes)

    async def how_many() -> int:
        return believed

    async def attached() -> Whereabouts:
        return Whereabouts(too_old={"se-9": "too old"}, skews={"se-1": skew_s * 1_000_000})

    return RootCA(Telling(cast("Any", None), cast("Any", directory), "somebody", cast("Any", None), {}, told),
                  cast("Any", None), lambda: {"ctl-9": "it is not there"}, attached, how_many)


async def test_it_begins_alone_and_with_a_root_of_the_cluster_only() -> None:
    await kind({}).check("")
    assert await refusal(kind({}).check("some-certificate")) == "FL-ROTATE-KIND"
    assert await refusal(kind({}, believed=2).check("")) == "FL-ROOT-BUSY"


async def test_whose_clock_is_too_slow_for_the_new_root_is_named() -> None:
    hour = HOUR // 1_000_000
    always = {"se-9", "ctl-9"}
    for skew, left in ((0, always), (hour, always), (-hour // 2, always), (-hour, {"se-1", *always})):
        assert set(await kind({}, skew_s=skew).stranded("")) == left, skew


@pytest.mark.parametrize(("phase", "roots"), [
    ("acknowledge", "aa,bb"), ("cut-over", "bb,aa"), ("retire", "bb"), ("cut-back", "aa,bb"), ("withdraw", "aa")])
async def test_each_controller_is_waited_for_until_it_goes_by_the_roots_of_the_phase(phase: Phase, roots: str) -> None:
    rotation = replace(ROTATION, phase=phase)
    for other in {"", "aa", "bb", "aa,bb", "bb,aa"} - {roots}:
        told = {"ctl-1": {"roots": roots, "problem": ""}, "ctl-2": {"roots": other, "problem": ""}}
        assert set(await kind(told).behind(rotation)) == {"ctl-2"}, other
    told = {"ctl-1": {"roots": roots, "problem": ""}, "ctl-2": {"roots": roots, "problem": "a broken certificate"}}
    assert set(await kind(told).behind(rotation)) == {"ctl-2"}
    told["ctl-2"]["problem"] = ""
    assert await kind(told).behind(rotation) == {}


async def test_what_was_called_off_before_it_made_anything_waits_for_nobody() -> None:
    assert await kind({}).behind(replace(ROTATION, phase="withdraw", material={})) == {}
    assert await kind({}).behind(ROTATION) == {}
