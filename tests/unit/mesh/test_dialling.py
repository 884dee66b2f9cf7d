"""A Controller that changes its host key is dialled with either, and with no other."""

from collections.abc import AsyncIterator

import pytest

from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import PlanController
from fairlead.mesh.dialling import dialling
from tests.unit.transport.world import ALICE, CLOCK, HOST_KEY, World, world

NEXT = PrivateKey.from_seed(b"n" * 32)


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def dialled(w: World, host_key: str, next_host_key: str = "") -> str:
    """The fingerprint of the key that answered, or why there was no connection."""
    controller = PlanController(node_id="i", name="ctl-1", addresses=["127.0.0.1"], ssh_port=w.port, portal_port=8443,
                                internal_address="127.64.0.1", host_key=host_key, user_key="u",
                                next_host_key=next_host_key)
    try:
        tunnel = await dialling("aviseuser", lambda: [ALICE], 5.0, CLOCK, w.way)(controller, "127.0.0.1")
    except FairleadError as error:
        return error.code
    w.stack.callback(tunnel.close, "the test is over")
    return tunnel.peer.fingerprint


async def test_either_key_is_accepted_while_both_are_pinned_and_afterwards_one(w: World) -> None:
    old, new = HOST_KEY.public, NEXT.public
    assert await dialled(w, old.line, new.line) == old.fingerprint
    w.host_keys[:] = [NEXT]
    assert await dialled(w, old.line, new.line) == new.fingerprint
    assert await dialled(w, new.line) == new.fingerprint
    assert await dialled(w, old.line) == "FL-SSH-HOSTKEY"
    w.host_keys[:] = [HOST_KEY]
    assert await dialled(w, new.line) == "FL-SSH-HOSTKEY"
    assert await dialled(w, "nonsense") == "FL-LINK-MESSAGE"
    assert await dialled(w, new.line, "nonsense") == "FL-LINK-MESSAGE"
