"""A real etcd of one member, on loopback."""

from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.contract.etcd import Member, running


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it listens, in a moment. Its shortest lease is one second."""
    need("etcd")
    member = Member.alone(tmp_path_factory.mktemp("cluster") / "etcd")
    with running([member]):
        yield member.endpoint
