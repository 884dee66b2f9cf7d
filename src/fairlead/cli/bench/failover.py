"""How long the loss of a leader, and the coming of a follower, take: 20 ms between Controllers, 70 ms to the engine.

Each round: a Controller that leads is SIGKILLed, daemon and store. Then how long it takes until the others see another
leader, until a change of the store is accepted at another Controller (asked again at once when it is refused), and
until a bundle (leader-only work) is exported at the third. The dead one is started again, and has come back when all
are voters and up; a round begins when the engine has its three links. Asked are the control sockets, without the start
of a command. Nothing of this may change, or later figures do not compare with earlier ones.
"""

import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fairlead.base.errors import FairleadError
from fairlead.cli.bench.figures import Failover, Idle, Round
from fairlead.cli.bench.usage import cpu_s, memory_mib
from fairlead.cli.netns.network import Network
from fairlead.cli.stage.processes import Failed, Processes, Started
from fairlead.cli.stage.town import CONTROLLERS, ENGINES, WELL_S, Town, pairs

ENGINE, LATER = ENGINES[0], "ctl-4"
NEAR_MS, FAR_MS = 10.0, 35.0
"""One way."""
IDLE_S = 20.0
AGAIN_S = 0.01
SERVICE_PORTS = 21_000


def town_on(folder: Path) -> Town:
    """Where it takes place; nothing of it is there yet."""
    hosts = (*CONTROLLERS, LATER, ENGINE)
    return Town(folder, Processes(folder), network=Network(folder / "namespaces", *hosts, joined=pairs(*hosts)))


def measure(town: Town, rounds: int, say: Callable[[str], None]) -> Failover:
    """All figures; *say* hears how far it is. Raises Failed, OperatorError FL-NAMESPACES."""
    began = time.monotonic()
    _settle(town)
    say(f"three Controllers and an engine run after {time.monotonic() - began:.1f} s; now {IDLE_S:g} s without work")
    idle = _idle(town)
    found = []
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}: the leader is killed")
        found.append(_kill(town, number))
    say("a fourth Controller joins")
    return Failover(found, idle, *_join(town))


def _settle(town: Town) -> None:
    """Three Controllers vote, and the engine has a link to each."""
    town.network.open()
    for pair in pairs(*town.network.hosts):
        town.network.links[pair].set(delay_ms=FAR_MS if ENGINE in pair else NEAR_MS)
    first, *others = CONTROLLERS
    town.found(first)
    for number, name in enumerate(others, 2):
        town.enrol("controller", name, first)
        town.run(name, "controller")
        town.voting(*CONTROLLERS[:number], at=first)
    town.enrol("engine", ENGINE, first)
    town.run(ENGINE, "engine")
    town.linked(ENGINE)


def _kill(town: Town, number: int) -> Round:
    leader = town.led("ctl-1", but="")["leader"]
    one, two = (name for name in CONTROLLERS if name != leader)
    since = datetime.now(UTC)
    daemon = _daemon(town, leader)
    daemon.send(signal.SIGKILL)
    began = time.monotonic()

    def led() -> float:
        town.led(one, but=leader)
        return time.monotonic()

    service = {"name": f"s-{number}", "role": "controller", "port": SERVICE_PORTS + number, "allow": ["engines"]}
    other, changed, exported = town.at_once(
        led, partial(_accepted, town, one, "/api/service", service),
        partial(_accepted, town, two, "/api/bundle", {"role": "engine"}))
    daemon.wait(5.0)
    again = time.monotonic()
    town.run(leader, "controller")
    town.voting(*CONTROLLERS, at=one)
    back = time.monotonic() - again
    fewest = town.fewest_links(ENGINE, since)
    town.linked(ENGINE)
    return Round(other - began, changed - began, exported - began, back, fewest)


def _accepted(town: Town, at: str, path: str, body: Mapping[str, object]) -> float:
    """When it was first accepted there, monotonic seconds; it is asked again until then. Raises Failed."""
    deadline = time.monotonic() + WELL_S
    while True:
        try:
            town.control(at).post(path, body)
        except FairleadError as refused:
            if time.monotonic() > deadline:
                raise Failed(f"{at} accepts nothing: {refused.line()}") from None
            time.sleep(AGAIN_S)
        else:
            return time.monotonic()


def _join(town: Town) -> tuple[float, float]:
    """Seconds until a fourth Controller votes: from the command for its bundle, and after it has joined."""
    leader = town.led("ctl-1", but="")["leader"]
    began = time.monotonic()
    town.enrol("controller", LATER, leader)
    joined = time.monotonic()
    town.run(LATER, "controller")
    town.voting(*CONTROLLERS, LATER, at="ctl-1")
    voted = time.monotonic()
    return voted - began, voted - joined


def _idle(town: Town) -> list[Idle]:
    """What each Controller and its store use when nothing happens."""
    pids = {name: (_daemon(town, name).pid, int(town.node(name).events("etcd.started")[-1]["pid"]))
            for name in CONTROLLERS}
    before = {name: [cpu_s(pid) for pid in both] for name, both in pids.items()}
    time.sleep(IDLE_S)
    found = []
    for name, both in pids.items():
        daemon, store = ((cpu_s(pid) - then) / IDLE_S * 100 for pid, then in zip(both, before[name], strict=True))
        found.append(Idle(name, daemon, memory_mib(both[0]), store, memory_mib(both[1])))
    return found


def _daemon(town: Town, name: str) -> Started:
    started = town.node(name).started
    if started is None:
        raise Failed(f"{name} does not run")
    return started
