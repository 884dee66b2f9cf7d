"""The demo's part about the fleet: engines are configured from the Controller."""

import json
import shutil
import signal
import time

from fairlead.cli.demo.report import Absent
from fairlead.cli.demo.work import HELLO
from fairlead.cli.stage.machine import get, until
from fairlead.cli.stage.processes import Failed, Result
from fairlead.cli.stage.stage import LOOPBACK, Stage

ENGINE = "se-2"


def balancer(stage: Stage) -> str:
    """A stock HAProxy on an engine, configured from the Controller, serves a back end on the Controller."""
    if shutil.which("haproxy") is None:
        raise Absent("HAProxy")
    node, port = stage.node(ENGINE), stage.port("balancer")
    if node.started is None:
        raise Failed(f"{ENGINE} does not run")
    with (node.state / "fairlead.toml").open("a") as settings:
        settings.write("\n[haproxy]\n")
    node.started.send(signal.SIGHUP)
    until(f"{ENGINE} has read its settings again", lambda: node.events("reload.done"))
    began = time.monotonic()
    _put(stage, f"{LOOPBACK}:{port}").done()
    took = time.monotonic() - began
    until("HAProxy answers", lambda: get(LOOPBACK, port, "/hello.txt") == HELLO)
    _put(stage, "192.0.2.1:80").refused("FL-DOCUMENT-HALTED")
    if get(LOOPBACK, port, "/hello.txt") != HELLO:
        raise Failed("after a bad document, the one before is not in force")
    version = stage.processes.run(["haproxy", "-v"]).done().out.split()[2]
    return (f"HAProxy {version} on {ENGINE} serves ctl-1's web server through the tunnel, {took:.1f} s after "
            "`config put`; a document that the engine does not allow was refused, and the one before stayed")


def _put(stage: Stage, bind: str) -> Result:
    body = {"listeners": [{"name": "web", "bind": [bind], "mode": "http", "back_end": "app"}],
            "back_ends": [{"name": "app", "mode": "http", "servers": [{"name": "a", "service": "web"}]}]}
    file = stage.folder / "edge.json"
    file.write_text(json.dumps(body))
    return stage.fairlead("config", "put", "haproxy", "edge", str(file), "--target", ENGINE, "--wait", on="ctl-1")
