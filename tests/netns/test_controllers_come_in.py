"""A follower's coming in, stopped at each of its stages; what a leader does about one that never comes back; bad input.

While it comes in, everybody goes on writing.
"""

import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import FairleadError
from tests.netns.controllers import Town, cluster
from tests.processes import Daemon, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=1,
                 spare=("ctl-2", "ctl-3", "ctl-4", "ctl-5")) as made:
        yield made


def stage(node: Daemon) -> str:
    """How far it has come."""
    found: dict[str, Any] = json.loads((node.state / "cluster.json").read_text())
    return str(found["stage"])


def killed(node: Daemon, when: Callable[[], object]) -> None:
    """Run it until that, and not a moment longer."""
    node.start(ready=False)
    until(lambda: when() or not node.runs, "it comes as far as that")
    node.signal(signal.SIGKILL)
    node.ended()


def test_1_a_follower_that_is_killed_at_each_stage_comes_in_all_the_same(town: Town) -> None:
    """Somebody writes at the leader all the while; nothing is refused, also while the store is moved."""
    town.join("controller", "ctl-2").done()
    leader, follower = town["ctl-1"], town["ctl-2"]
    assert stage(follower) == "committed"
    stop, written, refused = threading.Event(), [time.monotonic()], list[str]()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                leader.get("/api/status")
                town.write("ctl-1", f"w-{number}").done()
                written.append(time.monotonic())
            except (AssertionError, FairleadError) as error:
                refused.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        killed(follower, lambda: follower.events("link.up"))
        assert stage(follower) == "committed"
        killed(follower, lambda: stage(follower) == "learning")
        killed(follower, lambda: len(follower.events("etcd.started")) > 0)
        follower.start()
        town.until_well("ctl-1", "ctl-2", at="ctl-1")
    finally:
        stop.set()
        writer.join()
    assert refused == []
    gaps = [after - before for before, after in itertools.pairwise(written)]
    assert max(gaps) < 10.0, "two seconds, with room for a busy machine"
    assert town.written("ctl-2") >= {f"w-{n}" for n in range(1, len(written))}
    assert stage(follower) == "member"


def test_2_one_that_is_killed_when_it_has_just_been_admitted_comes_back(town: Town) -> None:
    """It votes already and has no key yet: without it there is no majority, and with it there is."""
    town.join("controller", "ctl-3").done()
    follower = town["ctl-3"]
    killed(follower, lambda: [r for r in town["ctl-1"].events("cluster.admitted") if r["about"] == "ctl-3"])
    follower.start()
    town.until_well("ctl-1", "ctl-2", "ctl-3")
    names = [row["name"] for row in town["ctl-1"].listed("node")]
    addresses = [row["internal_address"] for row in town["ctl-1"].listed("node")]
    assert len(set(names)) == len(names) == len(set(addresses)) == 3


def test_3_a_learner_that_never_comes_back_is_taken_out_and_its_name_may_join_again(town: Town) -> None:
    town["ctl-1"].cli("node", "remove", "ctl-3").done()
    assert town["ctl-3"].ended() == 0
    town.until_well("ctl-1", "ctl-2")
    town["ctl-3"].cli("controller", "destroy", "--yes").done()
    town.join("controller", "ctl-3").done()
    follower = town["ctl-3"]
    killed(follower, lambda: stage(follower) == "learning")
    leader = town.until_led("ctl-1")
    gone = "cluster.member-removed"
    until(lambda: [r for r in town[leader].events(gone) if r["about"] == "ctl-3"], "it is taken out")
    assert {m["name"]: m["state"] for m in town.status("ctl-1")["members"] if m["role"] != "learner"} == {
        "ctl-1": "up", "ctl-2": "up"}
    town.write("ctl-2", "while-it-was-away").done()
    follower.start()  # it did come back, after all
    town.until_well("ctl-1", "ctl-2", "ctl-3")
    assert "while-it-was-away" in town.written("ctl-3")


