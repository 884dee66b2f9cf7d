"""Configuration of a fleet that is 70 ms away and loses a packet in a hundred, while Controllers and engines die.

Nothing is lost and nothing done twice, by numbering and counting: what a Controller said yes to reaches every engine,
and an engine's own record has each revision that it applied once, in order. The tests run in this order, in one town.
"""

import signal
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient
from tests.netns.controllers import Town, cluster
from tests.netns.fleet import applied, declare, far, folder, has, put, status
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]
ENGINES = ("se-1", "se-2")
CONTROLLERS = ("ctl-1", "ctl-2", "ctl-3")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=2) as made:
        far(made, ENGINES)
        for name in ENGINES:
            declare(made[name], reload="while [ -e wait ]; do sleep 0.05; done")
        yield made


def holds(town: Town, engine: str, content: str) -> bool:
    return has(town[engine]) == content


def test_1_what_was_accepted_arrives_though_the_leader_is_killed_meanwhile(town: Town) -> None:
    leader = town.until_led("ctl-1")
    asked = next(name for name in CONTROLLERS if name != leader)
    accepted: list[int] = []
    over = threading.Event()

    def keep_putting() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                accepted.append(put(town[asked], number, at_once=True))
            except FairleadError:
                continue  # nobody leads for a moment: it is not accepted

    writer = threading.Thread(target=keep_putting)
    writer.start()
    try:
        until(lambda: len(accepted) > 20, "documents are put")
        town[leader].signal(signal.SIGKILL)
        town[leader].ended()
        before = len(accepted)
        until(lambda: len(accepted) > before + 20, "and go on to be, without the leader")
        town[leader].start()
        town.until_well(*CONTROLLERS, at=asked)
    finally:
        over.set()
        writer.join()
    assert accepted == sorted(set(accepted)), "each has a revision of its own"
    last = put(town[asked], 10_000)
    for engine in ENGINES:
        until(partial(holds, town, engine, "10000"), f"{engine} has the last one")
        until(lambda of=engine: applied(town[of])[-1:] == [last], "and says so")  # type: ignore[misc]
        assert applied(town[engine]) == sorted(set(applied(town[engine]))), "in order, and none twice"
    for name in CONTROLLERS:
        until(lambda at=name: status(town[at])["applied"] == 2, f"{name} knows who has it")  # type: ignore[misc]


def test_2_an_engine_that_is_killed_while_it_applies_applies_once_more(town: Town) -> None:
    wait = folder(town["se-1"]) / "wait"
    wait.touch()
    revision = put(town["ctl-2"], 20_000, at_once=True)
    until(lambda: has(town["se-1"]) == "20000", "the file is there, the reload hangs")
    assert revision not in applied(town["se-1"])
    town["se-1"].signal(signal.SIGKILL)
    town["se-1"].ended()
    wait.unlink()
    town["se-1"].start()
    until(lambda: revision in applied(town["se-1"]), "it applies it")
    assert (has(town["se-1"]), applied(town["se-1"]).count(revision)) == ("20000", 1)
    until(lambda: status(town["ctl-2"])["stage"] == "done", "and the roll-out is done")


def test_3_an_engine_without_a_way_to_the_leader_is_configured_by_the_others(town: Town) -> None:
    leader = town.until_led("ctl-1")
    town.net.links[leader, "se-2"].set(cut=True)
    until(lambda: town[leader].node("se-2")["state"] == "down", "the leader has lost it")
    put(town[leader], 30_000)
    until(lambda: has(town["se-2"]) == "30000", "it has it all the same")
    town.net.links[leader, "se-2"].set(cut=False)
    until(lambda: status(town[leader])["applied"] == 2, "the leader hears of it when it is back")


def test_4_attack_what_breaks_on_engines_comes_to_one(town: Town) -> None:
    before = {engine: applied(town[engine]) for engine in ENGINES}
    bad = {"destination": "nowhere", "files": [{"path": "page", "content": "x"}]}
    ControlClient(town["ctl-3"].state, 30.0).put("/api/config/files/page", {"target": "engines", "body": bad})
    found = until(lambda: (now := status(town["ctl-3"]))["stage"] == "halted" and now, "it is halted")
    assert found["refused"] == 1
    assert [has(town[engine]) for engine in ENGINES] == ["30000"] * 2
    assert {engine: applied(town[engine]) for engine in ENGINES} == before
