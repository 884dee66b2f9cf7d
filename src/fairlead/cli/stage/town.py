"""A stage for a cluster: each node on a host of its own, with the ports that it has in earnest."""

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fairlead.base.errors import FairleadError
from fairlead.cli.netns.network import Network
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed, Result, Started
from fairlead.cli.stage.stage import Node, Stage
from fairlead.client.control import ControlClient

CONTROLLERS = ("ctl-1", "ctl-2", "ctl-3")
ENGINES = ("se-1", "se-2")
WELL_S = 45.0
CONTROL_S = 30.0
SERVICE_PORTS = 21_000


def pairs(*names: str) -> list[tuple[str, str]]:
    """Who is joined to whom: all, but no engine to an engine."""
    return [pair for pair in itertools.combinations(names, 2) if not all(one in ENGINES for one in pair)]


@dataclass(slots=True, kw_only=True)
class Town(Stage):
    """A stage whose nodes have hosts."""

    network: Network
    written: int = 0
    """How many changes of the store were accepted."""

    def node(self, name: str) -> Node:
        """The node *name*, on its host."""
        with self._turn:
            if name not in self.nodes:
                host = self.network.hosts[name]
                self.nodes[name] = Node(name, self.folder / name, "", self.folder / f"{name}.log", host.within)
            return self.nodes[name]

    def close(self) -> list[Started]:
        """End everything that runs here, and take the hosts away; returns what ended only when it was killed."""
        stubborn = Stage.close(self)
        self.network.close()
        return stubborn

    def where(self, name: str) -> str:
        """The address of its host."""
        return self.network.hosts[self.node(name).name].address

    def found(self, name: str) -> float:
        """Make the first Controller, and start it; seconds until it is ready. Raises Failed."""
        self.fairlead("controller", "init", "--name", name, "--address", self.where(name), on=name).done()
        return self.run(name, "controller")

    def enrol(self, role: str, name: str, at: str) -> None:
        """Join that node with a bundle exported at a Controller; it does not run yet. Raises Failed."""
        path = self.bundle(role, name, at)
        where = ["--address", self.where(name)] if role == "controller" else []
        self.fairlead(role, "join", str(path), "--name", name, *where, on=name).done()

    def bundle(self, role: str, name: str, at: str) -> Path:
        """The file of a new bundle for that node, exported at a Controller. Raises Failed."""
        path = self.folder / f"{name}.bundle"
        self.fairlead("bundle", "export", "--role", role, "--node", name, "--output", str(path), on=at).done()
        return path

    def status(self, at: str) -> dict[str, Any]:
        """What `cluster status` shows there; nothing known while its daemon does not answer.

        The daemon is asked without a command: looking again and again must not take the machine's time from those who
        are looked at.
        """
        try:
            seen: dict[str, Any] = self.control(at).get("/api/cluster/status")
        except FairleadError:
            return {"leader": None, "term": 0, "members": [], "quorum": False}
        return seen

    def control(self, at: str) -> ControlClient:
        """The daemon there, as the command line asks it."""
        return ControlClient(self.node(at).state, CONTROL_S)

    def well(self, *names: str, at: str) -> dict[str, Any]:
        """Its status, once exactly these Controllers vote, are up with lag 0, and one leads. Raises Failed."""
        def look() -> dict[str, Any] | None:
            seen = self.status(at)
            return seen if _vote(seen, names) and all(m["lag"] == 0 for m in seen["members"]) else None

        return until(f"{at} shows {', '.join(names)} up with lag 0", look, WELL_S)

    def voting(self, *names: str, at: str) -> None:
        """Wait until exactly these Controllers vote, are up, and one leads, as one sees it. Raises Failed."""
        until(f"{at} shows {', '.join(names)} up", lambda: _vote(self.status(at), names), WELL_S)

    def led(self, at: str, *, but: str) -> dict[str, Any]:
        """Its status, once another than *but* leads. Raises Failed."""
        def look() -> dict[str, Any] | None:
            seen = self.status(at)
            return seen if seen["leader"] not in (None, "", but) else None

        return until(f"{at} sees another leader than {but}", look, WELL_S)

    def write(self, at: str) -> Result:
        """Try a change of the store there."""
        with self._turn:
            self.written += 1
            number = self.written
        return self.fairlead("service", "add", f"change-{number}", "--node", at, "--port", str(SERVICE_PORTS + number),
                             "--allow", "engines", on=at)

    def accepted(self, at: str) -> float:
        """Seconds until a change is accepted there, tried again and again. Raises Failed."""
        began = time.monotonic()
        until(f"{at} accepts a change", lambda: self.write(at).code == 0, WELL_S)
        return time.monotonic() - began

    def services(self, at: str) -> set[str]:
        """The names of the services that a Controller knows."""
        return {str(row["name"]) for row in self.shown("service", "list", on=at)}

    def linked(self, *names: str, to: Iterable[str] = CONTROLLERS) -> None:
        """Wait until each of these engines has a link to each of these Controllers. Raises Failed."""
        for name in names:
            until(f"{name} has links to {', '.join(to)}", lambda name=name: set(to) <= self._links(name)[-1][1],  # type: ignore[misc]
                  WELL_S)

    def fewest_links(self, name: str, since: datetime) -> int:
        """How many Controllers an engine had at the worst moment since then, as its log tells."""
        story = self._links(name)
        before = [links for when, links in story if when <= since][-1:]
        return min(len(links) for links in before + [links for when, links in story if when > since])

    def _links(self, name: str) -> list[tuple[datetime, set[str]]]:
        """The Controllers to which an engine had links: after each change, and at first."""
        node = self.node(name)
        changes = [(datetime.fromisoformat(r["time"]), event == "link.up", str(r["controller"]))
                   for event in ("link.up", "link.down") for r in node.events(event)]
        story: list[tuple[datetime, set[str]]] = [(datetime.min.replace(tzinfo=UTC), set())]
        for when, up, controller in sorted(changes, key=lambda change: change[0]):
            links = story[-1][1]
            story.append((when, links | {controller} if up else links - {controller}))
        return story

    def ask(self, name: str, sql: str) -> str:
        """What the database answers to psql on that node, at its one internal address. Raises Failed."""
        return self.postgres.query(self.processes, self.database, self.port("db"), sql,
                                   self.node(name).within).done().out.strip()

    @property
    def database(self) -> str:
        """The internal address of the Controller that has the database."""
        return self.address("ctl-2", "ctl-2")

    def expect(self, said: object, expected: object, what: str) -> None:
        """Raises Failed when *said* is not *expected*."""
        if said != expected:
            raise Failed(f"{what}: {said}, not {expected}")


def _vote(seen: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether by this status exactly these vote and are up, and one of them leads."""
    up = {m["name"] for m in seen["members"] if m["role"] != "learner" and m["state"] == "up"}
    return up == set(names) == {m["name"] for m in seen["members"]} and seen["leader"] in up
