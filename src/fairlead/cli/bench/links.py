"""The same tunnels over links with delay, loss, or little room: a client's host and a server's, each a namespace.

The weather is there before the first byte: what a congestion control once learned of a shorter way it would remember.
Each product has a pair of hosts and a link of its own, for its Controller takes the ports that it has in earnest; the
others share one, and one tunnel is loaded at a time. A program in Python carries the packets, and shares the cores:
where there is no limit to the rate, it is the limit, and the row without a tunnel shows where.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fairlead.cli.bench import peers
from fairlead.cli.bench.peers import Ground, Side
from fairlead.cli.bench.rows import ROWS, Found, rotated
from fairlead.cli.bench.tunnel import STOCK, Bench
from fairlead.cli.netns.network import Host, Network, Settings
from fairlead.cli.stage.machine import free_ports, free_views
from fairlead.cli.stage.processes import Processes
from fairlead.cli.stage.town import Town

WEATHERS: dict[str, Settings] = {
    "70 ms": {"delay_ms": 35.0}, "70 ms, 1 % loss": {"delay_ms": 35.0, "loss": 0.01},
    "70 ms, 10 Mbit/s": {"delay_ms": 35.0, "loss": 0.0, "rate_mbit": 10.0}}
"""Each way; what one does not name is as the one before left it."""
WARM_S = 3.0
EVERY_MS = 20.0
"""Between two pings beside a bulk stream."""


@dataclass(slots=True)
class Links:
    """The hosts, and a bench on them."""

    folder: Path
    seconds: float
    say: Callable[[str], None]
    processes: Processes = field(init=False)
    towns: list[Town] = field(default_factory=list)
    bench: Bench = field(init=False)
    stock: Ground = field(init=False)
    """The other pair of hosts."""

    def __post_init__(self) -> None:
        self.processes = Processes(self.folder)
        self.bench = Bench(self._ground("hosts"), self.seconds, self.say, min(WARM_S, 3 * self.seconds))
        self.stock = self._ground("stock-hosts")

    def start(self, only: Collection[str] = ROWS) -> None:
        """Make the hosts, and start everything in the first weather. Raises Failed, OperatorError FL-NAMESPACES."""
        first = next(iter(WEATHERS.values()))
        for town, ground in zip(self.towns, (self.bench.ground, self.stock), strict=True):
            town.network.open()
            town.network.links["se-1", "ctl-1"].set(**first)
            ground.open()
        own, other = self.towns
        self.bench.begin(only, {
            "raw": peers.raw, "ssh-default": peers.ssh_default, "ssh-best": peers.ssh_gcm,
            "fairlead-stock": lambda _: peers.fairlead_in(self.stock, "fairlead-stock", other, STOCK),
            "fairlead": partial(peers.fairlead_in, name="fairlead", town=own, environment={})})

    def measure(self, rounds: int) -> dict[str, Found]:
        """What was found in each weather. Raises Failed."""
        found = {}
        for weather, settings in WEATHERS.items():
            for town in self.towns:
                town.network.links["se-1", "ctl-1"].set(**settings)
            self.bench.samples = {name: {} for name in self.bench.peers}
            for number in range(rounds):
                self.say(f"{weather}: round {number + 1} of {rounds}")
                for name in rotated(list(self.bench.peers), number):
                    self.bench.one(name)
                    self.bench.drained(name)
                for name in rotated(list(self.bench.peers), number):
                    self.bench.beside(name, EVERY_MS)
                    self.bench.drained(name)
            found[weather] = self.bench.found(rounds=rounds)
        return found

    def close(self) -> None:
        """End everything that was started, and take the hosts away."""
        self.bench.close()
        for town in self.towns:
            town.close()

    def _ground(self, name: str) -> Ground:
        folder = self.folder / name
        folder.mkdir()
        ports, views = free_ports(), free_views()
        network = Network(folder / "namespaces", "se-1", "ctl-1")
        self.towns.append(Town(folder, self.processes, network=network, free=ports, views=views))
        return Ground(folder, self.processes, ports, views, _side(network.hosts["se-1"]),
                      _side(network.hosts["ctl-1"]))


def as_json(found: dict[str, Found], **settings: Any) -> dict[str, Any]:
    """One object, with one for each link."""
    return settings | {"links": [{"link": weather} | one.as_json() for weather, one in found.items()]}


def _side(host: Host) -> Side:
    return Side(host.address, host.within, host.inside)
