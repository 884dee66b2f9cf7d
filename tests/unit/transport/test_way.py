"""Which way a process takes: as it is told, and never one that the libraries do not carry."""

import logging

import pytest
from asyncssh.connection import SSHConnection
from asyncssh.crypto.cipher import GCMCipher

from fairlead.base.errors import OperatorError
from fairlead.transport import way
from fairlead.transport.accelerated import library
from fairlead.transport.way import VARIABLE, choose


@pytest.fixture(autouse=True)
def way_of_streams() -> None:
    """Not both, as for the room around it: here they are chosen."""


@pytest.mark.parametrize(("environment", "name"), [
    ({}, "accelerated"), ({VARIABLE: ""}, "accelerated"), ({VARIABLE: "accelerated"}, "accelerated"),
    ({VARIABLE: "stock"}, "stock")])
async def test_it_is_as_the_environment_says(environment: dict[str, str], name: str) -> None:
    chosen = choose(environment)
    assert chosen.name == name
    chosen.close()


async def test_another_wish_is_refused() -> None:
    with pytest.raises(OperatorError, match=f"{VARIABLE} is 'fast'") as refusal:
        choose({VARIABLE: "fast"})
    assert refusal.value.code == "FL-TRANSPORT"


async def test_libraries_that_lack_something_are_a_warning_and_the_stock_way(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert library.missing() == []
    monkeypatch.setattr(library, "_CALLED", {SSHConnection: ("_no_such_step",)})
    monkeypatch.setattr(library, "_STORED", {GCMCipher: ("_no_such_state",)})
    with caplog.at_level(logging.WARNING, logger=way.__name__):
        assert choose({}).name == "stock"
    (record,) = caplog.records
    assert "GCMCipher._no_such_state" in record.getMessage()
    assert "SSHConnection._no_such_step" in record.getMessage()
