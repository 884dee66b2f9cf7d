"""Hosts of our own, each a network namespace, joined in pairs by links with weather.

    with network("ctl-1", "ctl-2", "se-1") as net:
        net.links["ctl-1", "ctl-2"].set(delay_ms=20, loss=0.01)    # both ways
        net.ways["ctl-1", "se-1"].cut()                            # the one way only
        with net.hosts["se-1"].inside():
            engine.start()

A host has one address (and may move to another), and reaches those to whom it is joined. Nothing leaves the hosts, and
they vanish at the end; whoever started a process in one of them stops it before.
"""

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

from tests.conftest import lacking, need
from tests.netns.link import Counters
from tests.netns.namespace import inside, ip


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

    namespace: str
    address: str

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """This thread is there: sockets that it makes belong there for good, processes that it starts too."""
        return inside(self.namespace)

    def command(self, *arguments: str) -> list[str]:
        """*arguments* as a command that runs there, whoever starts it."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


@dataclass(frozen=True, slots=True)
class Way:
    """From one host to another."""

    process: "subprocess.Popen[str]"
    number: int

    def set(self, **settings: Unpack[Settings]) -> Counters:
        """Change these from now on, and leave the others as they are."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"way": self.number, "set": settings}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the link has ended"
        return Counters(**json.loads(answer))

    def now(self) -> Counters:
        """What has come by so far."""
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


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts by name, and what joins them: a link is found from either side, a way from the host where it begins."""

    hosts: dict[str, Host]
    links: dict[tuple[str, str], Link]
    ways: dict[tuple[str, str], Way]
    devices: dict[tuple[str, str], str] = field(default_factory=dict)
    """The interface of the first host that leads to the second."""

    def settle(self, name: str, address: str) -> None:
        """The host has this *address* too, and speaks from it to all that it reaches from now on."""
        host = self.hosts[name]
        ip("-n", host.namespace, "address", "add", f"{address}/32", "dev", "lo")
        for peer, device in self._reached(name):
            ip("-n", peer.namespace, "route", "add", f"{address}/32", "dev", device, "src", peer.address)
        self.hosts[name] = Host(host.namespace, address)
        for peer, device in self._reached(name):
            ip("-n", host.namespace, "route", "replace", f"{peer.address}/32", "dev", device, "src", address)

    def desert(self, name: str, address: str) -> None:
        """The host has this *address* no longer, and nobody is told."""
        ip("-n", self.hosts[name].namespace, "address", "del", f"{address}/32", "dev", "lo")
        for peer, device in self._reached(name):
            ip("-n", peer.namespace, "route", "del", f"{address}/32", "dev", device)

    def _reached(self, name: str) -> list[tuple[Host, str]]:
        return [(self.hosts[other], device) for (one, other), device in self.devices.items() if one == name]


@contextlib.contextmanager
def network(*names: str, joined: Iterable[tuple[str, str]] | None = None, seed: int = 1) -> Iterator[Network]:
    """Hosts of these *names*, each *joined* to each unless pairs are given. Skips without root; fails then in CI."""
    need("ip", "setpriv")
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        lacking("links need root and /dev/net/tun")
    mark = f"{random.getrandbits(32):08x}"
    hosts = {name: Host(f"fl-{mark}-{name}", f"10.78.0.{n}") for n, name in enumerate(names, 1)}
    pairs = list(itertools.combinations(names, 2) if joined is None else joined)
    net = Network(hosts, {}, {})
    with contextlib.ExitStack() as after:
        for host in hosts.values():
            ip("netns", "add", host.namespace)
            after.callback(ip, "netns", "del", host.namespace)
            ip("-n", host.namespace, "-batch", "-", given=f"link set lo up\naddress add {host.address}/32 dev lo\n")
        for number, pair in enumerate(pairs):
            one, other = pair
            process = after.enter_context(_running(f"{seed} {number}", f"link{number}", hosts[one], hosts[other]))
            net.ways[one, other], net.ways[other, one] = ways = Way(process, 0), Way(process, 1)
            net.links[one, other] = net.links[other, one] = Link(ways)
            net.devices[one, other] = net.devices[other, one] = f"link{number}"
        for number, (one, other) in enumerate(pairs):
            net.ways[one, other].now()  # once it answers, its devices are there
            _route(hosts[one], hosts[other], f"link{number}")
            _route(hosts[other], hosts[one], f"link{number}")
        yield net


@contextlib.contextmanager
def _running(seed: str, device: str, one: Host, other: Host) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.netns.link", seed, one.namespace, device,
             other.namespace, device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            yield process
        finally:
            process.kill()


def _route(host: Host, peer: Host, device: str) -> None:
    """Without addresses that the kernel makes up itself: it would talk about them, and be counted."""
    ip("-n", host.namespace, "-batch", "-", given=(
        f"link set {device} addrgenmode none\nlink set {device} mtu 1500 txqueuelen 1000 up\n"
        f"route add {peer.address}/32 dev {device} src {host.address}\n"))
