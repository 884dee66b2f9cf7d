"""The portal is asked at once by who is refused, later by who reaches nobody, and ever less often by both."""

import itertools
import random

from fairlead.engine.asking import FIRST_S, SELDOM_S, Asking


def asked(asking: Asking, seconds: int, *, refused: bool) -> list[int]:
    return [now for now in range(seconds) if asking.is_due(float(now), refused=refused)]


def test_who_is_refused_asks_at_once_and_ever_less_often() -> None:
    moments = asked(Asking(random.Random(1)), 3600, refused=True)
    assert moments[0] == 0
    assert moments[1] <= FIRST_S + 1
    assert 12 <= len(moments) <= 40  # each second it would be 3600
    assert max(after - before for before, after in itertools.pairwise(moments)) <= SELDOM_S + 1


def test_who_reaches_nobody_asks_after_a_while() -> None:
    first = asked(Asking(), 60, refused=False)[0]
    assert FIRST_S / 2 <= first <= FIRST_S + 1


def test_two_do_not_ask_together() -> None:
    one, other = (asked(Asking(random.Random(seed)), 3600, refused=False) for seed in (1, 2))
    assert one != other


def test_who_was_let_in_begins_anew() -> None:
    asking = Asking()
    asked(asking, 3600, refused=True)
    asking.reset()
    assert asking.is_due(3600.0, refused=True)
