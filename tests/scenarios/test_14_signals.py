"""SIGTERM ends a daemon in good order, SIGHUP has it read its settings again, and a broken file changes nothing."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from signal import SIGHUP, SIGTERM

import pytest

from tests.processes import Daemon, Site, ask, connect, echo, free_port, read_all, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests

ROOM_S = 5.0
"""For a machine that is busy with other tests."""


@dataclass(frozen=True)
class Pair:
    site: Site
    controller: Daemon
    engine: Daemon

    def serve(self, name: str, owner: Daemon, target: int) -> tuple[str, int]:
        """A service of one at which the other finds it."""
        port, who = free_port(), self.controller if owner is self.engine else self.engine
        self.controller.cli("service", "add", name, "--node", owner.name, "--port", port, "--target",
                            f"127.0.0.1:{target}", "--allow", who.name).done()
        host = who.see(str(self.controller.node(owner.name)["internal_address"]))
        assert until(lambda: ask(host, port), "the service is reached") == b"?"
        return host, port


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        controller = site.controller()
        yield Pair(site, controller, site.engine(controller, "se-1"))


def test_1_sighup_announces_a_new_address(pair: Pair) -> None:
    pair.controller.configure(addresses=["127.0.0.1", "127.0.0.2"])
    pair.controller.signal(SIGHUP)
    until(lambda: pair.controller.node("ctl")["address"] == "127.0.0.1, 127.0.0.2", "the address is announced")
    until(lambda: pair.engine.get("/api/status")["controllers"][0]["address"] == "127.0.0.1, 127.0.0.2",
          "and the engine knows it")


@pytest.mark.parametrize("broken", [{"addresses": ["-oProxyCommand=id"]}, {"colour": 1}, {"ssh_port": 0}, {}], ids=str)
def test_2_a_broken_file_is_refused_and_the_old_settings_stay(pair: Pair, broken: dict[str, object]) -> None:
    file = pair.controller.state / "fairlead.toml"
    good, address = file.read_text(), pair.controller.node("ctl")["address"]
    refused = len(pair.controller.events("reload.refused"))
    try:
        if broken:
            pair.controller.configure(**broken)
        else:
            file.write_text("this is no TOML")
        pair.controller.signal(SIGHUP)
        until(lambda: len(pair.controller.events("reload.refused")) > refused, "the file is refused")
        assert pair.controller.events("reload.refused")[-1]["code"] == "FL-CONFIG"
        assert pair.controller.node("ctl")["address"] == address
        assert pair.controller.node("se-1")["state"] == "up"
    finally:
        file.write_text(good)


def test_3_sighup_leaves_an_engine_as_it_is(pair: Pair) -> None:
    before = pair.controller.listed("tunnel")
    pair.engine.signal(SIGHUP)
    until(lambda: pair.engine.events("reload.done"), "it has read its settings again")
    assert pair.controller.listed("tunnel")[0]["epoch"] == before[0]["epoch"]


@pytest.mark.parametrize("owner", ["engine", "controller"])
@pytest.mark.parametrize("who", ["engine", "controller"])
def test_4_sigterm_lets_streams_end_and_ends_a_daemon_within_five_seconds(pair: Pair, who: str, owner: str) -> None:
    ending: Daemon = getattr(pair, who)
    for daemon in (pair.controller, pair.engine):
        if daemon.process is None or daemon.process.poll() is not None:
            daemon.start()
    with serving(echo) as target:
        place = pair.serve(f"{who}-{owner}", getattr(pair, owner), target)
        with connect(*place) as finishing, connect(*place) as held:
            for stream in (finishing, held):
                stream.sendall(b"begun")
                assert stream.recv(10) == b"begun"
            began = time.monotonic()
            ending.signal(SIGTERM)
            until(lambda: ending.events(f"{who}.stopping"), "it is stopping")
            finishing.sendall(b"and ended in order")
            finishing.shutdown(socket.SHUT_WR)
            assert read_all(finishing) == b"and ended in order"
            assert ending.ended() == 0
            assert time.monotonic() - began < 5.0 + ROOM_S
            with contextlib.suppress(ConnectionError):
                assert held.recv(10) == b"", "what does not end is cut"
    assert not (ending.state / "control.sock").exists()
    farewell = ending.log[ending.log.rindex(f"{who}.stopping"):]
    assert not [bad for bad in ('"level": "error"', "Traceback", "never retrieved") if bad in farewell], farewell
    ending.log = ""
