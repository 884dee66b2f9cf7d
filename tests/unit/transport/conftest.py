"""Every test of this room runs on both ways."""

import pytest

from fairlead.transport.way import VARIABLE


@pytest.fixture(params=["accelerated", "stock"], autouse=True)
def way_of_streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which one a `world` takes."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)
