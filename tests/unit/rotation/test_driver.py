"""The leader drives: every step once, in one transaction, and again after a crash; two that lead do not both write."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from fairlead.audit.log import AuditLog
from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.cluster.undertaking import Ledger
from fairlead.keys.ssh import PrivateKey
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of
from fairlead.pki.statement import Content, Signer, Stated, read
from fairlead.rotation import phases
from fairlead.rotation.driver import KIND, NOW, Driver
from fairlead.rotation.phases import Rotation
from fairlead.rotation.statements import TRUST, Statements
from fairlead.store.fence import NotLeading
from fairlead.store.protocol import Absent, Put, StoreUnavailable
from fairlead.store.sqlite import SQLiteStore
from tests.world import ManualClock

ROOT, NEXT = (Authority.create(UUID(int=1), 1_700_000_000 * SECOND) for _ in range(2))
KEY = PrivateKey.generate().public


class Kind:
    """A kind whose work is on record; it may be made to fail, or to stay behind."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.late: dict[str, Mapping[str, str]] = {}
        self.fails: dict[str, Exception] = {}
        self.left: dict[str, str] = {}

    async def check(self, to: str) -> None:
        if to == "no":
            raise Refused("FL-CERT-UNKNOWN", "no")

    async def stranded(self, to: str) -> Mapping[str, str]:
        return self.left

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        return self.late.get(rotation.phase, {})

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        await self._did(rotation, "stage")
        return {"new": "1"}

    async def cut_over(self, rotation: Rotation) -> None:
        await self._did(rotation, "cut-over")

    async def cut_back(self, rotation: Rotation) -> None:
        await self._did(rotation, "cut-back")

    async def retire(self, rotation: Rotation) -> None:
        await self._did(rotation, "retire")

    async def withdraw(self, rotation: Rotation) -> None:
        await self._did(rotation, "withdraw")

    async def _did(self, rotation: Rotation, what: str) -> None:
        assert rotation.phase == what
        if what in self.fails:
            raise self.fails[what]
        self.done.append(what)


class Ground:
    """A store, a kind, a fleet, and Controllers that drive."""

    def __init__(self, store: SQLiteStore, clock: ManualClock) -> None:
        self.store, self.clock, self.kind = store, clock, Kind()
        self.late: dict[str, str] = {}
        self.out: list[str] = []
        self.revoked: list[str] = []
        self.leads = True
        self.ledger = Ledger(store, KIND, phases.encode, phases.decode)
        self.name = "portal.example"
        self.driver = self.controller()

    def controller(self) -> Driver:
        audit = AuditLog(self.store, "ctl-1")

        async def signers() -> Sequence[Signer]:
            return [(der_of(one.certificate_pem), one.state) for one in (ROOT, NEXT)]

        async def content(rotation: Rotation | None) -> Content:
            roots = tuple(der_of(one.certificate_pem) for one in (
                (ROOT, NEXT) if rotation is not None and rotation.both else (ROOT,)))
            return Content("aa", roots, roots[:1], (self.name,),
                           (Stated("1", "ctl-1", (("192.0.2.1", 8443),), 22, "127.64.0.1", KEY, (KEY,)),))

        def fence() -> Sequence[Any]:
            if not self.leads:
                raise NotLeading("ctl-2")
            return ()

        return Driver(self.store, audit, fence, lambda: self.leads, "ctl-1", kinds={"secure-channel": self.kind},
                      statements=Statements(self.store, audit, fence, UUID(int=1), "ctl-1", signers), fleet=self,
                      bundles=self, content=content)

    async def behind(self, number: int) -> Mapping[str, str]:
        assert number
        return self.late

    async def lacking(self) -> Sequence[str]:
        return self.out

    async def revoke(self, token_id: str, by: str) -> None:
        self.revoked.append(f"{token_id} {by}")
        self.out.remove(token_id)

    async def start(self, **more: Any) -> Rotation:
        asked: dict[str, Any] = {"to": "", "by": "jane", "starts_at": 0, "forced": [], "revoke_tokens": False,
                                 "patience_s": 60}
        return await self.driver.start("secure-channel", **asked | more)

    async def now(self) -> Rotation | None:
        current = await self.ledger.current()
        return current[1] if current is not None else None

    async def until(self, phase: str, driver: Driver | None = None) -> Rotation:
        for _ in range(20):
            now = await self.now()
            if now is None or now.phase == phase:
                break
            await (driver or self.driver).drive()
        found = await self.now()
        return found if found is not None else (await self.past())[-1]

    async def past(self) -> list[Rotation]:
        return [*reversed(await self.ledger.past())]

    async def recorded(self) -> list[str]:
        return [one.event for one in await AuditLog(self.store, "ctl-1").records(100)
                if one.event.startswith("rotation.")]


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    clock = ManualClock()
    store = SQLiteStore.open(tmp_path / "store", clock)
    try:
        yield Ground(store, clock)
    finally:
        await store.close()


