"""The demo of a cluster, its second part: Controllers die and are cut off, an engine is thrown out, the power goes."""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial

from fairlead.cli.demo.cluster import same_answer
from fairlead.cli.stage.machine import sockets, until
from fairlead.cli.stage.processes import Failed, Started
from fairlead.cli.stage.town import CONTROLLERS, ENGINES, Town

CUT_S = 2.0
SETTLED_S = 40.0
FETCH = """
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
    f"http://{sys.argv[1]}:{sys.argv[2]}/", timeout=5).read()
"""
STREAM = """
import socket, sys, time
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
stream.sendall(b"GET / HTTP/1.0\\r\\n")
print("open", flush=True)
try:
    while stream.recv(4096): pass
except OSError: pass
print("cut", time.monotonic(), flush=True)
"""
"""A request that goes on, unless it is cut; says when. The clock is the machine's, the same for all its processes."""


def _signal(town: Town, name: str) -> Started:
    started = town.node(name).started
    if started is None:
        raise Failed(f"{name} does not run")
    started.send(signal.SIGKILL)
    return started


def _kill(town: Town, name: str) -> None:
    _signal(town, name).wait(5.0)


def _works(town: Town, *names: str) -> str:
    return f"; {same_answer(town, *names)}" if town.postgres.installed else ""


def leader_killed(town: Town) -> str:
    """The leader dies: another leads, and the engines never are alone."""
    before = town.well(*CONTROLLERS, at="ctl-2")
    dead, term = before["leader"], before["term"]
    one, two = (name for name in CONTROLLERS if name != dead)
    since = datetime.now(UTC)
    _kill(town, dead)
    began = time.monotonic()
    town.accepted(one)
    wrote = time.monotonic() - began
    seen = town.led(two, but=dead)
    if seen["term"] <= term:
        raise Failed(f"{seen['leader']} leads in term {seen['term']}, and {dead} led in term {term}")
    fewest = {name: town.fewest_links(name, since) for name in ENGINES}
    if min(fewest.values()) < 1:
        raise Failed(f"an engine was without any Controller: {fewest}")
    works = _works(town, *ENGINES) if dead != "ctl-2" else ""
    began = time.monotonic()
    town.run(dead, "controller")
    after = town.well(*CONTROLLERS, at=dead)
    back = time.monotonic() - began
    town.expect(next(m["role"] for m in after["members"] if m["name"] == dead), "follower", f"{dead}'s part")
    town.linked(*ENGINES)
    return (f"{dead} got SIGKILL; `service add` was accepted at {one} after {wrote:.1f} s; {after['leader']} leads, "
            f"term {seen['term']} after {term}; at the worst moment the engines had {min(fewest.values())} "
            f"Controllers{works}; {dead}, started again, was a follower with lag 0 after {back:.1f} s")


def partition(town: Town) -> str:
    """The leader is cut off from all others: it accepts nothing, the others do."""
    before = town.well(*CONTROLLERS, at="ctl-1")
    alone = before["leader"]
    one, two = (name for name in CONTROLLERS if name != alone)
    town.network.cut(alone)
    try:
        began = time.monotonic()
        town.accepted(one)
        wrote = time.monotonic() - began
        seen = town.led(two, but=alone)
        refused = town.write(alone)
        lost = f"change-{town.written}"
        code = refused.last.rpartition("[")[2].rstrip("]")
        if refused.code != 1 or code not in ("FL-STORE", "FL-NOT-LEADER"):
            raise Failed(f"{alone}, cut off, answered a change with exit code {refused.code}: {refused.last}")
    finally:
        town.network.heal(alone)
    began = time.monotonic()
    after = town.well(*CONTROLLERS, at=alone)
    healed = time.monotonic() - began
    for name in CONTROLLERS:
        if lost in town.services(name):
            raise Failed(f"{name} has the change that {alone} refused")
    town.linked(*ENGINES)
    return (f"the leader {alone} was cut off: a change was accepted at {one} after {wrote:.1f} s, {seen['leader']} led "
            f"in term {seen['term']} after {before['term']}; {alone} refused one ({code}); healed: all three up with "
            f"lag 0 after {healed:.1f} s, {after['leader']} leads")


