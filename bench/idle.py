"""What an idle Controller and each idle engine cost in memory at the Controller.

A real Controller runs as a process of its own; the engines are real joins and real links, simulated in this process
(their own memory is not what is asked). Private memory of the Controller is read when it is alone, with half of the
engines, and with all: the slope between the last two is the cost of one.

    python bench/idle.py [--engines 800] [--json]
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairlead.base import logs
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient
from fairlead.engine.link import Link
from fairlead.enrol import bundle as bundles
from fairlead.enrol.join import Joiner
from fairlead.enrol.trust import USER_KEY, Trust, load_key
from fairlead.keys.ssh import PublicKey
from fairlead.link.messages import Plan, PlanController
from fairlead.mesh.supervisor import Supervisor
from fairlead.transport.dialler import dial
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Way, choose

TOGETHER = 8


class Idle:
    """An engine that follows its plan by doing nothing."""

    def __init__(self, trust: Trust, state: Path, clock: SystemClock, way: Way) -> None:
        self.plan: Plan | None = None
        self.problems: list[str] = []
        self.welcome = asyncio.Event()
        key = load_key(state, USER_KEY)
        controller = trust.controllers[0]
        pinned = PublicKey.from_line(controller.host_key)

        async def reach(_: PlanController, address: str) -> Tunnel:
            peer = Peer(controller.node_id, controller.name, "controller", trust.user, "active", pinned.fingerprint)
            return await dial(address, controller.ssh_port, peer=peer, key=key, host_keys=[pinned],
                              keepalive=Keepalive(), clock=clock, way=way)

        async def nothing(_: PlanController, __: Tunnel | FairleadError) -> None:
            return

        self.supervisor = Supervisor(reach, Link(self, clock, "bench").talk, nothing, nothing)  # type: ignore[arg-type]
        self.supervisor.want([PlanController(
            node_id=controller.node_id, name=controller.name, addresses=[controller.address],
            ssh_port=controller.ssh_port, portal_port=controller.portal_port,
            internal_address=controller.internal_address, host_key=controller.host_key, user_key=controller.user_key)])

    async def follow(self, plan: Plan) -> None:
        self.plan = plan
        self.welcome.set()

    def open_streams(self, controller: PlanController) -> None: ...

    def removed(self) -> None: ...

    def frozen(self) -> None: ...

    def heard(self, server_time: int) -> None: ...


def start(control: Path, log: Path) -> subprocess.Popen[bytes]:
    """Make a Controller in *control* and run it."""
    api, portal, ssh = free_ports(3)
    fairlead = [sys.executable, "-m", "fairlead.cli.main"]
    subprocess.run([*fairlead, "controller", "init", "--state", control, "--name", "ctl-1", "--address",
                    "127.0.0.1", "--listen", "127.0.0.1", "--api-port", str(api), "--portal-port", str(portal),
                    "--ssh-port", str(ssh), "--view", "127.199.0.0/16"], check=True, capture_output=True)
    with log.open("wb") as file:
        return subprocess.Popen([*fairlead, "controller", "run", "--state", control], stderr=file)


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


def private_kib(pid: int) -> int:
    """Private memory of a process in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


async def join(state: Path, control: Path, number: int, clock: SystemClock, way: Way) -> Idle:
    made = await asyncio.to_thread(ControlClient(control).post, "/api/bundle", {"role": "engine"})
    folder = state / f"se-{number}"
    joiner = Joiner(folder, "engine", f"se-{number}", clock)
    engine = Idle(await joiner.join(bundles.decode(json.dumps(made).encode()), lambda: None), folder, clock, way)
    await engine.welcome.wait()
    return engine


async def measure(engines: int) -> dict[str, float]:
    clock, way = SystemClock(), choose(os.environ)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        control = state / "ctl"
        daemon = await asyncio.to_thread(start, control, state / "log")
        try:
            await until_ready(control)
            alone = private_kib(daemon.pid)
            running: list[Idle] = []
            readings = []
            joining_s = 0.0
            for goal in (engines // 2, engines):
                began = time.monotonic()
                while len(running) < goal:
                    numbers = range(len(running), min(goal, len(running) + TOGETHER))
                    running += await asyncio.gather(*(join(state, control, n, clock, way) for n in numbers))
                joining_s += time.monotonic() - began
                await asyncio.sleep(6)  # a heartbeat of everybody
                readings.append(private_kib(daemon.pid))
            for engine in running:
                await engine.supervisor.close()
        finally:
            daemon.terminate()
            daemon.wait(10)
    half, full = readings
    return {"engines": engines, "controller_kib": alone, "half_kib": half, "all_kib": full,
            "per_engine_kib": (full - half) / (engines - engines // 2), "joins_per_s": engines / joining_s}


async def until_ready(control: Path) -> None:
    for _ in range(200):
        try:
            await asyncio.to_thread(ControlClient(control).get, "/api/version")
        except FairleadError:
            await asyncio.sleep(0.1)
        else:
            return
    raise SystemExit("the Controller did not start")


def main() -> None:
    logs.start("bench", "warning")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=800)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measure(options.engines))
    if options.json:
        print(json.dumps(found))
        return
    print(f"idle Controller           {found['controller_kib'] / 1024:8.1f} MiB private")
    print(f"with {options.engines // 2:5} idle engines   {found['half_kib'] / 1024:8.1f} MiB")
    print(f"with {options.engines:5} idle engines   {found['all_kib'] / 1024:8.1f} MiB")
    print(f"each                      {found['per_engine_kib']:8.1f} KiB (slope between half and all)")
    print(f"whole joins, {TOGETHER} at a time, both ends on this machine: {found['joins_per_s']:.1f} per second")


if __name__ == "__main__":
    main()
