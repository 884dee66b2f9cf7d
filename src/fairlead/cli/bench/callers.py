"""Many clients of an SSH port, a process for some of them: ``python -m fairlead.cli.bench.callers FILE``.

They dial as every node does, by the product's own dialler, whoever serves: so only the server differs. Each call comes
from a loopback address of its own, as in a fleet; the Controller counts strangers by their address. The file says what
to do; one JSON object is printed at the end of it, or, by who holds connections, when all are there.
"""

import asyncio
import itertools
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import uvloop

from fairlead.base import descriptors, logs
from fairlead.base.backoff import FullJitter
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.mesh.supervisor import FIRST_DELAY_S, MOST_DELAY_S
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import choose

STORM_S = 1.0
"""A storm's clients come within so long, evenly."""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a process of callers does."""

    kind: Literal["rate", "storm", "hold"]
    """Call and close again and again; call until each came in once, within a second; call and stay."""
    host: str
    port: int
    user: str
    host_key: str
    keys: list[str]
    """Files. Client number n has key n, and begins with the first again where there are fewer."""
    sources: str
    """The first two bytes of the addresses that they come from."""
    clients: int
    """In all, or at a time (rate)."""
    seconds: float = 0.0

    def save(self, path: Path) -> Path:
        """The file."""
        path.write_text(json.dumps(asdict(self)))
        return path


class Sourced(uvloop.Loop):
    """The loop that daemons have; connections come from an address of their own each."""

    sources: Iterator[str]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """As always, but for where it comes from."""
        sock.bind((next(self.sources), 0))
        await super().sock_connect(sock, address)

    async def create_connection(self, factory: Any, *where: Any, **more: Any) -> Any:  # type: ignore[override]
        """The same; a socket that is given is connected already."""
        if more.get("sock") is None:
            more["local_addr"] = next(self.sources), 0
        return await super().create_connection(factory, *where, **more)


class Callers:
    """They, and what they met with."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.way = choose(os.environ)
        self.keys = [PrivateKey.from_openssh(Path(path).read_bytes()) for path in task.keys]
        self.pinned = PublicKey.from_line(task.host_key)
        self.clock = SystemClock()
        self.took: list[float] = []
        self.waited: list[float] = []
        """By clients of a storm, with their tries that failed."""
        self.failed: Counter[str] = Counter()
        """Tries, by what was said."""
        self.never = 0
        self.last = 0.0

    async def call(self, number: int) -> Tunnel | None:
        """One handshake: TCP, key exchange, proof of the key."""
        peer = Peer("", "", "controller", self.task.user, "active", self.pinned.fingerprint)
        began = time.monotonic()
        try:
            tunnel = await dial(self.task.host, self.task.port, peer=peer, key=self.keys[number % len(self.keys)],
                                host_keys=[self.pinned], keepalive=Keepalive(300.0), clock=self.clock,
                                way=self.way, timeout=PATIENCE_S)
        except FairleadError as error:
            self.failed[error.message.rpartition(": ")[2] or error.code] += 1
            return None
        self.last = time.monotonic()
        self.took.append(self.last - began)
        return tunnel

    async def once(self, number: int) -> bool:
        """Call, and hang up; whether it came in."""
        tunnel = await self.call(number)
        if tunnel is None:
            return False
        tunnel.close("")
        await tunnel.wait_closed()
        return True

    async def insist(self, number: int, delay_s: float) -> None:
        """Call after a while, and again as an engine does, until it came in or a minute has passed."""
        await asyncio.sleep(delay_s)
        began, again = time.monotonic(), FullJitter(FIRST_DELAY_S, MOST_DELAY_S)
        while not await self.once(number):
            if time.monotonic() > began + PATIENCE_S:
                self.never += 1
                return
            await asyncio.sleep(again.next())
        self.waited.append(time.monotonic() - began)

    async def rate(self) -> None:
        """So many at a time, each again and again."""
        end = time.monotonic() + self.task.seconds

        async def again(number: int) -> None:
            while time.monotonic() < end:
                await self.once(number)

        await asyncio.gather(*(again(number) for number in range(self.task.clients)))

    async def storm(self) -> None:
        """All within a second."""
        clients = self.task.clients
        await asyncio.gather(*(self.insist(number, STORM_S * number / clients) for number in range(clients)))

    async def hold(self) -> None:
        """All, sixteen at a time; they stay until this process is ended."""
        held = []
        for number in range(0, self.task.clients, 16):
            held += await asyncio.gather(*(self.call(n) for n in range(number, min(number + 16, self.task.clients))))
        self.report(0.0)
        await asyncio.Event().wait()

    def report(self, began: float) -> None:
        """Print what was found."""
        took = sorted(self.waited or self.took)
        sys.stdout.write(json.dumps({
            "done": len(self.took), "failed": dict(self.failed), "never": self.never, "began": began, "last": self.last,
            "p50_s": took[len(took) // 2] if took else 0.0, "max_s": took[-1] if took else 0.0}) + "\n")
        sys.stdout.flush()


async def _main(task: Task) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Sourced)
    loop.sources = (f"{task.sources}.{n >> 8 & 255}.{n & 255}" for n in itertools.cycle(range(1, 65_000)))
    callers = Callers(task)
    began = time.monotonic()
    await {"rate": callers.rate, "storm": callers.storm, "hold": callers.hold}[task.kind]()
    callers.report(began)


if __name__ == "__main__":
    logs.start("callers", "error")
    descriptors.take_all()
    with asyncio.Runner(loop_factory=Sourced) as runner:
        runner.run(_main(Task(**json.loads(Path(sys.argv[1]).read_text()))))
