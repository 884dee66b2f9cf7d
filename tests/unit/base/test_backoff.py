"""Delays rise to their bound, from nothing up: and to a lower one where asking again is cheap."""

import random

from fairlead.base.backoff import FullJitter


class Latest(random.Random):
    """Draws the longest delay."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


def test_they_double_up_to_the_most_and_begin_again() -> None:
    delay = FullJitter(0.5, 15.0, Latest())
    assert [delay.next() for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    delay.reset()
    assert delay.next() == 0.5


def test_this_time_no_more_than_that() -> None:
    delay = FullJitter(0.5, 15.0, Latest())
    assert [delay.next(4.0) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]
    assert delay.next() == 15.0, "what costs more waits for longer"


def test_a_fleet_is_spread_over_the_whole_of_it() -> None:
    fleet = [FullJitter(8.0, 15.0).next() for _ in range(400)]
    assert min(fleet) < 1 < 7 < max(fleet) <= 8
