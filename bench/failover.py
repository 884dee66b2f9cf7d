"""How long the loss of a leader, and the coming of a follower, take: 20 ms between Controllers, 70 ms to the engine.

    .venv/bin/python bench/failover.py [ROUNDS]

Each round: a Controller that leads is SIGKILLed, daemon and store. Then how long it takes until the others see another
leader, until a change of the store is accepted at another Controller (asked again at once when it is refused), and
until a bundle (leader-only work) is exported there. The dead one is started again, and has come back when all see it
up. Asked are the control sockets, without the start of a command.
"""

import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.netns.controllers import Town, cluster
from tests.processes import Daemon

from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient

ALL = ("ctl-1", "ctl-2", "ctl-3")


def accepted(at: Daemon, path: str, body: dict[str, object]) -> float:
    """When *at* has first accepted it, monotonic seconds; it is asked again until then."""
    while True:
        try:
            ControlClient(at.state, 30.0).post(path, body)
        except FairleadError:
            time.sleep(0.01)
        else:
            return time.monotonic()


def together(*work: Callable[[], float]) -> list[float]:
    """What each gives, all running at once."""
    found = [0.0] * len(work)

    def do(number: int) -> None:
        found[number] = work[number]()

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def kill(town: Town, number: int) -> dict[str, float]:
    """One round."""
    leader = town.until_led("ctl-1")
    one, two = (town[name] for name in ALL if name != leader)
    town[leader].signal(signal.SIGKILL)
    began = time.monotonic()

    def led() -> float:
        town.until_led(one.name, but=leader)
        return time.monotonic()

    service = {"name": f"s-{number}", "role": "controller", "port": 21_000 + number, "allow": ["engines"]}
    bundle = {"role": "engine"}
    seen = together(led, lambda: accepted(one, "/api/service", service), lambda: accepted(two, "/api/bundle", bundle))
    town[leader].ended()
    again = time.monotonic()
    town[leader].start()
    town.until_well(*ALL, at=one.name)
    return dict(zip(("another leads", "a change is accepted", "a bundle is exported"),
                    (one_of - began for one_of in seen), strict=True)) | {
                        "the dead one votes again": time.monotonic() - again}


def memory(pid: int) -> float:
    """Private memory, MiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024


def cpu(pid: int) -> float:
    """Seconds used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def etcd_of(node: Daemon) -> int:
    return int(node.events("etcd.started")[-1]["pid"])


def idle(town: Town, seconds: float = 20.0) -> list[str]:
    """CPU and memory of each Controller and its store, when nothing happens."""
    before = {name: (cpu(town[name].pid), cpu(etcd_of(town[name]))) for name in ALL}
    time.sleep(seconds)
    lines = []
    for name in ALL:
        daemon, store = town[name].pid, etcd_of(town[name])
        used = [(now - then) / seconds * 100 for now, then in zip((cpu(daemon), cpu(store)), before[name], strict=True)]
        lines.append(f"{name:<8} {used[0]:8.1f} %  {memory(daemon):8.1f} MiB     "
                     f"{used[1]:8.1f} %  {memory(store):8.1f} MiB")
    return lines


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with cluster(Path(folder), controllers=3, engines=1, spare=("ctl-4",)) as town:
            print(f"three Controllers and an engine after {time.monotonic() - began:.1f} s")
            print(f"\n{'idle':<8} {'Controller':>25}     {'its etcd':>23}")
            print("\n".join(idle(town)))
            found = [kill(town, number) for number in range(rounds)]
            print(f"\n{'SIGKILL of the leader, until':<32} {'median':>8} {'min':>8} {'max':>8}   of {rounds}")
            for what in found[0]:
                times = [one[what] for one in found]
                print(f"{what:<32} {statistics.median(times):8.2f} {min(times):8.2f} {max(times):8.2f}   s")
            began = time.monotonic()
            town.join("controller", "ctl-4", at=town.until_led("ctl-1")).done()
            committed = time.monotonic()
            town["ctl-4"].start()
            town.until_well(*ALL, "ctl-4", at="ctl-1")
            print(f"\na follower votes {time.monotonic() - began:.2f} s after the command began, "
                  f"{time.monotonic() - committed:.2f} s after it ended")


if __name__ == "__main__":
    main()
