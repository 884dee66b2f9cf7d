"""etcd as tests run it: members on loopback, each with a folder and ports of its own, that end with the test process.

Nothing is forced to the disk: what is tried here are processes that die, not machines.
"""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairlead.store.gateway import Gateway, GatewayUnavailable
from tests.processes import free_port

DEADLINE_S = 30.0


@dataclass(slots=True)
class Member:
    """One member of a cluster; its process, when it runs. *cluster*: the peers' addresses by name, its own too."""

    name: str
    folder: Path
    endpoint: str
    cluster: dict[str, str]
    heartbeat_ms: int
    process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def alone(cls, folder: Path) -> "Member":
        """A cluster of one."""
        return cls("one", folder, _url(), {"one": _url()}, 5)

    @classmethod
    def three(cls, folder: Path) -> Sequence["Member"]:
        """A cluster of three, none of them running."""
        cluster = {name: _url() for name in ("a", "b", "c")}
        return [cls(name, folder / name, _url(), cluster, 50) for name in cluster]

    def start(self) -> None:
        """Run it. It answers a moment later."""
        here = self.cluster[self.name]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "etcd", "--name", self.name, "--data-dir", self.folder,
                 "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
                 "--listen-peer-urls", here, "--initial-advertise-peer-urls", here,
                 "--initial-cluster", ",".join(f"{name}={url}" for name, url in self.cluster.items()),
                 "--heartbeat-interval", str(self.heartbeat_ms), "--election-timeout", str(10 * self.heartbeat_ms),
                 "--max-txn-ops", "512", "--experimental-watch-progress-notify-interval", "500ms",
                 "--unsafe-no-fsync", "--logger", "zap"],
                env={"PATH": "/usr/local/bin:/usr/bin:/bin"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End its process, whatever its state."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
            self.process.wait()
            self.process = None


def _url() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def answers(gateway: Gateway) -> None:
    """Return when there is a leader. Fails at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(GatewayUnavailable):
                await gateway.call("kv/range", {"key": "YQ=="})
                return
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def running(members: Sequence[Member]) -> Iterator[None]:
    """These members run while the block does."""
    try:
        for member in members:
            member.start()
        yield
    finally:
        for member in members:
            member.stop()
