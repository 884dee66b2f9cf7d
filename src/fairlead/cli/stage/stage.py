"""A stage: a folder, nodes on this machine, and an operator with a shell.

Nothing here is fixed: free ports, and for each node a random view of 127.0.0.0/8 that nobody uses.
"""

import json
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from fairlead.base.sockets import Listening
from fairlead.cli.program import FAIRLEAD
from fairlead.cli.stage.machine import answers, free_ports, free_views, sockets, until
from fairlead.cli.stage.postgres import Postgres
from fairlead.cli.stage.processes import END_S, Failed, Processes, Result, Started

LOOPBACK = "127.0.0.1"
THREADS = 6
TOGETHER_S = 120.0
"""Longer than anything waits that is done side by side."""
T = TypeVar("T")


@dataclass(slots=True)
class Node:
    """A node on the stage."""

    name: str
    state: Path
    view: str
    log: Path
    within: tuple[str, ...] = ()
    """Runs a command on its host, when that is not this machine itself."""
    started: Started | None = None

    def events(self, name: str) -> list[dict[str, Any]]:
        """The records *name* in its log."""
        found = []
        with suppress(FileNotFoundError):
            for line in self.log.read_text(errors="replace").splitlines():
                with suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict) and record.get("event") == name:
                        found.append(record)
        return found

    def listeners(self) -> list[Listening]:
        """The TCP sockets on which its daemon listens, as the kernel has them."""
        if self.started is None:
            return []
        mine = set()
        for handle in Path(f"/proc/{self.started.pid}/fd").iterdir():
            with suppress(OSError):
                mine.add(str(handle.readlink()))
        return [one for one in sockets(self.started.pid) if f"socket:[{one.inode}]" in mine]

    def namespace_sockets(self) -> list[Listening]:
        """The TCP sockets on which anything listens in the network namespace of its daemon."""
        return [] if self.started is None else sockets(self.started.pid)

    def open_ports(self) -> set[int]:
        """Its ports that other machines can reach."""
        return {one.port for one in self.listeners() if not one.address.is_loopback}