FORWARD = ["scheduled", "stage", "distribute", "acknowledge", "cut-over", "retire", "over"]


async def test_it_goes_through_all_phases_and_each_is_on_record_once(ground: Ground) -> None:
    await ground.start()
    assert (await ground.until("never")).outcome == "done"
    assert await ground.recorded() == [f"rotation.{phase}" for phase in FORWARD]
    assert ground.kind.done == ["stage", "cut-over", "retire"]
    assert len((await ground.store.list(TRUST)).records) == 3, "each has changed the roots"


@pytest.mark.parametrize("phase", FORWARD[1:-1])
async def test_another_leader_goes_on_from_each_phase(ground: Ground, phase: str) -> None:
    await ground.start()
    await ground.until(phase)
    assert (await ground.until("never", ground.controller())).outcome == "done"
    assert await ground.recorded() == [f"rotation.{phase}" for phase in FORWARD]


async def test_of_two_that_drive_at_once_one_writes(ground: Ground) -> None:
    await ground.start()
    other = ground.controller()
    record = await ground.store.get(NOW)
    assert record is not None
    await ground.driver.drive()
    before = phases.decode(record.value)
    with pytest.raises(NotLeading):
        await other._write(record, before, phases.at(before, "retire", 0))  # it had read before the other wrote
    assert (await ground.until("stage")).phase == "stage"


async def test_who_does_not_lead_begins_nothing_and_drives_nothing(ground: Ground) -> None:
    await ground.start()
    await ground.until("distribute")
    ground.leads = False
    with pytest.raises(NotLeading):
        await ground.driver.drive()
    with pytest.raises(NotLeading):
        await ground.driver.abort("jane")
    found = await ground.now()
    assert found is not None
    assert found.phase == "distribute"


@pytest.mark.parametrize("phase", ["acknowledge", "cut-over", "retire"])
async def test_whoever_has_not_acknowledged_is_waited_for(ground: Ground, phase: str) -> None:
    await ground.start()
    await ground.until(phase)
    ground.late = {"se-1": "it sleeps"}
    for _ in range(3):
        await ground.driver.drive()
    found = await ground.now()
    assert found is not None
    assert (found.phase, found.behind) == (phase, {"se-1": "it sleeps"})
    ground.late = {}
    assert (await ground.until("never")).outcome == "done"


async def test_when_acknowledgements_stop_it_goes_back_by_itself(ground: Ground) -> None:
    await ground.start()
    await ground.until("cut-over")
    ground.late = {"se-1": "it sleeps"}
    await ground.driver.drive()
    ground.clock.set(61)
    await ground.driver.drive()
    found = await ground.now()
    assert found is not None
    assert found.phase == "cut-over", "it leads since a moment ago"
    ground.driver._drives = float("-inf")
    ended = await ground.until("never")
    assert (ended.outcome, ended.why.startswith("in the phase cut-over se-1 (it sleeps)")) == ("rolled-back", True)
    assert ground.kind.done[-2:] == ["cut-back", "withdraw"]
    assert "retire" not in ground.kind.done


@pytest.mark.parametrize("phase", ["stage", "cut-over"])
async def test_what_cannot_be_done_turns_it_back_and_a_store_that_is_away_does_not(ground: Ground, phase: str) -> None:
    await ground.start()
    await ground.until(phase)
    ground.kind.fails[phase] = StoreUnavailable("no quorum")
    with pytest.raises(StoreUnavailable):
        await ground.driver.drive()
    found = await ground.now()
    assert found is not None
    assert found.phase == phase
    ground.kind.fails[phase] = Refused("FL-CERT-EXPIRED", "it has expired")
    ended = await ground.until("never")
    assert (ended.outcome, ended.why) == ("rolled-back", "it has expired [FL-CERT-EXPIRED]")


@pytest.mark.parametrize("lasts", [False, True])
async def test_what_fails_while_it_retires_is_tried_again_but_not_for_ever(ground: Ground, *, lasts: bool) -> None:
    await ground.start()
    await ground.until("retire")
    ground.kind.fails["retire"] = Refused("FL-DISK", "full")
    for _ in range(3):
        await ground.driver.drive()
    found = await ground.now()
    assert found is not None
    assert (found.phase, found.behind) == ("retire", {"ctl-1": "full [FL-DISK]"})
    if lasts:
        ground.clock.set(61)
    else:
        del ground.kind.fails["retire"]
    ended = await ground.until("never")
    assert (ended.outcome, "full [FL-DISK]" in ended.why) == ("done", lasts)


async def test_one_that_is_to_start_later_starts_later(ground: Ground) -> None:
    await ground.start(starts_at=ground.clock.now() + 60 * SECOND)
    for _ in range(3):
        await ground.driver.drive()
    found = await ground.now()
    assert found is not None
    assert found.phase == "scheduled"
    ground.clock.set(60)
    assert (await ground.until("never")).outcome == "done"


