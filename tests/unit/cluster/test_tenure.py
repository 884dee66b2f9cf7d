"""What a leader writes and believes, decided by a clock that the test moves."""

import pytest

from fairlead.base.clock import SECOND
from fairlead.cluster.tenure import (
    MARGIN,
    Leader,
    Reckoning,
    Step,
    Stillness,
    Tenure,
    Timing,
    decode,
    encode,
    first_mark,
    next_term,
)
from fairlead.store.protocol import MARK, Below, Born, Record, mark_value

WALL = 1_767_225_600 * SECOND
ME = Leader("n1", "ctl-1", 7, 12345)


def tenure(timing: Timing | None = None) -> Tenure:
    """A term that began at second 100."""
    return Tenure(ME, 41, WALL, 100.0, timing or Timing())


def marked(term: Tenure, at: float) -> None:
    term.marked(term.mark(WALL, at), at)


def test_it_writes_the_mark_then_renews_then_rests() -> None:
    term = tenure()
    assert term.step(100.5) is Step.REST
    assert term.rest(100.5) == pytest.approx(0.5)
    assert term.step(101.0) is Step.MARK
    marked(term, 101.0)
    assert term.step(101.1) is Step.RENEW
    term.renewed()
    assert term.step(101.1) is Step.REST


def test_it_does_not_renew_on_an_old_mark() -> None:
    """Or the lease would run on while the mark stands, and a token would live beyond its deadline by what it lacks."""
    term = tenure()
    marked(term, 101.0)
    assert term.step(102.0) is Step.MARK
    assert (Timing().lease_s + Timing().period_s) * SECOND <= MARGIN
    assert (Timing().lease_s + Timing().patience_s) * SECOND == MARGIN


def test_belief_counts_from_the_mark_that_was_renewed_and_not_from_any_answer() -> None:
    term = tenure()
    marked(term, 101.0)
    assert not term.leads(103.0)  # a mark alone renews nothing
    assert term.step(103.0) is Step.LOST
    term = tenure()
    marked(term, 101.0)
    term.renewed()  # whenever its answer came
    assert term.leads(103.9)
    assert not term.leads(104.0)
    assert term.left(103.0) == pytest.approx(1.0)


def test_a_leader_whose_key_is_gone_believes_nothing_more() -> None:
    term = tenure()
    term.end()
    assert term.step(100.0) is Step.LOST


def test_the_mark_rises_with_monotonic_time_at_least() -> None:
    term = tenure()
    assert term.mark(WALL + 9 * SECOND, 101.0) == WALL + 9 * SECOND  # a clock that runs ahead
    assert term.mark(WALL - 3600 * SECOND, 102.0) == WALL + 2 * SECOND  # one that was set back
    term.marked(WALL + 9 * SECOND, 102.0)
    assert term.mark(WALL, 103.0) == WALL + 9 * SECOND + 1  # never back, nor the same twice
    term.found(WALL + 60 * SECOND, 103.0)
    assert term.mark(WALL, 104.0) == WALL + 61 * SECOND


def test_a_late_writing_does_not_take_the_mark_back_and_a_passed_term_writes_none() -> None:
    compare, _ = tenure().marking(WALL + 1)
    assert set(compare) == {Born("cluster/leader", 41), Below(MARK, mark_value(WALL + 1))}


def test_a_take_over_goes_on_from_the_mark_and_the_term_that_it_finds() -> None:
    assert first_mark(WALL, None) == WALL
    assert first_mark(WALL, Record(MARK, mark_value(WALL + 5), 1, 1)) == WALL + 6
    assert (next_term(None), next_term(Record("cluster/term", b"9", 1, 1))) == (1, 10)
    assert decode(encode(ME)) == ME


def test_who_takes_over_counts_on_from_the_last_mark_that_it_saw() -> None:
    """By the reading that tells most; its clock, or the mark that it finds, may tell more."""
    reckoning = Reckoning()
    assert reckoning.now(100.0) == 0
    reckoning.saw(None, 100.0)
    reckoning.saw(Record(MARK, mark_value(WALL), 1, 1), 100.5)
    reckoning.saw(Record(MARK, mark_value(WALL), 1, 1), 101.0)
    assert reckoning.now(160.5) == WALL + 60 * SECOND
    found = Record(MARK, mark_value(WALL + 2), 1, 1)
    assert first_mark(WALL - SECOND, found, reckoning.now(160.5)) == WALL + 60 * SECOND
    assert first_mark(WALL + 90 * SECOND, found, reckoning.now(160.5)) == WALL + 90 * SECOND


def test_who_writes_no_mark_for_a_lease_believes_no_more() -> None:
    """What a follower counts begins after the mark was written, and ends before the reading that finds it unchanged."""
    still = Stillness(Timing())
    assert not still.over(1, 10, 100.0, 100.5)
    assert not still.over(1, 10, 103.4, 110.0)
    assert still.over(1, 10, 103.5, 103.6)
    assert not still.over(1, 11, 104.0, 104.1)  # it writes
    assert not still.over(2, 11, 108.0, 108.1)  # another leader, who takes its time
    term = tenure()
    marked(term, 100.4)
    term.renewed()
    assert not term.leads(103.5)


@pytest.mark.parametrize(("lease_s", "period_s"), [(7, 1.0), (6, 1.1), (0, 0.1), (1, 1.0), (3, 0.0)])
def test_no_lease_that_the_margin_does_not_cover(lease_s: int, period_s: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        Timing(lease_s, period_s)
