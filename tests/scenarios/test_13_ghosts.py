"""A frozen machine is noticed, and its ghost gives way at once to the same node started elsewhere."""

import shutil
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest

from tests.processes import Daemon, Site, a_view, ask, echo, free_port, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]

PATIENCE_S = 30.0


def test_a_stopped_engine_is_noticed_and_its_ghost_is_evicted(tmp_path: Path) -> None:
    with Site(tmp_path) as site, serving(echo) as target:
        controller = site.controller(keepalive_s=0.3)
        engine = site.engine(controller, "se-1")
        engine.signal(SIGSTOP)
        until(lambda: controller.node("se-1")["state"] == "down", "1. the stopped engine is noticed", 10)
        engine.signal(SIGCONT)
        until(lambda: controller.node("se-1")["state"] == "up", "2. and is back when it goes on")

        controller.signal(SIGTERM)  # from now on a ghost would be noticed after a minute and a half only
        assert controller.ended() == 0
        controller.configure(keepalive_s=PATIENCE_S)
        controller.start()
        port = free_port()
        controller.cli("service", "add", "db", "--node", "se-1", "--port", port, "--target", f"127.0.0.1:{target}",
                       "--allow", "controllers").done()
        here = controller.see(str(controller.node("se-1")["internal_address"]))
        assert until(lambda: ask(here, port, b"3"), "3. its service is reached") == b"3"
        before = epochs(controller)
        assert len(before) == 2, "a link, and a connection for streams"

        engine.signal(SIGSTOP)
        moved = site.daemon("engine", "se-1 moved", shutil.copytree(
            engine.state, tmp_path / "moved", ignore=shutil.ignore_patterns("control.sock", ".*")), a_view())
        moved.configure(view=moved.view)  # elsewhere: another machine has its own loopback
        moved.start()
        until(lambda: moved.get("/api/status")["state"] == "up", "4. the same node starts elsewhere")
        assert until(lambda: ask(here, port, b"5"), "5. its service is reached there, at once", 10) == b"5"
        assert min(epochs(controller)) > max(before), "6. nothing of the ghost is left, and epochs rise"
        assert controller.node("se-1")["state"] == "up"


def epochs(controller: Daemon) -> list[int]:
    """Of all connections."""
    return [int(row["epoch"]) for row in controller.listed("tunnel")]
