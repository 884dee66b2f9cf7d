"""Clock, backoff, configuration, and what systemd is told."""

import asyncio
import os
import random
import signal
import socket
from pathlib import Path

import pytest

from fairlead.base import configuration
from fairlead.base.backoff import FullJitter
from fairlead.base.clock import SECOND, SystemClock, from_rfc3339, rfc3339
from fairlead.base.configuration import FILE, Settings
from fairlead.base.errors import OperatorError
from fairlead.base.files import write_private
from fairlead.base.service import notify, on_signals
from tests.world import START


def test_clock() -> None:
    assert rfc3339(START + 999_999) == "2026-01-01T00:00:00Z"
    assert from_rfc3339("2026-01-01T00:00:00Z") == from_rfc3339("2026-01-01T01:00:00+01:00") == START
    for text in ("2026-01-01T00:00:00", "x", ""):
        with pytest.raises(ValueError, match=r".*"):
            from_rfc3339(text)
    clock = SystemClock()
    assert abs(clock.now() - START) < 10**18
    assert clock.now() > 1_700_000_000 * SECOND
    assert clock.monotonic() <= clock.monotonic()


def test_backoff_is_drawn_from_nothing_up_to_a_ceiling_that_doubles() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    delay = FullJitter(0.5, 4, Highest())
    assert [delay.next() for _ in range(5)] == [0.5, 1, 2, 4, 4]
    delay.reset()
    assert delay.next() == 0.5
    drawn = FullJitter(1, 1)
    assert len({drawn.next() for _ in range(50)}) == 50


class Some(Settings):
    port: int = 443
    name: str


def test_settings_there_and_back(tmp_path: Path) -> None:
    configuration.save(tmp_path, Some(name="x\n\"y"))
    assert configuration.load(tmp_path, Some) == Some(name="x\n\"y", port=443)


@pytest.mark.parametrize(("text", "says"), [
    ("name = ", "TOML"), ('name = "x"\nprot = 1', "prot: is not a setting"), ('name = "x"\nport = "many"', "port"),
    ("", "name"), ("\xff", "TOML")])
def test_settings_that_are_wrong_name_the_place(tmp_path: Path, text: str, says: str) -> None:
    write_private(tmp_path / FILE, text.encode("latin-1"))
    with pytest.raises(OperatorError, match=says) as caught:
        configuration.load(tmp_path, Some)
    assert caught.value.code == "FL-CONFIG"


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"fairlead-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}" if abstract else str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else str(tmp_path / "n"))
        notify("READY=1")
        assert listening.recv(100) == b"READY=1"
    notify("READY=1")  # nobody listens any more: no matter
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


async def test_signals() -> None:
    stop, reloaded = asyncio.Event(), asyncio.Event()
    on_signals(stop, reloaded.set)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(reloaded.wait(), 10)
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 10)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
