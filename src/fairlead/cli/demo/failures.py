"""The demo's third part: processes die, a Controller goes away, an engine is thrown out, and the books are checked."""

import shutil
import signal
import socket
import time
from contextlib import suppress

from fairlead.cli.demo.attacks import DENIED
from fairlead.cli.demo.work import HELLO, ask_database, moment
from fairlead.cli.stage.machine import answers, get, until
from fairlead.cli.stage.processes import Failed
from fairlead.cli.stage.stage import LOOPBACK, Stage

STOP_S = 5.0
CUT_S = 2.0


def works(stage: Stage) -> str:
    """A stream from se-1 to ctl-1. Raises Failed when there is none."""
    if stage.postgres.installed:
        return ask_database(stage)
    where, web = stage.address("ctl-1", "se-1"), stage.port("web")
    if get(where, web, "/hello.txt") != HELLO:
        raise Failed(f"ctl-1's web service does not answer at {where}:{web}")
    return "the web service answers"


def killed(stage: Stage) -> str:
    """An engine dies without a word and comes back."""
    node = stage.node("se-1")
    if node.started is None:
        raise Failed("se-1 does not run")
    began = time.monotonic()
    node.started.send(signal.SIGKILL)
    node.started.wait(STOP_S)
    until("se-1 is down", lambda: stage.state_of("se-1") == "down")
    down = time.monotonic() - began
    began, links = time.monotonic(), len(node.events("link.up"))
    stage.run("se-1", "engine")
    stage.connected("se-1", links)
    up = time.monotonic() - began
    return (f"se-1 got SIGKILL: ctl-1 showed it down after {down:.1f} s; started again, connected in {up:.1f} s; "
            f"{works(stage)}")


def released(stage: Stage) -> str:
    """The engine that was frozen finds its way back."""
    stage.connected("se-3", 1)
    until("se-3 is up", lambda: stage.state_of("se-3") == "up")
    return "se-3, frozen before and released, came back by itself; ctl-1 shows it up"


def headless(stage: Stage) -> str:
    """The only Controller stops; the engine stays as it is."""
    before = _listeners(stage)
    stage.background("foreign init", lambda: stage.init("foreign", "--listen", LOOPBACK))
    stage.background("foreign bundle", lambda: stage.export("lost"))
    stage.result("foreign init"), stage.result("foreign bundle")
    code, took = stage.stop("ctl-1")
    stage.away_since = time.monotonic()
    stage.background("foreign", lambda: stage.run("foreign", "controller"))  # for the next check: it has the same port
    if code != 0 or took > STOP_S:
        raise Failed(f"ctl-1 ended with exit code {code} after {took:.1f} s")
    until("se-1 is headless", lambda: stage.shown("status", on="se-1")["state"] == "headless")
    if _listeners(stage) != before or len(before) < 2:
        raise Failed(f"se-1 listened on {sorted(before)}, now on {sorted(_listeners(stage))}")
    return (f"ctl-1 got SIGTERM and ended in {took:.1f} s with exit code 0; se-1 is headless and keeps its "
            f"{len(before)} listeners")


def _listeners(stage: Stage) -> set[tuple[str, int]]:
    return {(str(one.address), one.port) for one in stage.node("se-1").listeners()}


def returned(stage: Stage) -> str:
    """The Controller comes back, and the engine finds it by itself."""
    links = len(stage.node("se-1").events("link.up"))
    away = time.monotonic() - stage.away_since
    began = time.monotonic()
    stage.run("ctl-1", "controller")
    stage.connected("se-1", links)
    took = time.monotonic() - began
    until("se-1 is up", lambda: stage.shown("status", on="se-1")["state"] == "up")
    return f"ctl-1 started again after {away:.1f} s; se-1 was back by itself {took:.1f} s later; {works(stage)}"


def removed(stage: Stage) -> str:
    """An engine is thrown out: everything of it ends, for good."""
    engine = stage.node("se-2")
    if engine.started is None:
        raise Failed("se-2 does not run")
    where, port = stage.address("se-2", "ctl-1"), stage.port("files")
    until("se-2 is back", lambda: get(where, port, "/hello.txt") == HELLO, 30)
    with socket.create_connection((where, port), timeout=10) as stream:
        stream.sendall(b"GET /hello.txt HTTP/1.0\r\n")  # it goes on, unless it is cut
        ended = stage.pool.submit(_end_of, stream)
        stage.fairlead("node", "remove", "se-2", on="ctl-1").done()
        done = time.monotonic()
        until("a stream to se-2 is cut", ended.done, CUT_S)
        until(f"nobody answers at {where}:{port}", lambda: not answers(where, port), CUT_S)
        closed, cut = time.monotonic() - done, ended.result() - done
    code = engine.started.wait(STOP_S)
    again = stage.fairlead("engine", "run", on="se-2").refused("FL-NODE-REMOVED")
    seen = (f"an open stream to se-2 was cut {moment(cut)} `node remove` had returned, {where}:{port} on ctl-1 answers "
            f"nobody {closed * 1000:.0f} ms after; its daemon ended by itself ({code}), a restart is refused: {again}")
    if not shutil.which("ssh"):
        return seen
    login = stage.ssh("aviseuser", "se-2")
    if login.code == 0 or DENIED not in login.error:
        raise Failed(f"SSH with the removed node's key ended with {login.code}: {login.last}")
    return f"{seen}; SSH: {DENIED}"


def _end_of(stream: socket.socket) -> float:
    """When the other end is gone."""
    with suppress(OSError):
        while stream.recv(4096):
            pass
    return time.monotonic()


def books(stage: Stage) -> str:
    """The audit is whole, the tunnels are as strong as they should be, and nothing lies open."""
    verified, tunnels = stage.at_once(lambda: _verify(stage), lambda: stage.shown("tunnel", "list", on="ctl-1"))
    kinds = {(t["cipher"], t["kex"]) for t in tunnels}
    if not tunnels or any("gcm" not in cipher or "mlkem768x25519" not in kex for cipher, kex in kinds):
        raise Failed(f"the tunnels have {kinds}")
    if found := stage.readable_by_others():
        raise Failed(f"others may read {', '.join(map(str, found))}")
    return (f"audit: {verified}; {len(tunnels)} tunnels with {' and '.join(sorted({c for c, _ in kinds}))} after "
            f"{' and '.join(sorted({k for _, k in kinds}))}; no state folder holds anything that others may read")


def _verify(stage: Stage) -> str:
    return stage.fairlead("audit", "verify", on="ctl-1").done().last
