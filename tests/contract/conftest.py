"""The contract's fixtures: every test runs on every backend."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fairlead.store.protocol import Event, Store
from tests.contract.backends import BACKENDS, Backend, MakeBackend


@pytest.fixture(scope="session", params=BACKENDS, ids=lambda make: make.__name__)
def make_backend(request: pytest.FixtureRequest) -> MakeBackend:
    make: MakeBackend = request.param
    return make


@pytest.fixture
async def backend(make_backend: MakeBackend, tmp_path: Path) -> AsyncIterator[Backend]:
    made = make_backend(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store


async def take(watch: AsyncIterator[Sequence[Event]], batches: int) -> list[list[Event]]:
    """The next *batches* of a watch."""
    return [list(await anext(watch)) for _ in range(batches)]
