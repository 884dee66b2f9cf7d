"""Clocks that are wrong by ten years, at either end, ahead or behind: nobody is let in by it, nothing is spent."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fairlead.base.clock import SECOND, SystemClock
from fairlead.base.errors import Refused
from fairlead.enrol import signed
from fairlead.enrol.trust import USER_KEY, load_key
from tests.conftest import need
from tests.hostile.wire import open_wire, restarted
from tests.processes import Site, fairlead
from tests.world import Machine, open_world, refusal

EITHER_WAY = pytest.mark.parametrize("years", [10, -10], ids=["ahead", "behind"])


class Off(SystemClock):
    """A machine whose clock is so many years off; the seconds pass as they do."""

    def __init__(self, years: int) -> None:
        self._off = years * 365 * 86_400 * SECOND

    def now(self) -> int:
        return super().now() + self._off


def day(years: int, offset: int = 0) -> str:
    return f"{datetime.now(UTC) + timedelta(days=years * 365 + offset):%Y-%m-%d}"


@EITHER_WAY
async def test_the_joining_machines_clock_decides_nothing_but_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  years: int) -> None:
    """It is asked for messages only; deadlines are told by seconds that pass. Afterwards, as a node with that clock, it
    is told by the Controller's signed word what time it is, and its call has its one effect."""
    async with open_wire(tmp_path, monkeypatch) as wire:
        clock = Off(years)
        trust = await wire.join("se-1", await wire.world.export(), clock)
        wire.joined("se-1")
        wire.world.portal = restarted(wire.world, wire.presented)
        key = load_key(tmp_path / "se-1", USER_KEY)
        met = len(wire.portal.conversations)
        assert (await signed.reread(trust, key, clock.now())).node == "se-1"
        assert len(wire.portal.conversations) == met + 2
        await signed.call(trust, key, clock.now(), {"v": 1, "op": "leave"})
        assert (await wire.world.events("se-1")).count("node.left") == 1


@pytest.mark.parametrize("years", [9, -10], ids=["ahead", "behind"])  # a root issues nothing behind its own end
async def test_a_certificate_years_off_blames_the_clocks_and_spends_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    """The Controller's clock was wrong when it made its certificate. Nothing is said to it; when it presents a right
    one, the same bundle joins, with the same keys."""
    async with open_wire(tmp_path, monkeypatch) as wire:
        wire.present(wire.portal_certificate(years))
        bundle = await wire.world.export()
        before = await wire.world.revision()
        with pytest.raises(Refused) as caught:
            await wire.join("se-1", bundle)
        assert caught.value.code == "FL-TIME-SKEW"
        assert day(0) in caught.value.message
        assert any(first in caught.value.message for first in (day(years), day(years, -1)))  # back-dated by an hour
        assert await wire.world.revision() == before
        assert (await wire.world.token(bundle)).state == "open"
        pending = (tmp_path / "se-1/pending/join.json").read_bytes()
        wire.present(wire.portal_certificate())
        await wire.join("se-1", bundle)
        wire.joined("se-1")
        assert (tmp_path / "se-1/keys/host").read_bytes().splitlines()[1] in pending


@EITHER_WAY
async def test_a_root_ten_years_off_is_never_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     years: int) -> None:
    """A whole cluster that was made by a wrong clock: even with a leaf of today."""
    async with open_wire(tmp_path, monkeypatch, root_made=years) as wire:
        before = await wire.world.revision()
        bundle = await wire.world.export()
        issued = await wire.world.revision()
        if years > 0:
            wire.present(wire.portal_certificate())
        assert await refusal(wire.join("se-1", bundle)) == "FL-TIME-SKEW"
        assert await wire.world.revision() == issued > before
        assert (await wire.world.token(bundle)).state == "open"


@EITHER_WAY
async def test_a_controllers_clock_that_jumps_gives_no_token_more_than_its_time(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    """Ahead it ends tokens early, for good; behind it ends none later: seconds that pass are counted all the same."""
    async with open_world(tmp_path) as world:
        passed = 0.0
        monkeypatch.setattr(world.clock, "monotonic", lambda: passed)
        before, reserved, machine = await world.export(), await world.export(), Machine()
        core = await world.exchange(reserved, machine)
        world.clock.set(years * 365 * 86_400)
        if years > 0:
            assert await refusal(world.exchange(before, Machine(), "se-2")) == "FL-JOIN-EXPIRED"
            assert await refusal(world.commit(reserved, machine, core)) == "FL-JOIN-EXPIRED"
            world.clock.set(0)
        during = await world.export()
        passed = 601.0
        for late in (before, during):
            assert await refusal(world.exchange(late, Machine(), "se-3")) == "FL-JOIN-EXPIRED"
        passed = 661.0
        assert await refusal(world.commit(reserved, machine, core)) in ("FL-JOIN-EXPIRED", "FL-JOIN-REFUSED")
        assert core.node_id not in world.directory.nodes
        assert (await world.join("se-9")).state == "up"


@pytest.mark.whole
@EITHER_WAY
def test_the_command_on_a_machine_ten_years_off(tmp_path: Path, years: int) -> None:
    need("faketime")
    with Site(tmp_path / "site") as site:
        (tmp_path / "site").mkdir()
        controller = site.controller()
        bundle = site.bundle(controller)
        join = ("engine", "join", bundle, "--name", "se-1")
        said = fairlead(*join, state=tmp_path / "se", before=["faketime", f"{years * 365:+d} days"]).refused(
            "FL-TIME-SKEW", alone=False)
        assert day(years) in said
        assert [row["state"] for row in controller.listed("token")] == ["open"]
        fairlead(*join, state=tmp_path / "se").done()
        assert controller.node("se-1")["state"] == "down"
