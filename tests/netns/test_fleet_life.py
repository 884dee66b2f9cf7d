"""What engines live through, 70 ms away, where a packet in a hundred is lost: clocks that are years off, a process that
stands still at either end, a Controller that is started again under load, a key in two places.

Nothing is lost and nothing done twice, by numbering and counting: an engine's own record has each revision that it
applied once, in order, and its logs come up with each line once. The stories run in this order, in one town.
"""

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.clock import from_rfc3339
from fairlead.base.errors import FairleadError
from fairlead.engine.spool import FOLDER, Spool
from tests.netns.controllers import VIEW, Town, cluster
from tests.netns.fleet import applied, ask, declare, far, has, put, status
from tests.processes import Daemon, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]
CLOCK = Path(__file__).parent / "clock"
WORKS, ODD, STANDS = "se-1", "se-2", "se-3"
ENGINES = (WORKS, ODD, STANDS)
SPARE = "se-9"
YEARS_S = 5 * 365 * 86_400
LINES = 12_000


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "clock").write_text("0")

    def around(name: str) -> list[str]:
        return ["env", f"PYTHONPATH={CLOCK}", f"WALL_CLOCK={folder / 'clock'}"] if name == ODD else []

    with cluster(folder, controllers=1, engines=len(ENGINES), spare=[SPARE], around=around) as made:
        far(made, [*ENGINES, SPARE])
        for name in ENGINES:
            declare(made[name])
        yield made


def wrong(town: Town, ahead_s: int) -> None:
    """The clock of `ODD` is so far ahead from now on."""
    new = town.site.folder / "clock.new"
    new.write_text(str(ahead_s))
    new.replace(town.site.folder / "clock")


def until_applied(town: Town, revision: int, *engines: str) -> None:
    for name in engines:
        until(lambda of=town[name]: applied(of)[-1:] == [revision], f"{name} has {revision} on record")  # type: ignore[misc]


def lines(town: Town, engine: str) -> list[int]:
    """The numbers of its lines that the Controller has, as they came."""
    out = town["ctl-1"].cli("logs", "pull", engine, "--timeout", "60s").done().out
    return [found["number"] for line in out.splitlines() if "number" in (found := json.loads(line))]


def fill(engine: Daemon, first: int, count: int) -> None:
    """Numbered lines in the spool of an engine that does not run, as an outage leaves them."""
    spool = Spool(engine.state / FOLDER)
    for number in range(first, first + count):
        spool.append(json.dumps({"event": "work", "number": number, "text": "x" * 150}))
    spool.close()


@dataclass
class Load:
    """Documents are put and commands asked all the time; what was said yes to is noted."""

    town: Town
    accepted: list[int] = field(default_factory=list)
    answered: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def put(self) -> None:
        while not self._over.wait(0.02):
            with contextlib.suppress(FairleadError):
                self.accepted.append(put(self.town["ctl-1"], f"load {len(self.accepted)}", at_once=True))

    def ask(self) -> None:
        while not self._over.wait(0.05):
            with contextlib.suppress(FairleadError):
                self.answered += ask(self.town["ctl-1"], STANDS, timeout_s=5)["result"]["node"] == STANDS

    @contextlib.contextmanager
    def on(self) -> Iterator["Load"]:
        works: list[Callable[[], None]] = [self.put, self.ask]
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def until_more(self) -> None:
        before = len(self.accepted), self.answered
        until(lambda: len(self.accepted) > before[0] + 5 and self.answered > before[1], "documents and answers go on")


@pytest.mark.parametrize("ahead_s", [YEARS_S, -YEARS_S], ids=["years-ahead", "years-behind"])
def test_1_a_clock_that_is_years_off_changes_nothing_but_what_it_shows(town: Town, ahead_s: int) -> None:
    controller, odd = town["ctl-1"], town[ODD]
    first = put(controller, "right", at_once=True)
    until_applied(town, first, *ENGINES)
    wrong(town, ahead_s)
    until(lambda: abs(controller.node(ODD)["skew_s"] - ahead_s) < 60, "1. how far it is off is seen")
    second = put(controller, f"off {ahead_s}", at_once=True)
    until_applied(town, second, *ENGINES)
    row: dict[str, Any] = until(lambda: next((row for row in status(controller)["rows"] if row["engine"] == ODD
                              and row["verdict"] == "applied"), {}), "2. it applies, and says so")
    assert abs(from_rfc3339(row["since"]) / 1e6 - time.time()) < 600, "since when, by the cluster's time"
    assert ask(controller, ODD)["result"]["node"] == ODD, "3. it does what it is asked"
    odd.stop()
    fill(odd, 0, 100)
    third = put(controller, f"asleep {ahead_s}", at_once=True)
    odd.start()
    until_applied(town, third, *ENGINES)
    assert lines(town, ODD)[-100:] == list(range(100)), "4. it comes back with that clock, and its logs come up"
    wrong(town, 0)
    until(lambda: abs(controller.node(ODD)["skew_s"]) < 60, "5. it is set right")
    fourth = put(controller, f"right again {ahead_s}", at_once=True)
    until_applied(town, fourth, *ENGINES)
    assert applied(odd) == sorted(set(applied(odd))), "6. nothing was done twice, and nothing is missing"
    assert {first, second, third, fourth} <= set(applied(odd))


