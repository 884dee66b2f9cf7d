"""A removed engine is out: cut off at both ends, its listeners closed, its daemon ended, its keys worth nothing."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.processes import DEADLINE_S, Site, a_view, ask, connect, echo, free_port, listens, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


def test_a_removed_engine_is_cut_off_and_its_copies_stay_out(tmp_path: Path) -> None:
    need("ssh")
    with Site(tmp_path) as site, serving(echo) as target:
        controller = site.controller()
        engine = site.engine(controller, "se-1")
        stolen = shutil.copytree(engine.state, tmp_path / "stolen", ignore=shutil.ignore_patterns("control.sock", ".*"))
        port = free_port()
        controller.cli("service", "add", "db", "--node", "ctl", "--port", port, "--target", f"127.0.0.1:{target}",
                       "--allow", "engines").done()
        host = engine.see("127.64.0.1")
        assert until(lambda: ask(host, port, b"before"), "1. the engine reaches the service") == b"before"

        with connect(host, port) as stream:
            stream.sendall(b"open")
            assert stream.recv(10) == b"open"
            controller.cli("node", "remove", "se-1").done()
            stream.settimeout(5)
            assert _rest(stream) == b"", "2. the open stream is cut"
        assert engine.ended() == 0, "3. the daemon ends, as it was told to"
        assert not listens(host, port)
        assert controller.listed("tunnel") == []
        assert controller.node("se-1").get("state") in (None, "removed")
        engine.cli("engine", "run").refused("FL-NODE-REMOVED")  # 4. and does not start again

        key = stolen / "keys" / "user"  # 5. attack: a copy of its folder, from before the removal
        login = subprocess.run(
            ["ssh", "-F", "none", "-N", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
             "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", key,
             "-p", str(controller.ports["ssh"]), "aviseuser@127.0.0.1"],
            capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=os.environ | {"HOME": str(tmp_path)})
        assert (login.returncode, "Permission denied" in login.stderr) == (255, True), login.stderr
        copy = site.daemon("engine", "copy", stolen, a_view()).start(ready=False)
        assert copy.ended() == 0
        copy.cli("engine", "run").refused("FL-NODE-REMOVED")

        site.engine(controller, "se-2")  # 6. everybody else comes and goes as before
        assert [row["state"] for row in controller.listed("tunnel")] == ["up"]


def _rest(stream: socket.socket) -> bytes:
    try:
        return stream.recv(100)
    except ConnectionError:
        return b""
