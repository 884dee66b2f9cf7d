"""Descriptors run out, by strangers at a Controller's door and by local users at an engine's listener.

The daemon goes on, says so, answers whoever operates it, does not spin, and serves as before when the flood is over.
"""

import resource
import time
from pathlib import Path

import pytest

from tests.netns.ground import TOWN, busy_s, flood, opened, town
from tests.processes import Daemon, Site, ask, echo, free_port, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

FEW = 256
"""Descriptors. Sixty-four are kept; a calm Controller has two dozen open."""


def grant(daemon: Daemon, limit: int) -> None:
    """The daemon has so many descriptors from now on, as after ``ulimit -n``."""
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, limit))


def serve(controller: Daemon, target: int) -> int:
    """The port of a new service of the Controller's."""
    port = free_port()
    controller.cli("service", "add", f"s-{port}", "--node", controller.name, "--port", port, "--target",
                   f"127.0.0.1:{target}", "--allow", "engines").done()
    return port


def short(daemon: Daemon) -> bool:
    """Whether ``status`` names it."""
    return any(line.endswith("[FL-DESCRIPTORS]") for line in daemon.get("/api/status")["problems"])




@pytest.mark.parametrize("door", ["portal", "ssh"])
def test_strangers_who_take_all_descriptors_of_a_controller(tmp_path: Path, door: str) -> None:
    with town() as ours, Site(tmp_path) as site, serving(echo) as target:
        controller = site.controller(address=TOWN, everywhere=True)
        engine = site.engine(controller, "se-1")
        port = serve(controller, target)
        until(lambda: ask(engine.see("127.64.0.1"), port, b"calm") == b"calm", "the engine reaches its service")
        grant(controller, FEW)
        with ours.flood(controller.ports[door], "silent", sources=200):
            until(lambda: controller.events("listener.exhausted"), "it is in the log")
            until(lambda: short(controller), "and status says it, for the operator's door has descriptors left")
            assert "[FL-DESCRIPTORS]" in controller.cli("status").err
            assert ask(engine.see("127.64.0.1"), port, b"flood") == b"flood"  # so have streams of those we know
            began, busy = time.monotonic(), busy_s(controller)
            until(lambda: time.monotonic() - began > 3, "a while")
            assert busy_s(controller) - busy < (time.monotonic() - began) / 2  # it does not spin
            assert opened(controller) < FEW
        until(lambda: not short(controller), "all is well when the flood is over")
        site.engine(controller, "se-2")
        assert controller.node("se-1")["state"] == "up"
        assert len(controller.events("listener.exhausted")) <= 4  # once a minute for each of two sockets


def test_local_users_who_fill_a_listener_of_an_engine(tmp_path: Path) -> None:
    with Site(tmp_path) as site, serving(echo) as target:
        controller = site.controller()
        engine = site.engine(controller, "se-1")
        filled, other = serve(controller, target), serve(controller, target)
        host = engine.see("127.64.0.1")
        until(lambda: ask(host, other, b"calm") == b"calm", "the engine reaches its services")
        before = opened(engine)

        with flood(host, filled, "greet", 2000, ["127.0.0.1"]) as users:
            until(lambda: engine.events("listener.full"), "it is in the log")
            users.risen()
            assert opened(engine) < before + 700
            assert ask(host, other, b"other") == b"other"
            assert engine.get("/api/status")["healthy"]
        until(lambda: opened(engine) <= before + 4, "every descriptor was given back")

        grant(engine, FEW)
        with flood(host, filled, "greet", 2000, ["127.0.0.1"]):
            until(lambda: engine.events("listener.exhausted"), "few descriptors: it is in the log")
            until(lambda: short(engine), "and in the status")
            until(lambda: any("[FL-DESCRIPTORS]" in line for line in controller.node("se-1")["problems"]),
                  "which the Controller's operator reads too")
            assert opened(engine) < FEW
        until(lambda: ask(host, filled, b"again") == b"again", "it serves again when they have gone")
        until(lambda: engine.get("/api/status")["healthy"], "and is well")
        assert len(engine.events("listener.full")) == 1
