"""Instants."""

import pytest

from fairlead.base.clock import LAST_INSTANT, rfc3339, spoken


@pytest.mark.parametrize(("instant", "said"), [
    (-1, "1970-01-01T00:00:00Z"), (0, "1970-01-01T00:00:00Z"), (LAST_INSTANT - 1, "9999-12-31T23:59:59Z"),
    (LAST_INSTANT, "9999-12-31T23:59:59Z")])
def test_an_instant_that_cannot_be_said_is_the_nearest_that_can(instant: int, said: str) -> None:
    assert rfc3339(spoken(instant)) == said
