"""The demo of a cluster, its first part: three Controllers and two engines come to life and do real work."""

import json
import time
from functools import partial
from pathlib import Path

from fairlead.cli.demo.report import Absent
from fairlead.cli.netns.network import Network
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.postgres import Postgres
from fairlead.cli.stage.processes import Failed, Processes
from fairlead.cli.stage.town import CONTROLLERS, ENGINES, Town, pairs

THIEF = "thief"
OPEN = {443, 8443, 22}
SQL = "SELECT sum(n * n) FROM generate_series(1, 1000) AS n"


def town_on(folder: Path) -> Town:
    """Where it takes place; nothing of it is there yet."""
    hosts = (*CONTROLLERS, *ENGINES, THIEF)
    return Town(folder, Processes(folder), Postgres.find(folder),
                network=Network(folder / "namespaces", *hosts, joined=pairs(*hosts)))


def first(town: Town) -> str:
    """A Controller, which is no cluster yet."""
    town.network.open()
    if town.postgres.installed:
        port, log = town.port("postgres"), town.folder / "postgres.log"
        town.background("postgres", lambda: town.postgres.start(town.processes, port, log, town.node("ctl-2").within))
    ready = town.found("ctl-1")
    hosts = ", ".join(f"{name} {town.where(name)}" for name in (*CONTROLLERS, *ENGINES))
    return f"each node has a network namespace of its own ({hosts}); ctl-1 is ready {ready:.1f} s after its start"


def controllers(town: Town) -> str:
    """Two followers join, each with a bundle."""
    took = []
    for number, name in enumerate(CONTROLLERS[1:], 2):
        began = time.monotonic()
        town.enrol("controller", name, "ctl-1")
        town.run(name, "controller")
        town.well(*CONTROLLERS[:number], at=name)
        took.append(f"{name} voted {time.monotonic() - began:.1f} s after its bundle was asked for")
    found = town.at_once(*[partial(town.well, *CONTROLLERS, at=at) for at in CONTROLLERS])
    seen = [(one["leader"], one["term"]) for one in found]
    if len(set(seen)) != 1:
        raise Failed(f"they do not agree who leads: {seen}")
    said = town.shown("cluster", "status", on="ctl-3")
    town.expect((said["leader"], sorted(m["name"] for m in said["members"]), said["quorum"]),
                (seen[0][0], list(CONTROLLERS), True), "`cluster status` on ctl-3")
    return f"{'; '.join(took)}; three voters, and all three say that {seen[0][0]} leads, term {seen[0][1]}"


def engines(town: Town) -> str:
    """Engines join with bundles that followers exported, and have a link to each Controller."""
    leader = town.status("ctl-1")["leader"]
    followers = [name for name in CONTROLLERS if name != leader]
    took = []
    for name, at in zip(ENGINES, followers, strict=True):
        began = time.monotonic()
        path = town.bundle("engine", name, at)
        (town.folder / f"{name}.copy").write_bytes(path.read_bytes())
        (town.folder / f"{name}.copy").chmod(0o600)
        town.fairlead("engine", "join", str(path), "--name", name, on=name).done()
        town.run(name, "engine")
        town.linked(name)
        took.append(f"{name} with a bundle of the follower {at}, {time.monotonic() - began:.1f} s")
    return f"joined, with links to all three: {'; '.join(took)}"


def database(town: Town) -> str:
    """PostgreSQL on one Controller, at one address from everywhere."""
    if not town.postgres.installed:
        raise Absent("PostgreSQL")
    town.result("postgres")
    log = town.folder / "postgres.log"
    until("PostgreSQL accepts connections", lambda: b"ready to accept connections" in log.read_bytes())
    town.fairlead("service", "add", "db", "--node", "ctl-2", "--port", str(town.port("db")),
                  "--target", f"127.0.0.1:{town.port('postgres')}", "--allow", "controllers", "--allow", "engines",
                  on="ctl-3").done()
    return same_answer(town, *CONTROLLERS, *ENGINES)


def same_answer(town: Town, *names: str) -> str:
    """What the database answers to each of them. Raises Failed when they do not hear the same."""
    for name in names:
        until(f"{name} listens at the database's address", lambda name=name: any(  # type: ignore[misc]
            str(one.address) == town.database and one.port == town.port("db") for one in town.node(name).listeners()))
    found = town.at_once(*[partial(town.ask, name, SQL) for name in names])
    if set(found) != {"333833500"}:
        raise Failed(f"{dict(zip(names, found, strict=True))}, not 333833500 from each")
    return f"psql at {town.database}:{town.port('db')} on {', '.join(names)}: {found[0]} from each"


def open_ports(town: Town) -> str:
    """What can be reached from other hosts, as the kernel has it for each namespace."""
    inside = []
    for name in (*CONTROLLERS, *ENGINES):
        found = town.node(name).namespace_sockets()
        outside = {one.port for one in found if not one.address.is_loopback}
        town.expect(sorted(outside), sorted(OPEN) if name in CONTROLLERS else [], f"ports of {name} off loopback")
        inside.append(f"{name} {sum(one.address.is_loopback for one in found)}")
    return (f"off loopback there listen 22, 443, 8443 on each Controller and nothing on an engine; on loopback "
            f"{', '.join(inside)}, etcd among them")


def used_bundle(town: Town) -> str:
    """A copy of a spent bundle is tried by a stranger, at one Controller after the other."""
    copy, said = town.folder / "se-2.copy", []
    for at in CONTROLLERS:
        town.network.reach_only(THIEF, at)
        found = town.fairlead("engine", "join", str(copy), "--name", "se-2", "--keep-bundle", on=THIEF)
        code = found.last.rpartition("[")[2].rstrip("]")
        if found.code != 1 or code not in ("FL-JOIN-CONFLICT", "FL-JOIN-USED", "FL-JOIN-FROZEN"):
            raise Failed(f"{at}: exit code {found.code}: {found.last}")
        said.append(f"{at} {code}")
    if (town.node(THIEF).state / "trust.json").exists():
        raise Failed("the stranger has joined")
    until("se-2 knows that it is frozen", lambda: town.node("se-2").events("node.frozen"))
    fingerprint = json.loads(town.fairlead("status", "--json", on="se-2").out)["fingerprint"]
    town.fairlead("node", "release", "se-2", "--fingerprint", fingerprint, on="ctl-3").done()
    town.linked("se-2")
    return (f"a copy of se-2's bundle was refused: {', '.join(said)}; se-2, frozen by the alarm, was released by its "
            "fingerprint at ctl-3 and has its three links again")
