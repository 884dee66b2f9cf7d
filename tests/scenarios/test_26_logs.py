"""Logs of an engine come up through kills of both ends: each line once, in order, by numbering and counting."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.engine.spool import FOLDER, Spool
from tests.processes import Daemon, Site, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]
LINES = 120_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def arrived(controller: Daemon) -> int:
    return sum(path.stat().st_size for path in (controller.state / "logs").rglob("*.log"))


def numbers(controller: Daemon, *options: str) -> list[int]:
    out = controller.cli("logs", "pull", "se-1", *options).done().out
    return [found["number"] for line in out.splitlines() if "number" in (found := json.loads(line))]


def test_every_line_comes_once_whoever_is_killed_meanwhile(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    engine.stop()
    spool = Spool(engine.state / FOLDER)  # what an outage leaves
    for number in range(LINES):
        spool.append(json.dumps({"event": "work", "number": number, "text": "x" * 150}))
    spool.close()

    engine.start()
    until(lambda: arrived(controller) > 2_000_000, "1. it begins by itself when there is much")
    engine.signal(signal.SIGKILL)
    engine.ended()
    engine.start()
    before = arrived(controller)
    until(lambda: arrived(controller) > before + 2_000_000, "2. the engine was killed, and goes on")
    controller.signal(signal.SIGKILL)
    controller.ended()
    controller.start()
    until(lambda: controller.node("se-1")["state"] == "up", "3. the Controller was killed, and the engine is back")
    assert numbers(controller, "--timeout", "60s") == list(range(LINES)), "4. each line is there once, in order"
    assert not list((engine.state / FOLDER).glob("0*.log"))[1:], "5. and the engine keeps none of it"

    other = site.engine(controller, "se-2")
    other.stop()
    controller.cli("logs", "pull", "se-2").refused("FL-COMMAND-AWAY")
    assert controller.cli("logs", "pull", "se-2", "--stored").done().out == "", "6. nobody's logs are another's"
    assert controller.cli("logs", "pull", "../se-1").refused("FL-NAME")
    assert numbers(controller, "--stored")[-1] == LINES - 1


def test_a_full_spool_costs_the_oldest_lines_and_says_how_many_bytes(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    engine.stop()
    engine.configure(spool_mib=8)
    sizes = []
    spool = Spool(engine.state / FOLDER)  # an outage that left more than there may be
    settled = spool.settled
    for number in range(LINES):
        line = json.dumps({"event": "work", "number": number, "text": "x" * 150})
        spool.append(line)
        sizes.append(len(line) + 1)
    before = spool.end - sum(sizes) - settled
    """Bytes of the engine's own lines, which nobody has yet."""
    spool.close()

    engine.start()
    out = controller.cli("logs", "pull", "se-1", "--timeout", "60s").done().out
    found = [json.loads(line) for line in out.splitlines()]
    came = [one["number"] for one in found if "number" in one]
    assert came == list(range(came[0], LINES)), "what is left is whole, in order, and ends where it was written last"
    dropped = sum(one["bytes"] for one in found if one["event"] == "spool.dropped")
    assert dropped == before + sum(sizes[:came[0]]), "and it is said how much is missing, to the byte"
    assert sum(sizes[came[0]:]) <= 8 * 1024 * 1024
