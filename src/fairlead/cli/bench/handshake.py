"""Handshakes of a Controller's SSH port, beside those of sshd: how many, at what cost, and what a connection weighs.

A real Controller with engines that have joined; their own processes do not run, only their keys are used, by clients
that dial as engines do (`callers`). sshd gets the same clients, one key, and room for all of them (MaxStartups); it
has no post-quantum key exchange in common with them where it is older than OpenSSH 9.9. Nothing of this may change, or
later figures do not compare with earlier ones.
"""

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fairlead.base.clock import SystemClock
from fairlead.cli import output
from fairlead.cli.bench.callers import Task
from fairlead.cli.bench.peers import Absent, Ground, sshd, user
from fairlead.cli.bench.rows import rotated, shown
from fairlead.cli.bench.usage import cpu_and_ended, families, memory_mib, total
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed, Started
from fairlead.cli.stage.stage import LOOPBACK, Stage
from fairlead.client.control import ControlClient
from fairlead.enrol import bundle as bundles
from fairlead.enrol.join import Joiner
from fairlead.enrol.trust import KEYS, USER_KEY
from fairlead.fleet.sessions import MOST_TUNNELS
from fairlead.nodes.node import USERS

AT_A_TIME = 16
JOINS = 8
"""At a time."""
CALLERS = (sys.executable, "-m", "fairlead.cli.bench.callers")
PROCESSES = 2
"""Of callers: one cannot load a server that is as fast as it."""
SSHD_CONNECTIONS = 200
"""It has a process or two for each: its slope is known from fewer."""
HOLD_S = 120.0
SETTLE_S = 2.0
"""For sshd, whose processes for the key exchange end soon after it, and for a sweep or two of ours."""


@dataclass(frozen=True, slots=True)
class Server:
    """An SSH port, who serves it, and who may come in."""

    name: str
    process: Started
    port: int
    user: str
    host_key: str
    keys: list[str]
    most_idle: int
    """How many connections are held there at most."""

    def settled(self) -> None:
        """Wait until those who came have gone. Raises Failed."""
        until(f"{self.name} is idle", lambda: len(families([self.process.pid])) == 1)


