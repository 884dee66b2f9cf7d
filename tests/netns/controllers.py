"""A cluster of Controllers, each on a host of its own, with engines: 20 ms between Controllers, 70 ms to engines.

    with cluster(tmp_path, controllers=3, engines=1) as town:
        town["ctl-1"].signal(signal.SIGKILL)
        town.until_led(but="ctl-1")
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.base import configuration, files
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.cli.netns.network import Network
from fairlead.client.control import ControlClient
from fairlead.engine.settings import EngineSettings
from fairlead.enrol import bundle as bundles
from fairlead.enrol.join import Joiner
from tests.conftest import need
from tests.netns.network import network
from tests.processes import POOL, Daemon, Result, Site, fairlead, until

NEAR_MS, FAR_MS = 10.0, 35.0
VIEW = f"{POOL}/10"
IDLE = "se-idle"
TOGETHER = 4
"""Engines that join or start at once."""


@dataclass(slots=True)
class Town:
    """Nodes by name, and the network between their hosts."""

    site: Site
    net: Network
    nodes: dict[str, Daemon] = field(default_factory=dict)
    around: Callable[[str], Sequence[str]] = lambda _: ()
    """Commands that run all that belongs to a node, on its host."""

    def __getitem__(self, name: str) -> Daemon:
        return self.nodes[name]

    def node(self, role: str, name: str) -> Daemon:
        """A node that does not exist yet, on its host."""
        made = self.site.daemon(role, name, self.site.folder / name, VIEW)
        made.before = [*self.net.hosts[name].within, *self.around(name)]
        self.nodes[name] = made
        return made

    def export(self, role: str, name: str, at: str, *options: object) -> Path:
        """A bundle for that node, exported at a Controller."""
        file = self.site.folder / f"{name}.bundle"
        self[at].cli("bundle", "export", "--role", role, "--node", name, "--output", file, *options).done()
        return file

    def join(self, role: str, name: str, at: str = "ctl-1") -> Result:
        """The node's join with a bundle of that Controller; it does not run yet."""
        file, made = self.export(role, name, at), self.nodes.get(name) or self.node(role, name)
        return made.cli(role, "join", file, "--name", name,
                        *(["--address", self.net.hosts[name].address] if role == "controller" else []))

    def let_in(self, name: str, at: str = "ctl-1") -> None:
        """An engine joins as with `join`, which has a process of its own for each step; of many that takes its time."""
        made = bundles.decode(json.dumps(ControlClient(self[at].state, 60.0).post(
            "/api/bundle", {"role": "engine", "lifetime_s": 120})).encode())
        state = self[name].state
        files.make_private_folder(state)
        with self.net.hosts[name].inside():
            asyncio.run(Joiner(state, "engine", name, SystemClock()).join(
                made, lambda: None, lambda: configuration.save(state, EngineSettings())))

    def status(self, at: str) -> dict[str, Any]:
        """``cluster status`` there; nothing known when its daemon does not answer."""
        try:
            found: dict[str, Any] = self[at].get("/api/cluster/status")
        except FairleadError:
            return {"leader": None, "term": 0, "members": [], "quorum": False}
        return found

    def until_well(self, *names: str, at: str | None = None) -> dict[str, Any]:
        """Its status, once exactly these Controllers vote, are up and one of them leads, as each of them sees it."""
        seen: dict[str, Any] = {}
        for asked in [at] if at else names:
            seen = until(lambda asked=asked: self._well(asked, names), f"{asked} sees {', '.join(names)}")  # type: ignore[misc]
        return seen

    def _well(self, at: str, names: Sequence[str]) -> dict[str, Any]:
        found = self.status(at)
        up = {m["name"] for m in found["members"] if m["role"] != "learner" and m["state"] == "up"}
        well = up == set(names) == {m["name"] for m in found["members"]} and found["leader"] in up
        return found if well else {}

    def until_led(self, at: str, *, but: str = "") -> str:
        """Who leads, as that Controller sees it, once it is not *but*."""
        def other() -> str:
            leader = self.status(at)["leader"]
            return leader if leader and leader != but else ""

        return until(other, f"{at} sees another leader than {but or 'none'}")

    def write(self, at: str, name: str) -> Result:
        """A change of the store by that Controller."""
        return self[at].cli("service", "add", name, "--role", "controller", "--port", self.port(), "--allow", "engines")

    def declare(self, at: str, name: str, *, timeout_s: float = 60.0) -> None:
        """Such a change without a command's start, a service that nobody listens for. Raises FairleadError."""
        ControlClient(self[at].state, timeout_s).post("/api/service", {
            "name": name, "node": IDLE, "port": self.port(), "allow": ["nobody=here"]})

    def idle(self, at: str) -> None:
        """Have the engine join that owns such services and never runs: nobody needs a plan for each change."""
        if self[at].node(IDLE) == {}:
            fairlead("engine", "join", self.export("engine", IDLE, at), "--name", IDLE, state=self.site.folder / IDLE,
                     before=self.net.hosts["se-1"].within).done()

    def port(self) -> int:
        """One that no service has."""
        return 20_000 + next(_PORTS)

    def until_up(self, engines: Sequence[str], at: Sequence[str]) -> None:
        """Wait until all these engines are up at each of these Controllers."""
        def up(name: str) -> set[str]:
            return {row["name"] for row in self[name].listed("node") if row["state"] == "up"}

        until(lambda: all(up(name) >= set(engines) for name in at), "all engines are up at each Controller")

    def written(self, at: str) -> set[str]:
        """What that Controller has of such changes."""
        return {row["name"] for row in self[at].listed("service")} - {"fairlead-store", "fairlead-store-peers"}


_PORTS = itertools.count()


@contextlib.contextmanager
def cluster(folder: Path, controllers: int = 3, engines: int = 0, *, spare: Sequence[str] = (),
            around: Callable[[str], Sequence[str]] = lambda _: ()) -> Iterator[Town]:
    """``ctl-1`` and so on, all voting; ``se-1`` and so on, all up; *spare*: hosts on which nothing is yet.

    *around*: commands that run what belongs to a node, by its name.
    """
    need("etcd")
    first, *others = names = [f"ctl-{n}" for n in range(1, controllers + 1)]
    ends = [f"se-{n}" for n in range(1, engines + 1)]
    hosts = [*names, *ends, *spare]
    joined = [pair for pair in itertools.combinations(hosts, 2) if not all(one.startswith("se-") for one in pair)]
    with network(*hosts, joined=joined) as net, Site(folder) as site:
        for one, other in joined:
            net.links[one, other].set(delay_ms=FAR_MS if "se-" in one + other else NEAR_MS)
        town = Town(site, net, around=around)
        town.node("controller", first).cli(
            "controller", "init", "--name", first, "--address", net.hosts[first].address, "--admin-password-file", "-",
            given="not asked for in these tests").done()
        town[first].start()
        for name in others:
            town.join("controller", name).done()
            town[name].start()
            town.until_well(*names[:names.index(name) + 1], at=first)
        for name in ends:
            town.node("engine", name)
        with ThreadPoolExecutor(TOGETHER) as pool:
            for name in filter(around, ends):  # by its own clock, say
                town.join("engine", name).done()
            list(pool.map(town.let_in, itertools.filterfalse(around, ends)))
        for some in (ends[n:n + TOGETHER] for n in range(0, len(ends), TOGETHER)):
            for name in some:  # from this thread: a daemon ends with the thread that has started it
                town[name].start(ready=False)
            for name in some:
                town[name].started()
        town.until_up(ends, names)
        yield town