def test_2_an_engine_that_stands_still_holds_nobody_up_and_comes_back_to_all_of_it(town: Town) -> None:
    controller, stands = town["ctl-1"], town[STANDS]
    stands.signal(signal.SIGSTOP)
    put(controller, "x" * 200_000, name="large", at_once=True)
    for number in range(20):
        last = put(controller, f"meanwhile {number}", at_once=True)
    until_applied(town, last, WORKS, ODD)
    until(lambda: controller.node(STANDS)["state"] in ("late", "down"), "it is noticed")
    stands.signal(signal.SIGCONT)
    until_applied(town, last, STANDS)
    until(lambda: len(has(stands, "large")) == 200_000, "it has all that it missed")
    assert applied(stands) == sorted(set(applied(stands)))
    until(lambda: status(controller)["applied"] == len(ENGINES), "and the Controller knows it")


def test_3_a_controller_that_stands_still_and_is_started_again_under_load_loses_no_line(town: Town) -> None:
    controller, works = town["ctl-1"], town[WORKS]
    works.stop()
    fill(works, 0, LINES)
    works.start()
    arrived = controller.state / "logs"
    until(lambda: sum(path.stat().st_size for path in arrived.rglob("*.log")) > 200_000, "1. logs come up")
    with Load(town).on() as load:
        load.until_more()
        controller.signal(signal.SIGSTOP)
        time.sleep(3.0)  # as long as a machine may stand still unnoticed: there is no event to wait for
        controller.signal(signal.SIGCONT)
        load.until_more()
        controller.signal(signal.SIGTERM)
        controller.ended()
        controller.start()
        load.until_more()
        controller.signal(signal.SIGKILL)
        controller.ended()
        controller.start()
        load.until_more()
    last = put(controller, "the last one", at_once=True)
    until_applied(town, last, *ENGINES)
    assert load.accepted == sorted(set(load.accepted)), "2. each has a revision of its own"
    for name in ENGINES:
        assert applied(town[name]) == sorted(set(applied(town[name]))), "3. applied in order, and none twice"
    assert lines(town, WORKS) == list(range(LINES)), "4. each line is there once, in order"


def test_4_attack_a_key_in_two_places_is_an_alarm_and_the_newer_one_wins(town: Town) -> None:
    controller, stands = town["ctl-1"], town[STANDS]
    elsewhere = town.site.folder / "elsewhere"
    shutil.copytree(stands.state, elsewhere, ignore=shutil.ignore_patterns("control.sock", ".*"))
    clone = town.site.daemon("engine", SPARE, elsewhere, VIEW)
    clone.before = town.net.hosts[SPARE].within
    clone.start()
    until(lambda: any(one["alarm"] == "node.cloned" and one["about"] == STANDS for one in controller.events("alarm")),
          "1. both come back again and again, and that is an alarm")
    assert "node.cloned" in controller.cli("audit", "list", "--limit", "1000").done().out
    links = [row for row in controller.listed("tunnel") if row["peer"] == STANDS]
    assert len(links) <= 2, "2. one of them is in at a time"
    last = put(controller, "to whoever is in", at_once=True)
    until(lambda: next(row for row in status(controller)["rows"] if row["engine"] == STANDS)["running"] == last,
          "3. documents still come")
    until_applied(town, last, WORKS, ODD)
    controller.cli("node", "remove", STANDS).done()
    for one in (stands, clone):
        assert one.ended(60) is not None, "4. an operator decides: the key is of no use any more, in either place"
    assert controller.node(STANDS) == {}
