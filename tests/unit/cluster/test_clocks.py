"""Whose clock is off, and what is said of it."""

import pytest

from fairlead.base.clock import SECOND
from fairlead.cluster.clocks import alarms, astray, fit


@pytest.mark.parametrize(("others", "stands"), [
    ((), True),
    ((29, 31), True), ((31, 31), False), ((-31, -31), False), ((0, 3600), True), ((60, 3600), False),
    ((3600,), True),  # of two nobody can tell
    ((60, 60, 0), True), ((60, 60, 60), False), ((0, 0, 60, 60), True),
])
def test_whose_clock_is_off_the_median_does_not_stand(others: tuple[int, ...], stands: bool) -> None:
    assert fit([seconds * SECOND for seconds in others]) is stands


@pytest.mark.parametrize(("known", "controllers", "stands"), [
    (0, 1, True), (0, 2, False), (1, 2, True), (0, 3, False), (1, 3, True), (1, 4, False), (2, 4, True), (1, 5, False)])
def test_who_has_measured_fewer_than_half_does_not_stand(known: int, controllers: int, stands: bool) -> None:
    """Right after a start it would be its own middle."""
    assert fit([0] * known, controllers) is stands


def test_the_clock_that_is_off_is_named_whoever_looks() -> None:
    for mine in (0, 3600):  # the zero is the clock of the one who looks
        clocks = {name: (at - mine) * SECOND for name, at in (("a", 1), ("b", 3600), ("c", -2))}
        assert astray(clocks) == {"b": 3599 * SECOND}
        assert len(said := alarms(clocks)) == 1
        assert "the clock of b is +3599 s off" in said[0]
    assert not astray({"a": 0, "b": 29 * SECOND})
    assert not alarms({"a": 0, "b": 29 * SECOND})
    assert not alarms({})


def test_of_two_that_differ_none_is_named_and_it_is_said() -> None:
    clocks = {"a": 0, "b": -3600 * SECOND}
    assert not astray(clocks)
    assert len(said := alarms(clocks)) == 1
    assert "a and b are 3600 s apart" in said[0]
