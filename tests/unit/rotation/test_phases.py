"""What a rotation does next: forward when nobody is behind, back when somebody stays, and never back too late."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.rotation import phases
from fairlead.rotation.phases import Phase, Rotation, Seen, step

NOW = 1_700_000_000 * SECOND
FORWARD: list[Phase] = ["stage", "distribute", "acknowledge", "cut-over", "retire", "over"]


def rotation(phase: Phase, behind: Mapping[str, str] | None = None, **more: object) -> Rotation:
    made = Rotation("1", "secure-channel", "jane", NOW, NOW, phase, NOW, moved_at=NOW, behind=dict(behind or {}),
                    missing=len(behind or {}), late_since=NOW if behind else 0)
    return replace(made, **more)  # type: ignore[arg-type]


def test_each_phase_follows_the_one_before_when_nobody_is_behind() -> None:
    one = phases.begun(rotation("scheduled"), NOW)
    seen = []
    while one is not None:
        seen.append(one.phase)
        one = step(one, Seen({}, 7), NOW)
    assert seen == FORWARD


def test_it_begins_when_its_time_has_come() -> None:
    later = rotation("scheduled", starts_at=NOW + 5)
    assert phases.begun(later, NOW + 4) is None
    begun = phases.begun(later, NOW + 5)
    assert begun is not None
    assert begun.phase == "stage"


@pytest.mark.parametrize(("phase", "becomes", "outcome"), [
    ("stage", "withdraw", "rolled-back"), ("distribute", "withdraw", "rolled-back"),
    ("acknowledge", "withdraw", "rolled-back"), ("cut-over", "cut-back", "rolled-back"), ("retire", "over", "done"),
    ("cut-back", "withdraw", "rolled-back"), ("withdraw", "over", "rolled-back")])
def test_who_stays_behind_turns_it_back_while_there_is_a_way(phase: Phase, becomes: Phase, outcome: str) -> None:
    behind = {"se-1": "it is deaf"}
    one = rotation(phase, behind, outcome="rolled-back" if phase in ("cut-back", "withdraw") else "")
    patience = one.patience_s * SECOND
    assert step(one, Seen(behind), NOW + patience) is None
    after = step(one, Seen(behind), NOW + patience + 1)
    assert after is not None
    assert (after.phase, after.outcome) == (becomes, outcome)
    if phase in FORWARD:
        assert "se-1 (it is deaf)" in after.why


def test_patience_begins_anew_when_somebody_catches_up_and_ends_all_the_same() -> None:
    one = step(rotation("acknowledge", {"a": "", "b": ""}), Seen({"a": ""}), NOW + 50 * SECOND)
    assert one is not None
    assert step(one, Seen({"a": ""}), NOW + 100 * SECOND) is None
    flapping, now = one, NOW
    while flapping.phase == "acknowledge":
        now += 10 * SECOND
        flapping = step(flapping, Seen({"a": "", "b": ""} if flapping.missing == 1 else {"a": ""}), now) or flapping
        assert now < NOW + 20 * 60 * SECOND, "it never ends"
    assert flapping.phase == "withdraw"


def test_those_who_were_left_behind_knowingly_are_not_waited_for() -> None:
    after = step(rotation("acknowledge", forced=("se-1",)), Seen({"se-1": "too old"}), NOW)
    assert after is not None
    assert after.phase == "cut-over"


def test_bundles_are_waited_for_without_patience() -> None:
    waits = step(rotation("acknowledge"), Seen({}, tokens=2), NOW)
    assert waits is not None
    assert (waits.phase, waits.tokens) == ("acknowledge", 2)
    assert step(waits, Seen({}, tokens=2), NOW + 500 * SECOND) is None
    after = step(waits, Seen({}, tokens=0), NOW + 501 * SECOND)
    assert after is not None
    assert after.phase == "cut-over"


def test_who_falls_behind_while_bundles_are_waited_for_has_the_whole_patience() -> None:
    """An engine that connects anew is behind for a moment."""
    one = step(rotation("acknowledge"), Seen({}, tokens=1), NOW) or rotation("acknowledge")
    now = NOW + phases.LONGEST * one.patience_s * SECOND
    for _ in range(3):
        now += 10 * SECOND
        for behind in ({"se-1": "it has said nothing yet"}, {}):
            after = step(one, Seen(behind, tokens=1), now)
            assert after is not None
            assert (after.phase, after.missing) == ("acknowledge", len(behind))
            one = after
    late = step(one, Seen({"se-1": "it is deaf"}, tokens=1), now)
    assert late is not None
    back = step(late, Seen({"se-1": "it is deaf"}, tokens=1), now + one.patience_s * SECOND + 1)
    assert back is not None
    assert back.phase == "withdraw"


@pytest.mark.parametrize(("phase", "becomes"), [
    ("scheduled", "over"), ("stage", "withdraw"), ("distribute", "withdraw"), ("acknowledge", "withdraw"),
    ("cut-over", "cut-back"), ("cut-back", "cut-back"), ("withdraw", "withdraw")])
def test_it_can_be_called_off_until_it_retires(phase: Phase, becomes: Phase) -> None:
    assert phases.aborted(rotation(phase), "jane", NOW).phase == becomes


@pytest.mark.parametrize("phase", ["retire", "over"])
def test_there_is_no_way_back_once_it_retires(phase: Phase) -> None:
    with pytest.raises(Refused) as caught:
        phases.aborted(rotation(phase), "jane", NOW)
    assert caught.value.code == "FL-ROTATE-LATE"
    assert phases.failed(rotation(phase), "no key", NOW) == rotation(phase)


@given(st.lists(st.tuples(st.sampled_from(["caught up", "behind", "fails", "abort"]), st.integers(0, 200)),
                max_size=40))
def test_the_old_one_is_never_given_up_before_the_new_one_is_used_and_everything_ends(
        happens: list[tuple[str, int]]) -> None:
    one, now, seen = rotation("stage"), NOW, ["stage"]
    for what, seconds in [*happens, *[("caught up", 1)] * 8]:
        now += seconds * SECOND
        before = one
        if what == "abort" and one.phase not in ("retire", "over"):
            one = phases.aborted(one, "jane", now)
        elif what == "fails":
            one = phases.failed(one, "no key", now)
        elif one.phase != "over":
            one = step(one, Seen({"se-1": ""} if what == "behind" else {}), now) or one
        if one.phase != before.phase:
            seen.append(one.phase)
            assert one.phase != "retire" or before.phase == "cut-over"
            assert before.phase != "cut-over" or one.phase in ("retire", "cut-back"), "it goes back by the way it came"
    assert one.phase == "over"
    assert (one.outcome == "done") == ("retire" in seen)
    assert phases.decode(phases.encode(one)) == one


def test_a_leader_that_is_new_turns_nothing_back_but_not_for_ever() -> None:
    """Who is off all the time would else turn back what a new leader goes on with, where patience is short."""
    one = rotation("acknowledge", {"se-1": "it may be coming back"})
    late = NOW + one.patience_s * SECOND + 1
    seen = Seen({"se-1": "it may be coming back"}, settling=True)
    assert step(one, seen, late) is None
    longest = NOW + phases.LONGEST * one.patience_s * SECOND + 1
    for told, now in ((replace(seen, settling=False), late), (seen, longest)):
        back = step(one, told, now)
        assert back is not None
        assert back.phase == "withdraw"
