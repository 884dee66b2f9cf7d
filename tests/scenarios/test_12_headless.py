"""Processes die and come back: nobody restarts anybody else, and nothing has to be told twice."""

from collections.abc import Iterator
from signal import SIGKILL

import pytest

from tests.processes import Daemon, Site, ask, echo, free_port, listens, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        yield made


def test_a_killed_controller_and_a_killed_engine_come_back_by_themselves(site: Site) -> None:
    with serving(echo) as target:
        controller = site.controller()
        engine = site.engine(controller, "se-1")
        port = free_port()
        controller.cli("service", "add", "there", "--node", "ctl", "--port", port, "--target", f"127.0.0.1:{target}",
                       "--allow", "se-1").done()
        back = free_port()
        controller.cli("service", "add", "back", "--node", "se-1", "--port", back, "--target", f"127.0.0.1:{target}",
                       "--allow", "ctl").done()
        there = engine.see("127.64.0.1")
        assert until(lambda: ask(there, port, b"1"), "1. the service is reached") == b"1"
        first = epoch(controller)

        controller.signal(SIGKILL)
        assert controller.ended() == -SIGKILL
        until(lambda: engine.get("/api/status")["state"] == "headless", "2. the engine notices")
        assert listens(there, port), "3. its listeners stay"
        assert ask(there, port) == b"", "and end each stream, instead of holding it"
        assert engine.cli("status", "--json").json["tunnels"]["up"] == 0

        controller.start()
        assert until(lambda: ask(there, port, b"4"), "4. the service is reached again") == b"4"
        here = controller.see(str(controller.node("se-1")["internal_address"]))
        assert until(lambda: ask(here, back, b"5"), "5. the other way too") == b"5"
        until(lambda: engine.get("/api/status")["state"] == "up", "and the engine is no longer headless")
        second = epoch(controller)
        assert second > first

        engine.signal(SIGKILL)
        assert engine.ended() == -SIGKILL
        until(lambda: controller.node("se-1")["state"] == "down", "6. the Controller notices")
        assert ask(here, back) == b""
        engine.start()
        assert until(lambda: ask(there, port, b"7"), "7. it goes on where it was") == b"7"
        assert until(lambda: ask(here, back, b"8"), "8. and so do its services") == b"8"
        assert epoch(controller) > second


def epoch(controller: Daemon) -> int:
    """Of the engine's link."""
    return max(int(row["epoch"]) for row in controller.listed("tunnel") if row["kind"] == "control")
