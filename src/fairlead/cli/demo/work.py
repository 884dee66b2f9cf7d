"""The demo's first part: a cluster comes to life and carries real work."""

import hashlib
import http.client
import json
import secrets
import stat
import threading
import time
from functools import partial
from pathlib import Path

from fairlead.cli.demo.report import Absent
from fairlead.cli.stage.machine import get, until
from fairlead.cli.stage.processes import Failed
from fairlead.cli.stage.stage import LOOPBACK, Stage

MIB = 1024 * 1024
FILE_BYTES = 256 * MIB
HELLO = b"hello through the tunnel\n"
SUM = 333_833_500
"""Of the squares of 1 to 1000."""
PROMPT_S = 1.0
"""A new service is reached within this after `service add` has returned."""


def prepare(stage: Stage) -> None:
    """Make a Controller, and beside that what needs none: file servers, a large file, a database."""
    for name in ("web", "files"):
        folder = stage.folder / name
        folder.mkdir()
        (folder / "hello.txt").write_bytes(HELLO)
        stage.background(f"{name} server", partial(stage.serve_files, f"{name} server", folder))
    stage.background("large file", lambda: write_random(stage.folder / "files" / "large.bin"))
    if stage.postgres.installed:
        port, log = stage.port("postgres"), stage.folder / "postgres.log"
        stage.background("postgres", lambda: stage.postgres.start(stage.processes, port, log))
    stage.init("ctl-1")
    stage.result("web server")
    stage.result("files server")