def test_4_two_that_come_in_at_once_both_come_in(town: Town) -> None:
    """etcd takes one learner at a time; the other one asks again, and learns of the first meanwhile."""
    for name in ("ctl-4", "ctl-5"):
        town.join("controller", name, at="ctl-2").done()
    for name in ("ctl-4", "ctl-5"):
        town[name].start(ready=False)
    town.until_well("ctl-1", "ctl-2", "ctl-3", "ctl-4", "ctl-5")
    for name in ("ctl-4", "ctl-5"):
        town["ctl-1"].cli("node", "remove", name).done()
        assert town[name].ended() == 0
    town.until_well("ctl-1", "ctl-2", "ctl-3")


def test_5_attack_a_bundle_that_was_used_or_is_for_another_role(town: Town, tmp_path: Path) -> None:
    spare = Daemon("controller", "ctl-9", tmp_path / "ctl-9", "127.64.0.0/10")
    spare.before = town.net.hosts["ctl-2"].within  # whose ports are taken by ctl-2
    ports = ["--api-port", "4443", "--portal-port", "4444", "--ssh-port", "4022"]

    def joins(bundle: Path, *more: object, name: str = "ctl-9") -> Any:
        return spare.cli("controller", "join", bundle, "--name", name, "--address", "10.78.0.2", *more)

    def picture() -> list[object]:
        """All that a join could have changed, here and in the cluster; who leads changes where the machine is busy."""
        seen = town.status("ctl-1")
        members = [(m["name"], m["role"], m["state"]) for m in seen["members"]]
        # the keys of a join that may be tried again stay
        files = [file for file in spare.state.rglob("*") if "pending" not in file.parts]
        return [sorted(files), members,
                [(row["name"], row["state"]) for row in town["ctl-1"].listed("node")]]

    before = picture()

    file = tmp_path / "any.bundle"

    def exported(role: str = "controller", *options: object) -> Path:
        town["ctl-2"].cli("bundle", "export", "--role", role, "--output", file, *options).done()
        return file

    joins(exported("engine"), *ports).refused("FL-BUNDLE-ROLE", alone=False)
    engine = Daemon("engine", "se-9", tmp_path / "se-9", "127.64.0.0/10", before=spare.before)
    engine.cli("engine", "join", exported(), "--name", "se-9").refused("FL-BUNDLE-ROLE", alone=False)
    joins(exported(), *ports, name="ctl-1").refused("FL-JOIN-NAME", alone=False)
    joins(exported("controller", "--node", "ctl-8"), *ports).refused("FL-BUNDLE-NODE", alone=False)
    joins(exported(), "--view", "127.80.0.0/16", *ports).refused("FL-CLUSTER-VIEW", alone=False)
    joins(exported(), "--api-port", "2379").refused("FL-FLAG", alone=False)
    joins(exported()).refused("FL-PORT-TAKEN", alone=False)
    (tmp_path / "bin").mkdir()
    spare.before = [*spare.before, "env", f"PATH={tmp_path / 'bin'}"]
    joins(exported(), *ports).refused("FL-ETCD-MISSING", alone=False)
    (tmp_path / "bin" / "etcd").write_text("#!/bin/sh\necho 'etcd Version: 2.3.8'\n")
    (tmp_path / "bin" / "etcd").chmod(0o755)
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    joins(exported(), *ports).refused("FL-ETCD-VERSION", alone=False)
    spare.before = spare.before[:-2]
    assert picture() == before
    used = exported("controller", "--node", "ctl-9").read_bytes()
    joins(file, *ports).done()
    thief = Daemon("controller", "ctl-9", tmp_path / "thief", "127.64.0.0/10", before=spare.before)
    file.touch(0o600)
    file.write_bytes(used)
    thief.cli("controller", "join", file, "--name", "ctl-9", "--address", "10.78.0.2",
              *ports).refused("FL-JOIN-CONFLICT", alone=False)
    assert town["ctl-1"].node("ctl-9")["state"] == "frozen", "its operator compares the keys"
    town["ctl-1"].cli("node", "remove", "ctl-9").done()