@dataclass(slots=True)
class Handshakes:
    """What was found of a server."""

    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Of the server, for each handshake."""
    failed: Counter[str] = field(default_factory=Counter)
    storm: dict[str, Any] = field(default_factory=dict)
    connections: int = 0
    kib: float | None = None
    """Private memory for each idle connection: the slope between half of them and all."""
    kib_from_none: float | None = None
    """The same between none and all: with what the first ones made the server load and keep."""

    def row(self, name: str) -> dict[str, Any]:
        """One object."""
        def middle(values: list[float]) -> float | None:
            return round(statistics.median(values), 2) if values else None

        return {"name": name, "handshakes_per_s": middle(self.per_s), "min": round(min(self.per_s, default=0.0), 2),
                "max": round(max(self.per_s, default=0.0), 2), "server_cpu_ms": middle(self.cpu_ms),
                "failed": dict(self.failed), "storm": self.storm, "idle_connections": self.connections,
                "idle_kib_per_connection": None if self.kib is None else round(self.kib, 1),
                "idle_kib_from_none": None if self.kib_from_none is None else round(self.kib_from_none, 1)}


@dataclass(slots=True)
class Bench:
    """The servers, and what was measured of them."""

    ground: Ground
    seconds: float
    say: Callable[[str], None]
    servers: dict[str, Server] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    found: dict[str, Handshakes] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, PROCESSES))
    _tasks: int = 0

    def start(self, connections: int) -> None:
        """Start both, and join the engines that *connections* need. Raises Failed when ours does not start."""
        engines = -(-connections // MOST_TUNNELS)
        self.say(f"a Controller is made, and {engines} engines join")
        self.servers["fairlead"] = self._controller(engines, connections)
        try:
            process, port, folder = sshd(self.ground, "sshd", "MaxStartups 4096", "MaxSessions 10")
            host_key = " ".join((folder / "host.pub").read_text().split()[:2])
            self.servers["sshd"] = Server("sshd", process, port, user(), host_key, [str(folder / "user")],
                                          min(connections, SSHD_CONNECTIONS))
        except Absent as reason:
            self.missing["sshd"] = str(reason)
        except Failed as reason:
            self.missing["sshd"] = f"it did not start: {reason}"
        self.found.update({name: Handshakes() for name in self.servers})

    def round(self, number: int) -> None:
        """The rate of each server, once. Raises Failed."""
        for name in rotated(list(self.servers), number):
            server, found = self.servers[name], self.found[name]
            server.settled()
            before = cpu_and_ended(server.process.pid)
            reports = self._call(server, "rate", AT_A_TIME, self.seconds)
            server.settled()
            done = sum(report["done"] for report in reports)
            took = max(r["last"] for r in reports) - min(r["began"] for r in reports)
            found.per_s.append(done / took if done else 0.0)
            if done:
                found.cpu_ms.append((cpu_and_ended(server.process.pid) - before) / done * 1000)
            for report in reports:
                found.failed.update(report["failed"])

    def storm(self, clients: int) -> None:
        """So many clients within a second, once; who is refused tries again as an engine does. Raises Failed."""
        for name, server in self.servers.items():
            self.say(f"{clients} clients come to {name} within a second")
            server.settled()
            reports = self._call(server, "storm", clients, 0.0)
            failed: Counter[str] = Counter()
            for report in reports:
                failed.update(report["failed"])
            self.found[name].storm = {
                "clients": clients, "never_in": sum(r["never"] for r in reports), "tries_failed": dict(failed),
                "all_in_s": round(max(r["last"] for r in reports) - min(r["began"] for r in reports), 2),
                "p50_s": round(statistics.median(r["p50_s"] for r in reports), 2),
                "max_s": round(max(r["max_s"] for r in reports), 2)}

    def idle(self) -> None:
        """What an idle connection weighs at the server. Raises Failed."""
        for name, server in self.servers.items():
            half = server.most_idle // 2
            self.say(f"{server.most_idle} connections to {name} are held")
            server.settled()
            weights, holding = [total(memory_mib, families([server.process.pid]))], []
            for part, clients in enumerate((half, server.most_idle - half)):
                # the second half come with the other half of the keys
                keys = server.keys[part * len(server.keys) // 2:(part + 1) * len(server.keys) // 2] or server.keys
                holding.append(self._hold(server, clients, keys))
                time.sleep(SETTLE_S)
                weights.append(total(memory_mib, families([server.process.pid])))
            self.found[name].connections = server.most_idle
            none, some, every = weights
            self.found[name].kib = (every - some) * 1024 / (server.most_idle - half)
            self.found[name].kib_from_none = (every - none) * 1024 / server.most_idle
            for one in holding:
                self.ground.processes.end(one)

    def as_json(self, **settings: Any) -> dict[str, Any]:
        """All of it, one object."""
        return settings | {"seconds": self.seconds, "at_a_time": AT_A_TIME, "missing": self.missing,
                           "rows": [found.row(name) for name, found in self.found.items()]}

    def show(self) -> None:
        """A table for people."""
        columns = ["handshakes/s", "min", "max", "server_CPU_ms", "failed", "storm", "all_in_s", "tries_failed",
                   "never_in", "idle", "KiB_each", "from_none"]
        made = []
        for name, found in self.found.items():
            row, storm = found.row(name), found.storm
            values = [shown(row["handshakes_per_s"]), shown(row["min"]), shown(row["max"]),
                      shown(row["server_cpu_ms"], 2), dict(found.failed) or 0, storm.get("clients"),
                      storm.get("all_in_s"), storm.get("tries_failed") or 0, storm.get("never_in"), found.connections,
                      shown(found.kib, 1), shown(found.kib_from_none, 1)]
            made.append({"server": name} | dict(zip(columns, values, strict=True)))
        output.table(made, ["server", *columns], "nothing was measured")
        for name, why in self.missing.items():
            output.line(f"{name}: not measured, {why}")

    def close(self) -> None:
        """End everything that was started."""
        self.ground.processes.close()
        self._pool.shutdown(cancel_futures=True)
        self.ground.close()

    # -- by which -----------------------------------------------------------------------------------------------------

    def _controller(self, engines: int, connections: int) -> Server:
        stage = Stage(self.ground.folder / "fairlead", self.ground.processes, free=self.ground.ports,
                      views=self.ground.views)
        stage.folder.mkdir()
        stage.init("ctl-1")
        stage.run("ctl-1", "controller")
        node = stage.node("ctl-1")
        if node.started is None:
            raise Failed("ctl-1 does not run")
        folders, host_key = asyncio.run(_join(node.state, stage.folder, engines))
        return Server("fairlead", node.started, stage.port("ctl-1 ssh"), USERS["engine"], host_key,
                      [str(folder / KEYS / USER_KEY) for folder in folders], connections)

    def _call(self, server: Server, kind: Any, clients: int, seconds: float) -> list[dict[str, Any]]:
        """What the processes of callers report."""
        calls = []
        for part in range(PROCESSES):
            share = clients * (part + 1) // PROCESSES - clients * part // PROCESSES
            if share:
                task = self._task(server, kind, share, seconds, server.keys[part::PROCESSES] or server.keys)
                calls.append(self._pool.submit(self.ground.processes.run, [*CALLERS, str(task)]))
        return [json.loads(call.result().done().out) for call in calls]

    def _hold(self, server: Server, clients: int, keys: list[str]) -> Started:
        """Callers that stay, once all are there. Raises Failed when one did not come in."""
        task = self._task(server, "hold", clients, 0.0, keys)
        log = task.with_suffix(".log")
        started = self.ground.processes.start("callers", [*CALLERS, str(task)], log)
        until(f"{clients} connections to {server.name} are there",
              lambda: log.read_text().endswith("\n") or started.process.poll() is not None, HOLD_S)
        report = json.loads(log.read_text().splitlines()[-1])
        if report["failed"]:
            raise Failed(f"connections that should stay did not come in: {report['failed']}")
        return started

    def _task(self, server: Server, kind: Any, clients: int, seconds: float, keys: list[str]) -> Path:
        self._tasks += 1
        sources = ".".join(next(self.ground.views).split(".")[:2])
        task = Task(kind, LOOPBACK, server.port, server.user, server.host_key, keys, sources, clients, seconds)
        return task.save(self.ground.folder / f"callers-{self._tasks}.json")


async def _join(controller: Path, folder: Path, engines: int) -> tuple[list[Path], str]:
    """Let so many engines join; their state folders, and the host key of the Controller."""
    clock = SystemClock()

    async def one(number: int) -> tuple[Path, str]:
        made = await asyncio.to_thread(ControlClient(controller).post, "/api/bundle", {"role": "engine"})
        state = folder / f"se-{number}"
        trust = await Joiner(state, "engine", f"se-{number}", clock).join(
            bundles.decode(json.dumps(made).encode()), lambda: None)
        return state, trust.controllers[0].host_key

    found: list[tuple[Path, str]] = []
    while len(found) < engines:
        found += await asyncio.gather(*(one(n) for n in range(len(found), min(engines, len(found) + JOINS))))
    return [state for state, _ in found], found[0][1]
