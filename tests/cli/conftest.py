"""One running Controller for all tests of the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Daemon, Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("cli")) as made:
        yield made


@pytest.fixture(scope="session")
def controller(site: Site) -> Daemon:
    return site.controller()


@pytest.fixture(scope="session")
def engine(site: Site, controller: Daemon) -> Daemon:
    return site.engine(controller, "se-1")


@pytest.fixture
def bundle(site: Site, controller: Daemon) -> Path:
    return site.bundle(controller)
