"""Hosts of our own, each a network namespace, joined in pairs by links with weather.

    with Network(folder, "ctl-1", "ctl-2", "se-1") as net:
        net.links["ctl-1", "ctl-2"].set(delay_ms=20, loss=0.01)    # both ways
        net.ways["ctl-1", "se-1"].cut()                            # the one way only
        with net.hosts["se-1"].inside():
            engine.start()

A host has one address (and may move to another), and reaches those to whom it is joined. Nothing leaves the hosts, and
they vanish at the end; whoever started a process in one of them stops it before. Where this is used, `enter` comes
first, unless root makes the hosts in the machine's own namespaces and takes them away again.
"""

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict, Unpack

from fairlead.cli.netns import namespace
from fairlead.cli.netns.link import Counters

SUBNET = "10.78.0"


class Settings(TypedDict, total=False):
    """What can be set of ``link.Weather``, where each is explained."""

    delay_ms: float
    jitter_ms: float
    loss: float
    rate_mbit: float
    queue_ms: float
    cut: bool


@dataclass(frozen=True, slots=True)
class Host:
    """One network namespace."""

    namespace: Path
    address: str

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """This thread is there: sockets that it makes belong there for good, processes that it starts too."""
        return namespace.inside(self.namespace)

    @property
    def within(self) -> tuple[str, ...]:
        """Before a command, it runs the command there, whoever starts it."""
        return namespace.within(self.namespace)


@dataclass(frozen=True, slots=True)
class Way:
    """From one host to another. One thread at a time sets or asks the ways of a link."""

    process: "subprocess.Popen[str]"
    number: int

    def set(self, **settings: Unpack[Settings]) -> Counters:
        """Change these from now on, and leave the others as they are. Raises OperatorError: the link has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"way": self.number, "set": settings}) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise namespace.refusal(f"the program of a link has ended ({self.process.wait(5)})",
                                    "see what it said, and begin again")
        return Counters(**json.loads(answer))

    def now(self) -> Counters:
        """What has come by so far. Raises OperatorError: the link has ended."""
        return self.set()

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self.set(cut=True)

    def heal(self) -> None:
        """The end of a cut; the other settings are as they were."""
        self.set(cut=False)


@dataclass(frozen=True, slots=True)
class Link:
    """Both ways between two hosts."""

    ways: tuple[Way, Way]

    def set(self, **settings: Unpack[Settings]) -> None:
        """Change these for both ways, and leave the others as they are."""
        for way in self.ways:
            way.set(**settings)

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self.set(cut=True)

    def heal(self) -> None:
        """The end of a cut; the other settings are as they were."""
        self.set(cut=False)


class Network:
    """Hosts by name, and what joins them: a link is found from either side, a way from the host where it begins.

    Made and unmade by `open` and `close`, or by ``with``; what cannot be made raises OperatorError FL-NAMESPACES.
    """

    def __init__(self, folder: Path, *names: str, joined: Iterable[tuple[str, str]] | None = None,
                 seed: int = 1) -> None:
        """*folder* will hold the names of the namespaces; each is *joined* to each unless pairs are given."""
        self.folder = folder
        self.hosts = {name: Host(folder / name, f"{SUBNET}.{n}") for n, name in enumerate(names, 1)}
        self.links: dict[tuple[str, str], Link] = {}
        self.ways: dict[tuple[str, str], Way] = {}
        self._pairs = list(itertools.combinations(names, 2) if joined is None else joined)
        self._devices = {pair: f"link{number}" for number, pair in enumerate(self._pairs)}
        self._seed = seed
        self._after = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Make all of it, or nothing. Raises OperatorError FL-NAMESPACES."""
        with contextlib.ExitStack() as after:
            self.folder.mkdir(mode=0o700)
            after.callback(self.folder.rmdir)
            for host in self.hosts.values():
                after.callback(namespace.unmake, host.namespace)
                namespace.make(host.namespace)
                namespace.ip(host.namespace, "link set lo up", f"address add {host.address}/32 dev lo")
            for number, (one, other) in enumerate(self._pairs):
                process = after.enter_context(self._running(f"{self._seed} {number}", one, other))
                self.ways[one, other], self.ways[other, one] = ways = Way(process, 0), Way(process, 1)
                self.links[one, other] = self.links[other, one] = Link(ways)
            for one, other in self._pairs:
                self.ways[one, other].now()  # once it answers, its devices are there
                self._route(one, other)
                self._route(other, one)
            self._after = after.pop_all()

    def close(self) -> None:
        """Take it away, if it is there."""
        self._after.close()

    def cut(self, name: str) -> None:
        """Nothing reaches this host or comes from it, and nobody is told."""
        for link in self._links_of(name):
            link.cut()

    def heal(self, name: str) -> None:
        """The end of a cut."""
        for link in self._links_of(name):
            link.heal()

    def reach_only(self, name: str, other: str) -> None:
        """From *name*, of the hosts only *other* is reached; it is told so at once of the others."""
        for peer in self._reached(name):
            way = f"dev {self._device(name, peer)} src {self.hosts[name].address}"
            address = f"{self.hosts[peer].address}/32"
            route = f"{address} {way}" if peer == other else f"blackhole {address}"
            namespace.ip(self.hosts[name].namespace, f"route replace {route}")

    def settle(self, name: str, address: str) -> None:
        """The host has this *address* too, and speaks from it to all that it reaches from now on."""
        here = self.hosts[name]
        namespace.ip(here.namespace, f"address add {address}/32 dev lo")
        self.hosts[name] = Host(here.namespace, address)
        for peer in self._reached(name):
            device, there = self._device(name, peer), self.hosts[peer]
            namespace.ip(there.namespace, f"route add {address}/32 dev {device} src {there.address}")
            namespace.ip(here.namespace, f"route replace {there.address}/32 dev {device} src {address}")

    def desert(self, name: str, address: str) -> None:
        """The host has this *address* no longer, and nobody is told."""
        namespace.ip(self.hosts[name].namespace, f"address del {address}/32 dev lo")
        for peer in self._reached(name):
            namespace.ip(self.hosts[peer].namespace, f"route del {address}/32 dev {self._device(name, peer)}")

    def _reached(self, name: str) -> list[str]:
        return [peer for one, peer in self.ways if one == name]

    def _links_of(self, name: str) -> list[Link]:
        return [link for (one, _), link in self.links.items() if one == name]

    def _device(self, one: str, other: str) -> str:
        return self._devices.get((one, other)) or self._devices[other, one]

    @contextlib.contextmanager
    def _running(self, seed: str, one: str, other: str) -> "Iterator[subprocess.Popen[str]]":
        """The program of a link; a session of its own, so that a terminal's Ctrl-C does not end it first."""
        ends = [end for name in (one, other) for end in (str(self.hosts[name].namespace), self._device(one, other))]
        with subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "fairlead.cli.netns.link", seed, *ends],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder,
                start_new_session=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def _route(self, name: str, peer: str) -> None:
        """Without addresses that the kernel makes up itself: it would talk about them, and be counted."""
        device, host = self._device(name, peer), self.hosts[name]
        namespace.ip(host.namespace, f"link set {device} addrgenmode none",
                     f"link set {device} mtu 1500 txqueuelen 1000 up",
                     f"route add {self.hosts[peer].address}/32 dev {device} src {host.address}")