@dataclass(slots=True)
class Stage:
    """Everything that is there. Whoever makes it closes it."""

    folder: Path
    processes: Processes
    postgres: Postgres = field(default_factory=Postgres)
    pool: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, THREADS))
    """For parts of a check."""
    checks: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, THREADS))
    """For checks that are made side by side. They wait for their parts, so those have threads of their own."""
    nodes: dict[str, Node] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    later: dict[str, "Future[Any]"] = field(default_factory=dict)
    away_since: float = 0.0
    """When ctl-1 was stopped."""
    free: Iterator[int] = field(default_factory=free_ports)
    views: Iterator[str] = field(default_factory=free_views)
    """Several stages that take from the same ports and views do not get in each other's way."""
    environment: dict[str, str] = field(default_factory=dict)
    """What its daemons find in their environment besides."""
    _turn: Lock = field(default_factory=Lock)

    def close(self) -> list[Started]:
        """End everything that runs here; returns what ended only when it was killed."""
        stubborn = self.processes.close()
        self.checks.shutdown(cancel_futures=True)
        self.pool.shutdown(cancel_futures=True)
        self.postgres.remove()
        return stubborn

    # -- the operator -------------------------------------------------------------------------------------------------

    def fairlead(self, *arguments: str, on: str = "", environment: dict[str, str] | None = None) -> Result:
        """Run a command, on the node *on*."""
        where = ["--state", str(self.node(on).state)] if on else []
        return self.processes.run([*FAIRLEAD, *arguments, *where], environment=environment,
                                  within=self.node(on).within if on else ())

    def shown(self, *arguments: str, on: str) -> Any:
        """What a command shows as JSON. Raises Failed."""
        return json.loads(self.fairlead(*arguments, "--json", on=on).done().out)

    def background(self, name: str, work: Callable[[], Any]) -> None:
        """Begin *work* now; `result` waits for it."""
        self.later[name] = self.pool.submit(work)

    def result(self, name: str) -> Any:
        """What the work in the background returned; what it raised is raised."""
        return self.later[name].result(timeout=60)

    def at_once(self, *work: Callable[[], T]) -> list[T]:
        """What each of *work* returns, done side by side; what one raised is raised."""
        return [future.result(timeout=TOGETHER_S) for future in [self.pool.submit(one) for one in work]]

    # -- nodes --------------------------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        """The node *name*; it is given a folder and a view when it is first named."""
        with self._turn:
            if name not in self.nodes:
                self.nodes[name] = Node(name, self.folder / name, next(self.views), self.folder / f"{name}.log")
            return self.nodes[name]

    def port(self, name: str) -> int:
        """The port for *name*, free when it is first asked for."""
        with self._turn:
            if name not in self.ports:
                self.ports[name] = next(self.free)
            return self.ports[name]

    def init(self, name: str, *more: str) -> None:
        """Make a Controller; all have the same port for their portals. Raises Failed."""
        self.fairlead("controller", "init", "--name", name, "--address", LOOPBACK, "--view", self.node(name).view,
                      "--portal-port", str(self.port("portal")), "--api-port", str(self.port(f"{name} api")),
                      "--ssh-port", str(self.port(f"{name} ssh")), *more, on=name).done()

    def run(self, name: str, role: str) -> float:
        """Start a node's daemon; seconds until it is ready. Raises Failed."""
        node = self.node(name)
        event, began = f"{role}.ready", time.monotonic()
        known = len(node.events(event))
        node.started = self.processes.start(name, [*FAIRLEAD, role, "run", "--state", str(node.state)], node.log,
                                            within=node.within, environment=self.environment)

        def ready() -> bool:
            assert node.started is not None
            if node.started.process.poll() is not None:
                last = (node.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise Failed(f"{name} did not start: {last}")
            return len(node.events(event)) > known

        until(f"{name} is ready", ready)
        return time.monotonic() - began

    def connected(self, name: str, links: int = 0) -> None:
        """Wait until an engine has had more than so many *links* and its plan. Raises Failed."""
        node = self.node(name)
        until(f"{name} is connected", lambda: min(len(node.events(e)) for e in ("link.up", "plan.applied")) > links, 30)

    def stop(self, name: str, within_s: float = END_S) -> tuple[int, float]:
        """End a daemon in order: its exit code, and the seconds that it took; after *within_s* it is killed."""
        node, began = self.node(name), time.monotonic()
        if node.started is None:
            raise Failed(f"{name} does not run")
        code = self.processes.end(node.started, within_s)
        node.started = None
        return code, time.monotonic() - began

    def export(self, bundle: str, *more: str) -> Path:
        """The file of a new bundle for an engine. Raises Failed."""
        path = self.folder / f"{bundle}.bundle"
        self.fairlead("bundle", "export", "--role", "engine", "--output", str(path), *more, on="ctl-1").done()
        return path

    def join(self, bundle: Path, name: str, *more: str, on: str = "") -> Result:
        """Join as *name* with a bundle, in the folder of *on*, else its own."""
        node = self.node(on or name)
        return self.fairlead("engine", "join", str(bundle), "--name", name, "--view", node.view, *more, on=node.name)

    def state_of(self, name: str) -> str:
        """How `node list` on the Controller shows a node."""
        return next((str(n["state"]) for n in self.shown("node", "list", on="ctl-1") if n["name"] == name), "unknown")

    def address(self, name: str, seen_from: str) -> str:
        """Where a node finds another, by the hosts file that its daemon keeps. Raises Failed."""
        path = self.node(seen_from).state / "hosts"

        def find() -> str | None:
            with suppress(FileNotFoundError):
                for line in path.read_text().splitlines():
                    address, *names = line.split()
                    if name in names:
                        return address
            return None

        return until(f"{name} stands in the hosts file of {seen_from}", find)

    def offer(self, service: str, owner: str, server: str, allow: str) -> None:
        """Declare a service that leads to the *server* on its owner's loopback. Raises Failed."""
        self.fairlead("service", "add", service, "--node", owner, "--port", str(self.port(service)), "--target",
                      f"{LOOPBACK}:{self.port(server)}", "--allow", allow, on="ctl-1").done()

    # -- what is reached ----------------------------------------------------------------------------------------------

    def serve_files(self, name: str, folder: Path) -> None:
        """Serve *folder* by HTTP on loopback, at the port *name*. Raises Failed."""
        port = self.port(name)
        self.processes.start(name, [*FAIRLEAD[:1], "-m", "http.server", str(port), "--bind", LOOPBACK, "--directory",
                                    str(folder)], self.folder / f"{name}.log")
        until(f"the file server answers at {LOOPBACK}:{port}", lambda: answers(LOOPBACK, port))

    def ssh(self, user: str, identity: str, *more: str) -> Result:
        """The stock client as *user*, with a node's key, at the Controller whose host key the first bundle named."""
        return self.processes.run([
            "ssh", "-F", "none", "-i", str(self.node(identity).state / "keys" / "user"), "-p",
            str(self.port("ctl-1 ssh")), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}",
            "-o", "GlobalKnownHostsFile=none", "-o", "ConnectTimeout=10", *more, f"{user}@{LOOPBACK}"])

    def readable_by_others(self) -> list[Path]:
        """What in the state folders of the nodes somebody else could read or write."""
        return [path for node in self.nodes.values() if node.state.is_dir()
                for path in (node.state, *node.state.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]