async def test_asked_for_again_under_its_id_it_is_the_same(ground: Ground) -> None:
    """The answer may be lost with a leader."""
    begun = await ground.start(name="abc")
    assert await ground.start(name="abc") == begun
    await ground.until("never")
    assert (await ground.start(name="abc")).outcome == "done"


async def test_asked_for_again_while_the_first_time_is_slow_it_is_the_same(
        ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store took it after it had been looked for."""
    begun = await ground.start(name="abc")

    async def nothing(_: str) -> None:
        return None

    monkeypatch.setattr(ground.driver._ledger, "named", nothing)
    assert await ground.start(name="abc") == begun
    with pytest.raises(Refused, match="under way"):
        await ground.start(name="def")


async def test_who_leads_no_more_when_it_is_written_says_so_and_not_that_it_is_busy(
        ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next leader is asked then."""
    await ground.store.transact([], [Put("another leads", b"")])
    monkeypatch.setattr(ground.driver, "_fence", lambda: [Absent("another leads")])
    with pytest.raises(NotLeading):
        await ground.start()


async def test_a_bundle_that_is_used_while_it_is_revoked_stops_nothing(ground: Ground) -> None:
    async def used(token_id: str, by: str) -> None:
        raise Refused("FL-TOKEN-REDEEMED", f"{token_id} {by}")

    ground.out = ["t1"]
    ground.revoke = used  # type: ignore[method-assign]
    await ground.start(revoke_tokens=True)
    assert (await ground.until("never")).outcome == "done"


async def test_of_thousands_that_are_behind_a_few_are_named(ground: Ground) -> None:
    await ground.start()
    await ground.until("acknowledge")
    ground.late = {f"se-{number}": "w" * 1000 for number in range(10_000)}
    await ground.driver.drive()
    record = await ground.store.get(NOW)
    assert record is not None
    assert len(record.value) < 10_000
    found = phases.decode(record.value)
    assert (found.missing, len(found.behind)) == (10_000, 20)


@pytest.mark.parametrize("damage", [b"{}", b"x"])
async def test_a_record_that_cannot_be_read_is_driven_nowhere(ground: Ground, damage: bytes) -> None:
    await ground.store.transact([], [Put(NOW, damage)])
    with pytest.raises((ValueError, KeyError)):
        await ground.driver.drive()


async def test_bundles_are_waited_for_or_revoked(ground: Ground) -> None:
    ground.out = ["t1"]
    await ground.start()
    await ground.until("acknowledge")
    for _ in range(3):
        await ground.driver.drive()
    found = await ground.now()
    assert found is not None
    assert (found.phase, found.tokens) == ("acknowledge", 1)
    await ground.driver.abort("jane")
    await ground.until("never")
    ground.clock.set(5)
    await ground.start(revoke_tokens=True)
    assert (await ground.until("never")).outcome == "done"
    assert ground.revoked == ["t1 jane"]


async def test_it_may_begin_only_alone_and_with_the_stranded_named(ground: Ground) -> None:
    ground.kind.left = {"se-1": "too old", "se-2": "too old"}
    for forced in ([], ["se-1"], ["se-3"]):
        with pytest.raises(Refused) as caught:
            await ground.start(forced=forced)
        assert caught.value.code == "FL-ROTATE-STRANDED"
        assert "se-2: too old" in caught.value.message
    begun = await ground.start(forced=["se-1", "se-2", "se-3"])
    assert begun.forced == ("se-1", "se-2"), "nobody is left behind who need not be"
    with pytest.raises(Refused, match="under way"):
        await ground.start(forced=["se-1", "se-2"])


@pytest.mark.parametrize(("more", "code"), [
    ({"to": "no"}, "FL-CERT-UNKNOWN"), ({"patience_s": 0}, "FL-ROTATE-TIME"), ({"patience_s": 10**6}, "FL-ROTATE-TIME"),
    ({"starts_at": 10**17}, "FL-ROTATE-TIME")])
async def test_what_cannot_be_is_refused_before_anything_changes(ground: Ground, more: dict[str, Any],
                                                                 code: str) -> None:
    with pytest.raises(Refused) as caught:
        await ground.start(**more)
    assert caught.value.code == code
    assert await ground.now() is None


async def test_without_one_there_is_nothing_to_call_off(ground: Ground) -> None:
    with pytest.raises(Refused, match="no rotation"):
        await ground.driver.abort("jane")


async def test_a_statement_is_published_when_what_is_believed_changes_and_not_else(ground: Ground) -> None:
    for _ in range(3):
        await ground.driver.drive()
    assert len((await ground.store.list(TRUST)).records) == 1
    for number in range(5):
        ground.name = f"portal-{number}.example"
        await ground.driver.drive()
    kept = [read(one.value.decode()).statement for one in (await ground.store.list(TRUST)).records]
    assert [one.content.portal_names for one in kept] == [("portal.example",), ("portal-4.example",)], (
        "of those that are past, the ones that changed the roots are kept")
    assert kept[1].number == kept[0].number + 5