def removed(town: Town) -> str:
    """An engine is thrown out at one Controller: all of it ends at each."""
    engine, port = town.node("se-2"), town.port("files")
    server = town.processes.start("file server", [
        sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(town.network.folder)],
        town.folder / "file-server.log", within=engine.within)
    until("the file server listens", lambda: any(one.port == port for one in sockets(server.pid)))
    town.fairlead("service", "add", "files", "--node", "se-2", "--port", str(port), "--allow", "controllers",
                  on="ctl-1").done()
    where = town.address("se-2", "ctl-1")
    for at in CONTROLLERS:
        until(f"{at} listens at {where}:{port}", lambda at=at: any(  # type: ignore[misc]
            (str(one.address), one.port) == (where, port) for one in town.node(at).listeners()))
    for at in CONTROLLERS:  # one that was cut off a moment ago may have a connection that nobody has given up yet
        until(f"{at} reaches the file server", lambda at=at: subprocess.run(  # type: ignore[misc]
            [*town.node(at).within, sys.executable, "-c", FETCH, where, str(port)], capture_output=True,
            check=False).returncode == 0, SETTLED_S)
    logs = {at: town.folder / f"stream-{at}.log" for at in CONTROLLERS}
    for at, log in logs.items():
        town.processes.start(f"stream of {at}", [sys.executable, "-c", STREAM, where, str(port)], log,
                             within=town.node(at).within)
        until(f"a stream from {at} to se-2", lambda log=log: "open" in log.read_text())  # type: ignore[misc]
    until("se-2 serves three streams", lambda: all(any(
        t["peer"] == "se-2" and t["streams"] for t in town.shown("tunnel", "list", on=at)) for at in CONTROLLERS))
    town.fairlead("node", "remove", "se-2", on="ctl-3").done()
    done = time.monotonic()
    until("the streams to se-2 are cut", lambda: all("cut" in log.read_text() for log in logs.values()), CUT_S)
    until("no Controller has a tunnel to se-2", lambda: not any(
        t["peer"] == "se-2" for at in CONTROLLERS for t in town.shown("tunnel", "list", on=at)))
    last = max(float(log.read_text().split()[-1]) for log in logs.values()) - done
    if engine.started is None:
        raise Failed("se-2 does not run")
    code = engine.started.wait(10.0)
    again = town.fairlead("engine", "run", on="se-2").refused("FL-NODE-REMOVED")
    return (f"`node remove se-2` at ctl-3: the streams to it from all three Controllers were cut, the last "
            f"{abs(last) * 1000:.0f} ms {'after' if last >= 0 else 'before'} the command had returned; its daemon "
            f"ended by itself ({code}), a restart is refused: {again}")


def power_cut(town: Town) -> str:
    """All Controllers die at once, and are started in another order."""
    before = town.services("ctl-1")
    term = town.status("ctl-1")["term"]
    for name in CONTROLLERS:
        _signal(town, name)
    for name in CONTROLLERS:
        _kill(town, name)
    order = ("ctl-3", "ctl-1", "ctl-2")
    began = time.monotonic()
    town.at_once(*[partial(town.run, name, "controller") for name in order])
    seen = town.well(*CONTROLLERS, at="ctl-1")
    back = time.monotonic() - began
    for name in CONTROLLERS:
        if missing := before - town.services(name):
            raise Failed(f"{name} has lost {', '.join(sorted(missing))}")
    town.linked("se-1")
    linked = time.monotonic() - began
    town.accepted("ctl-2")
    return (f"all three got SIGKILL; started as {', '.join(order)}, they were up with lag 0 after {back:.1f} s, "
            f"{seen['leader']} leads in term {seen['term']} after {term}; all {len(before)} services are there, a "
            f"change is accepted; se-1 had its three links after {linked:.1f} s{_works(town, *CONTROLLERS, 'se-1')}")


def books(town: Town) -> str:
    """The audits are whole, the tunnels are strong, and nothing lies open."""
    entries = [town.fairlead("audit", "verify", on=name).done().last for name in CONTROLLERS]
    tunnels = [t for name in CONTROLLERS for t in town.shown("tunnel", "list", on=name)]
    kinds = {(str(t["cipher"]), str(t["kex"])) for t in tunnels}
    if not tunnels or any("gcm" not in cipher or "mlkem768x25519" not in kex for cipher, kex in kinds):
        raise Failed(f"the tunnels have {kinds}")
    if found := town.readable_by_others():
        raise Failed(f"others may read {', '.join(map(str, found))}")
    return (f"audit verify on each: {'; '.join(entries)}; {len(tunnels)} tunnels, all with "
            f"{' and '.join(sorted({c for c, _ in kinds}))}; no state folder holds anything that others may read")
