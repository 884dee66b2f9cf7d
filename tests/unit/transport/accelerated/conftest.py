"""Tests of this room are of one way only."""

import pytest


@pytest.fixture(autouse=True)
def way_of_streams() -> str:
    """Not both, as for the room around it."""
    return "accelerated"