def write_random(path: Path) -> str:
    """Write 256 MiB that nobody has seen before; returns their SHA-256."""
    seed, digest = secrets.token_bytes(32), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(FILE_BYTES // MIB):
            block = hashlib.shake_128(seed + number.to_bytes(4, "big")).digest(MIB)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def controller(stage: Stage) -> str:
    """A Controller runs, and three of its ports can be reached from elsewhere."""
    prepare(stage)
    ready = stage.run("ctl-1", "controller")
    return f"ctl-1 is ready {ready:.1f} s after its start; {_three_ports(stage)}"


def _three_ports(stage: Stage) -> str:
    expected = {stage.port("ctl-1 api"), stage.port("portal"), stage.port("ctl-1 ssh")}
    found = stage.node("ctl-1").open_ports()
    if found != expected:
        raise Failed(f"other machines reach the ports {sorted(found)} of ctl-1, and should reach {sorted(expected)}")
    return (f"other machines reach {len(found)} of its ports ({stage.port('ctl-1 api')} API, {stage.port('portal')} "
            f"key exchange, {stage.port('ctl-1 ssh')} SSH)")


def bundle(stage: Stage) -> str:
    """An engine joins by one file."""
    web = stage.port("web")
    stage.background("web", lambda: stage.offer("web", "ctl-1", "web server", "engines"))
    path = stage.export("se-1", "--node", "se-1")
    stage.result("web")
    fields = json.loads(path.read_bytes())
    host_key = fields["controllers"][0]["host_key"]
    (stage.folder / "known_hosts").write_text(f"[{LOOPBACK}]:{stage.port('ctl-1 ssh')} {host_key}\n")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode != 0o600:
        raise Failed(f"the bundle has mode {mode:04o}, not 0600")
    began = time.monotonic()
    stage.join(path, "se-1").done()
    stage.run("se-1", "engine")
    where = stage.address("ctl-1", "se-1")
    until(f"ctl-1's web service answers se-1 at {where}:{web}", lambda: get(where, web, "/hello.txt") == HELLO)
    took = time.monotonic() - began
    if path.exists():
        raise Failed("the bundle is still there after the join")
    return (f"se-1 joined with one file (mode 0600, {fields['lifetime_s'] // 60} minutes to live, deleted once used); "
            f"first byte through the tunnel {took:.1f} s after `engine join`")


def environment(stage: Stage) -> str:
    """An engine joins by three variables."""
    path = stage.export("se-2")
    fields = json.loads(path.read_bytes())
    path.unlink()
    settings = {"AVICNTRL": f"{LOOPBACK}:{stage.port('portal')}", "AVICNTRL_AUTHTOKEN": fields["token"],
                "AVICNTRL_CLUSTERUUID": fields["cluster_uuid"]}
    began = time.monotonic()
    stage.fairlead("engine", "join", "--from-env", "--name", "se-2", "--view", stage.node("se-2").view, on="se-2",
                   environment=settings).done()
    stage.run("se-2", "engine")
    stage.connected("se-2")
    return (f"se-2 joined with {', '.join(settings)}; connected {time.monotonic() - began:.1f} s after "
            "`engine join`")


def database(stage: Stage) -> str:
    """Stock psql on the engine asks PostgreSQL on the Controller."""
    there = stage.postgres.installed
    stage.offer("db", "ctl-1", "postgres" if there else "web server", "se-1")  # the attacks need it in any case
    if not there:
        raise Absent("PostgreSQL")
    stage.result("postgres")
    log = stage.folder / "postgres.log"
    until("PostgreSQL accepts connections", lambda: b"ready to accept connections" in log.read_bytes())
    lines = stage.fairlead("hosts", on="se-1").done().out.splitlines()
    where = next((line.split()[0] for line in lines if "ctl-1" in line.split()), None)
    if where is None:
        raise Failed(f"`fairlead hosts` on se-1 does not name ctl-1: {lines}")
    return f"psql on se-1, at {where}:{stage.port('db')} as `fairlead hosts` says: {ask_database(stage)}"


def ask_database(stage: Stage) -> str:
    """What a query from se-1 shows. Raises Failed when the database does not compute."""
    sql = "SELECT sum(n * n), inet_server_port(), version() FROM generate_series(1, 1000) AS n"
    began = time.monotonic()
    answer = stage.postgres.query(stage.processes, stage.address("ctl-1", "se-1"), stage.port("db"), sql).done()
    value, port, version = answer.out.strip().split("|")
    if (value, port) != (str(SUM), str(stage.port("postgres"))):
        raise Failed(f"the query brought {value} from port {port}, not {SUM} from port {stage.port('postgres')}")
    product = " ".join(version.split()[:2])
    return f"{product} computes {value} in {(time.monotonic() - began) * 1000:.0f} ms"


def large_file(stage: Stage) -> str:
    """A large file comes from the engine's file server to the Controller."""
    stage.offer("files", "se-2", "files server", "controllers")
    where, port = stage.address("se-2", "ctl-1"), stage.port("files")
    until(f"se-2's file server answers ctl-1 at {where}:{port}", lambda: get(where, port, "/hello.txt") == HELLO)
    expected = stage.result("large file")
    connection = http.client.HTTPConnection(where, port, timeout=30)
    digest, size, began = hashlib.sha256(), 0, time.monotonic()
    try:
        connection.request("GET", "/large.bin")
        answer = connection.getresponse()
        while block := answer.read(MIB):
            digest.update(block)
            size += len(block)
    finally:
        connection.close()
    took = time.monotonic() - began
    if (size, digest.hexdigest()) != (FILE_BYTES, expected):
        raise Failed(f"{size} bytes with SHA-256 {digest.hexdigest()} came, not {FILE_BYTES} with {expected}")
    return (f"{FILE_BYTES // MIB} MiB from se-2's file server to ctl-1 in {took:.1f} s, {size / took / 1e6:.0f} MB/s, "
            f"SHA-256 {expected[:16]}... equal")


def new_service(stage: Stage) -> str:
    """What is declared is there at once; nothing is restarted."""
    where, port = stage.address("se-2", "ctl-1"), stage.port("notes")
    reached: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            if get(where, port, "/hello.txt") == HELLO:
                reached.append(time.monotonic())
                return

    pids = [n.started.pid for n in stage.nodes.values() if n.started]
    stage.background("look", look)
    try:
        stage.offer("notes", "se-2", "files server", "ctl-1")
        returned = time.monotonic()
        until("the new service answers", lambda: reached, 5.0)
    finally:
        over.set()
    if reached[0] - returned > PROMPT_S:
        raise Failed(f"it answered {reached[0] - returned:.2f} s after `service add` had returned")
    running = [n.started.pid for n in stage.nodes.values() if n.started and n.started.process.poll() is None]
    if running != pids:
        raise Failed("a daemon was restarted, or is gone")
    return f"notes on se-2 answered ctl-1 {moment(reached[0] - returned)} `service add` had returned; nothing restarted"


def open_ports(stage: Stage) -> str:
    """With everything running, no port was added."""
    three = _three_ports(stage)
    inside = []
    for name in ("ctl-1", "se-1", "se-2"):
        node = stage.node(name)
        if name != "ctl-1" and (found := node.open_ports()):
            raise Failed(f"other machines reach the ports {sorted(found)} of {name}")
        prefix = node.view.removesuffix("0.0/16")
        own = [one for one in node.listeners() if one.address.is_loopback]
        if strange := [str(one.address) for one in own if not str(one.address).startswith(prefix)]:
            raise Failed(f"{name} listens on {', '.join(strange)}, outside its view {node.view}")
        inside.append(f"{name} {len(own)} in {node.view}")
    return f"{three}, none of se-1 and se-2; on loopback listen {', '.join(inside)}"


def moment(seconds: float) -> str:
    """``12 ms after``, ``3 ms before``."""
    return f"{abs(seconds) * 1000:.0f} ms {'after' if seconds >= 0 else 'before'}"
