"""Another process sits where a service should be: the node says who, is not healthy, and mends itself afterwards."""

import os
from pathlib import Path

import pytest

from tests.processes import Site, ask, echo, free_port, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


def test_a_squatter_is_named_and_the_listener_repaired(tmp_path: Path) -> None:
    with Site(tmp_path) as site, serving(echo) as target:
        controller = site.controller()
        engine = site.engine(controller, "se-1")
        port, host = free_port(), engine.see("127.64.0.1")
        with serving(lambda sock: sock.sendall(b"in the middle"), host, port):
            controller.cli("service", "add", "db", "--node", "ctl", "--port", port, "--target", f"127.0.0.1:{target}",
                           "--allow", "engines").done()
            until(lambda: not engine.get("/api/status")["healthy"], "1. the engine is not healthy")
            status = engine.cli("status", "--json").done().json
            assert [f"{host}:{port}" in line and f"pid {os.getpid()} " in line and "[FL-LISTENER-TAKEN]" in line
                    for line in status["problems"]] == [True]
            shown = engine.cli("status").done()
            assert f"pid {os.getpid()}" in shown.err, "2. a person reads it too"
            until(lambda: controller.node("se-1")["problems"], "3. and so does the Controller's operator")
        until(lambda: engine.get("/api/status")["healthy"], "4. it mends itself when the port is free")
        assert ask(host, port, b"5") == b"5"
