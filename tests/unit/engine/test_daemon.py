"""The engine's daemon, in parts that need no network."""

from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.base.clock import LAST_INSTANT, SECOND, rfc3339
from fairlead.engine.daemon import Engine
from tests.world import ManualClock


@pytest.mark.parametrize(("said", "later"), [(LAST_INSTANT - 1, 9), (0, -9)], ids=["the-last", "the-first"])
def test_attack_a_time_at_the_end_of_time_can_still_be_written_down(said: int, later: int) -> None:
    """The clock goes on, or is set back, after a Controller has said it."""
    clock = ManualClock()
    engine: Any = SimpleNamespace(clock=clock, _asking=SimpleNamespace(reset=lambda: None))
    Engine.heard(engine, said)
    assert Engine.store_time(engine) == said
    clock.instant += later * SECOND
    assert Engine.store_time(engine) == said
    assert rfc3339(Engine.store_time(engine))
