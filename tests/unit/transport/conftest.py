"""Every test of this room runs on both ways."""

from collections.abc import AsyncIterator

import pytest

from fairlead.transport.way import VARIABLE
from tests.unit.transport.hostile import Hostile, hostile
from tests.unit.transport.world import ALICE, World


@pytest.fixture(params=["accelerated", "stock"], autouse=True)
def way_of_streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which one a `world` takes."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
async def alice(w: World) -> AsyncIterator[Hostile]:
    """Somebody who is known to the door of `w`, and means no good."""
    async with hostile(w.port) as client:
        await client.login(ALICE)
        yield client
