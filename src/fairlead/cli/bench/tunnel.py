"""Tunnels side by side on this machine: interleaved rounds, and the order changes with each round.

All tunnels run all the time; one at a time is loaded. A round measures each row once, and what is measured again and
again in other rounds shows what the machine's mood does. Loads and services are processes of their own (`load`), and
they share the cores with the tunnels: a figure counts beside the others, not by itself. Nothing of this may change, or
later figures do not compare with earlier ones.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fairlead.cli.bench import peers
from fairlead.cli.bench.load import Counter
from fairlead.cli.bench.peers import LOAD, Absent, Ground, Peer
from fairlead.cli.bench.rows import CPU, MAIN, ROWS, Found, rotated
from fairlead.cli.stage.processes import Failed

WARM_S = 0.3
EVERY_MS = 1.0
"""Between two pings beside a bulk stream."""
SLOW = 3
"""The memory of a tunnel with a slow reader is watched so many times as long as anything else."""
STILL_S, DRAIN_S = 0.5, 60.0
"""A tunnel through which nothing has come for so long has no more to give; nobody waits for it longer."""
STOCK = {"FAIRLEAD_TRANSPORT": "stock"}
"""For daemons that are to take the SSH library's own data path."""


@dataclass(slots=True)
class Bench:
    """The tunnels that are there, and what was measured of them."""

    ground: Ground
    seconds: float
    say: Callable[[str], None]
    warm_s: float = WARM_S
    """Nothing is measured for so long after a load has started."""
    peers: dict[str, Peer] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    _beside: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))

    def start(self, only: Collection[str] = ROWS) -> None:
        """Start all tunnels, or those named. Raises Failed when ours does not start; of the others it is said."""
        self.ground.open()
        self.begin(only, {
            "raw": peers.raw, "relay": peers.relay, "ssh-default": peers.ssh_default,
            "ssh-best": partial(peers.ssh_best, rate=lambda peer: self.load("send", peer)["count"]),
            "stunnel": peers.stunnel, "nginx": peers.nginx,
            "fairlead-stock": partial(peers.fairlead, name="fairlead-stock", environment=STOCK),
            "fairlead": partial(peers.fairlead, name="fairlead", environment={})})

    def begin(self, only: Collection[str], ways: Mapping[str, Callable[[Ground], Peer]]) -> None:
        """Start these of them, each in its way. Raises Failed."""
        for name, way in ways.items():
            if name not in only:
                continue
            self.say(f"{name} is started")
            try:
                self.peers[name] = way(self.ground)
            except Absent as reason:
                self.missing[name] = str(reason)
            except Failed as reason:
                if name.startswith("fairlead") or name == "raw":
                    raise
                self.missing[name] = f"it did not start: {reason}"
        self.samples.update({name: {} for name in self.peers})

    def round(self, number: int, *, more: bool) -> None:
        """Measure each row once; *more* than the one stream. Raises Failed."""
        if more and number == 0:
            for name in self.peers:
                self.memory(name)  # first: what a process once had it keeps, and would grow into unseen
        for name in rotated(list(self.peers), number):
            self.one(name)
        for measured in (self.streams, self.back, self.pings, self.beside, self.connects) if more else ():
            for name in rotated(list(self.peers), number):
                measured(name)

    # -- what is measured of a row ------------------------------------------------------------------------------------

    def one(self, name: str) -> None:
        """One stream from the client to the server, and what it costs."""
        found = self.load("send", self.peers[name])
        self.add(name, MAIN, _mb_per_s(found))
        if self.peers[name].ends:
            self.add(name, CPU, found["cpu_s"] / (found["count"] / 1e9) if found["count"] else 0.0)

    def streams(self, name: str) -> None:
        """Four and sixteen streams."""
        for number in (4, 16):
            found = self.load("send", self.peers[name], streams=number)
            self.add(name, f"mb_per_s_{number}", _mb_per_s(found))

    def back(self, name: str) -> None:
        """One stream from the server to the client."""
        self.add(name, "mb_per_s_back", _mb_per_s(self.load("receive", self.peers[name])))

    def pings(self, name: str) -> None:
        """Round trips of 64 bytes, alone."""
        found = self.load("ping", self.peers[name])
        for key in ("p50_us", "p99_us"):
            self.add(name, f"ping_{key}", found[key])

    def beside(self, name: str, every_ms: float = EVERY_MS) -> None:
        """The same beside a bulk stream."""
        peer = self.peers[name]
        bulk = self.start_load("send", peer)
        found = self.load("ping", peer, every=every_ms)
        for key in ("p50_us", "p99_us"):
            self.add(name, f"beside_{key}", found[key])
        self.add(name, "beside_mb_per_s", _mb_per_s(bulk()))

    def connects(self, name: str) -> None:
        """New connections, one and sixteen at a time."""
        failed = 0.0
        for number in (1, 16):
            found = self.load("connect", self.peers[name], streams=number)
            self.add(name, f"connects_per_s_{number}", found["count"] / found["seconds"])
            failed += found["failed"]
        self.add(name, "connects_failed", failed)

    def memory(self, name: str) -> None:
        """How far the tunnel's processes grow while a program reads 1 MB/s of what a fast one sends. Once in a run."""
        if self.peers[name].ends:
            found = self.load("slow", self.peers[name], seconds=self.seconds * SLOW)
            self.add(name, "grown_mib", found["grown_mib"])

    # -- by which -----------------------------------------------------------------------------------------------------

    def add(self, name: str, figure: str, value: float) -> None:
        """One more value of a row."""
        self.samples[name].setdefault(figure, []).append(value)

    def drained(self, name: str) -> None:
        """Wait until what an ended load left in buffers has arrived: it is not to be in the way of the next."""
        counter = Counter(self.peers[name].ground.counter)
        deadline, seen = time.monotonic() + DRAIN_S, -1
        while seen != counter.value and time.monotonic() < deadline:
            seen = counter.value
            time.sleep(STILL_S)

    def load(self, kind: str, peer: Peer, **settings: float) -> dict[str, float]:
        """What a load of this kind found. Raises Failed."""
        return _read(self.ground.processes.run(self._command(kind, peer, settings), within=peer.ground.near.within
                                               ).done().out)

    def start_load(self, kind: str, peer: Peer, **settings: float) -> Callable[[], dict[str, float]]:
        """The same beside another; what is returned waits for it."""
        return self._beside.submit(self.load, kind, peer, **settings).result

    def _command(self, kind: str, peer: Peer, settings: dict[str, float]) -> list[str]:
        host, port = peer.echo if kind in ("ping", "connect") else peer.bulk
        options = {"seconds": self.seconds, "warm": self.warm_s} | settings
        return [*LOAD, kind, host, str(port), "--counter", str(peer.ground.counter),
                *(part for key, value in options.items() for part in (f"--{key}", str(value))),
                *(["--pids", *map(str, peer.pids)] if peer.pids else [])]

    def close(self) -> None:
        """End everything that was started."""
        self.ground.processes.close()
        self._beside.shutdown(cancel_futures=True)
        self.ground.close()

    def found(self, **settings: Any) -> Found:
        """All of it."""
        notes = {name: peer.note for name, peer in self.peers.items() if peer.note}
        load = os.getloadavg()[0]
        return Found(self.samples, self.missing, notes, settings | {
            "seconds": self.seconds, "cores": os.cpu_count(), "load_average_after": round(load, 1)})


def _mb_per_s(found: dict[str, float]) -> float:
    return found["count"] / found["seconds"] / 1e6


def _read(out: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(out)
    return found
