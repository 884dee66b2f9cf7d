"""How fast one engine is listened to: what is said at work is never held up, what nobody at work says is."""

import pytest

from fairlead.fleet.pace import MOST, RATE, TOKEN_BYTES, Pace
from fairlead.link.documents import MOST_DOCUMENTS


def test_an_engine_whose_documents_are_all_new_waits_for_nothing() -> None:
    pace = Pace()
    for number in range(2 * MOST_DOCUMENTS):  # it asks for each body, and says after each what it holds
        assert pace.spend(1, 100_000 * (number % 2), now=5.0) == 0


def test_who_says_more_waits_as_long_as_that_takes() -> None:
    pace = Pace()
    assert pace.spend(int(MOST), 0, now=5.0) == 0
    assert pace.spend(int(RATE), 0, now=5.0) == 1.0
    assert pace.spend(int(RATE), 0, now=6.0) == 1.0, "what it was to wait for is paid"
    assert pace.spend(1, 0, now=8.0) == 0


@pytest.mark.parametrize("tokens", [1, 10, 100])
def test_long_messages_cost_more(tokens: int) -> None:
    pace = Pace()
    pace.spend(int(MOST), 0, now=0.0)
    assert pace.spend(0, tokens * TOKEN_BYTES, now=0.0) == tokens / RATE


def test_nothing_is_saved_up_beyond_the_bucket() -> None:
    pace = Pace()
    assert pace.spend(0, 0, now=1e6) == 0
    assert pace.spend(int(MOST + RATE), 0, now=1e6) == 1.0
