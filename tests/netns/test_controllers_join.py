"""Controllers join while the world is not as it should be: wrong addresses, several at once, a leader that dies.

All have committed their join while ``ctl-1`` was alone, and know of no other; the tests run in this order.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.controllers import Town, cluster
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

NOWHERE = "10.99.99.99"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    spare = ("ctl-2", "ctl-3", "ctl-4")
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=1, spare=spare) as made:
        for name in spare:
            file, node = made.export("controller", name, "ctl-1"), made.node("controller", name)
            address = NOWHERE if name == "ctl-2" else made.net.hosts[name].address
            node.cli("controller", "join", file, "--name", name, "--address", address).done()
        yield made


def voting(town: Town, *names: str) -> None:
    """Each of these sees all of them vote, and one lead; those that have not come in yet do not count."""
    def seen(at: str) -> bool:
        found = town.status(at)
        up = {m["name"] for m in found["members"] if m["role"] != "learner" and m["state"] == "up"}
        return up == set(names) and found["leader"] in up

    for at in names:
        until(lambda at=at: seen(at), f"{at} sees {', '.join(names)} vote")  # type: ignore[misc]


def test_1_who_gave_a_wrong_address_is_told_and_may_correct_it(town: Town) -> None:
    """Its new address has to reach the leader before the store is there; another one joins at the same moment."""
    node, right = town["ctl-2"].start(), town.net.hosts["ctl-2"].address
    until(lambda: [line for line in node.get("/api/status")["problems"] if "[FL-CLUSTER-REACH]" in line],
          "it says what is wrong")
    assert town.status("ctl-1")["store"] == "sqlite", "who is not reached changes nothing"
    node.configure(addresses=[right])
    node.signal(signal.SIGHUP)
    town["ctl-3"].start(ready=False)
    voting(town, "ctl-1", "ctl-2", "ctl-3")
    assert town["ctl-3"].node("ctl-2")["address"] == right
    assert not node.get("/api/status")["problems"]


def test_2_who_knows_only_of_a_leader_of_before_finds_the_one_of_now(town: Town) -> None:
    """The first leader dies and comes back as a follower; who joined when it was alone knows no other."""
    town["ctl-1"].signal(signal.SIGKILL)
    town["ctl-1"].ended()
    leader = town.until_led("ctl-3", but="ctl-1")
    town["ctl-1"].start()
    voting(town, "ctl-1", "ctl-2", "ctl-3")
    assert town.until_led("ctl-1") == leader
    town["ctl-4"].start()
    voting(town, "ctl-1", "ctl-2", "ctl-3", "ctl-4")


def rejoined(town: Town, address: str = "") -> None:
    """``ctl-4`` is removed, and joins again in the same folder with a new bundle; it does not run yet."""
    town["ctl-1"].cli("node", "remove", "ctl-4").done()
    assert town["ctl-4"].ended() == 0
    voting(town, "ctl-1", "ctl-2", "ctl-3")
    town["ctl-4"].log = ""
    town["ctl-4"].cli("controller", "join", town.export("controller", "ctl-4", "ctl-1"), "--name", "ctl-4",
                      "--address", address or town.net.hosts["ctl-4"].address).done()


def told(town: Town, code: str) -> str:
    """Why ``ctl-4`` waits, as it says when it has waited for a while; to the cluster it is nothing yet."""
    node = town["ctl-4"]
    (line,) = until(lambda: [one for one in node.get("/api/status")["problems"] if f"[{code}]" in one], "it is told")
    seen = town.status("ctl-1")
    assert {m["name"] for m in seen["members"] if m["role"] != "learner"} == {"ctl-1", "ctl-2", "ctl-3"}
    assert [m["size"] for m in seen["members"] if m["name"] == "ctl-4"] == [None], "it has no member of the store"
    assert json.loads((node.state / "cluster.json").read_text())["stage"] == "committed"
    return str(line)


def test_3_nobody_comes_in_while_one_that_votes_is_away_and_it_is_said_who(town: Town) -> None:
    rejoined(town)
    leader = town.until_led("ctl-1")
    town[leader].signal(signal.SIGKILL)
    town[leader].ended()
    waiting = town["ctl-4"].start()
    said = f"the store takes no new member while {leader} cannot be reached"
    until(lambda: [line for line in waiting.get("/api/status")["problems"] if said in line], "it says who is away")
    town[leader].start()
    voting(town, "ctl-1", "ctl-2", "ctl-3", "ctl-4")
    waits = [record["code"] for record in waiting.events("cluster.waiting")]
    assert len(waits) == len(set(waits)), "each reason is logged once"


def test_4_the_leader_dies_while_a_follower_follows(town: Town) -> None:
    rejoined(town)
    leader, follower = town.until_led("ctl-1"), town["ctl-4"].start(ready=False)
    until(lambda: [r for r in follower.events("cluster.joining") if r["step"] == "follows the store"], "it follows")
    town[leader].signal(signal.SIGKILL)
    town[leader].ended()
    voting(town, *(name for name in ("ctl-1", "ctl-2", "ctl-3", "ctl-4") if name != leader))
    town[leader].start()
    voting(town, "ctl-1", "ctl-2", "ctl-3", "ctl-4")


def test_5_attack_the_address_of_another_controller(town: Town) -> None:
    """What answers there has another key; nobody takes it for the one that wants to come in."""
    rejoined(town, address=town.net.hosts["ctl-2"].address)
    town["ctl-4"].start()
    assert "host key" in told(town, "FL-CLUSTER-REACH")
    town["ctl-4"].configure(addresses=[town.net.hosts["ctl-4"].address])
    town["ctl-4"].signal(signal.SIGHUP)
    voting(town, "ctl-1", "ctl-2", "ctl-3", "ctl-4")


def test_6_another_version_of_fairlead_and_no_etcd(town: Town, tmp_path: Path) -> None:
    rejoined(town)
    node, there = town["ctl-4"], town["ctl-4"].before
    (tmp_path / "fairlead-99.0.dist-info").mkdir()
    (tmp_path / "fairlead-99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fairlead\nVersion: 99.0\n")
    node.before = [*there, "env", f"PYTHONPATH={tmp_path}"]
    node.start()
    assert node.get("/api/version")["version"] == "99.0"
    assert "99.0" in told(town, "FL-CLUSTER-VERSION")
    node.stop()
    node.before = there
    node.start()
    voting(town, "ctl-1", "ctl-2", "ctl-3", "ctl-4")
    node.stop()
    node.before = [*there, "env", f"PATH={tmp_path}"]
    node.cli("controller", "run").refused("FL-ETCD-MISSING", alone=False)
    node.before = there
    node.start()
    voting(town, "ctl-1", "ctl-2", "ctl-3", "ctl-4")
