"""Three Controllers, of which two are lost for good: the third goes on alone, and becomes several again.

And what is done on a cluster that is well: a look with etcd's own tool, and a backup, that is restored in the end.
"""

import json
import subprocess
from pathlib import Path
from signal import SIGKILL

import pytest

from fairlead.base.clock import DAY
from tests.conftest import need
from tests.netns.controllers import cluster
from tests.processes import Daemon, fairlead, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(500)]


def test_one_of_three_goes_on_alone_and_becomes_several_again(tmp_path: Path) -> None:
    need("etcdctl")
    with cluster(tmp_path, controllers=3, engines=1, spare=["ctl-4"]) as town:
        one, two, three, engine = town["ctl-1"], town["ctl-2"], town["ctl-3"], town["se-1"]
        three.cli("cluster", "recover", "--yes").refused("FL-RUNNING")
        # 1. a token stays open, and on a Controller that follows a backup is made
        stolen = town.export("engine", "thief", "ctl-2")
        recipient = fairlead("backup", "key", "--output", tmp_path / "identity").done().out.strip()
        three.cli("backup", "create", "--output", tmp_path / "backup", "--recipient", recipient).done()
        # 2. somebody puts the cluster's time ten days ahead; then two of three are lost
        etcdctl = with_etcdctl(two, tmp_path / "certificate")
        assert len(json.loads(etcdctl("endpoint", "status", "-w", "json"))) == 3
        now = int(etcdctl("get", "d/clock/mark", "--print-value-only"))
        etcdctl("put", "d/clock/mark", f"{now + 10 * DAY:020d}")
        full(three, tmp_path / "certificate")
        for lost in (one, two):
            lost.signal(SIGKILL)
            lost.ended()
        until(lambda: "FL-CLUSTER-QUORUM" in three.cli("cluster", "status").err, "there is no quorum")
        three.stop()
        # 3. the third goes on alone; what was stopped halfway is done again before it runs
        told = three.cli("cluster", "recover", "--yes").done()
        assert "ctl-1, ctl-2" in told.err
        assert "--reset-clock" in told.err
        assert "se-1" in told.out
        assert "etcd." not in told.out + told.err, "what etcd says is for a daemon's log"
        note = three.state / "cluster.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | {"stage": "recovering"}))
        three.cli("controller", "run").refused("FL-CLUSTER-RECOVER")
        three.cli("cluster", "recover", "--yes", "--reset-clock").done()
        three.start()
        town.until_well("ctl-3", at="ctl-3")
        until(lambda: three.node("se-1").get("state") == "up", "the engine is there again")
        assert [node["name"] for node in three.listed("node")] == ["ctl-3", "se-1"]
        three.cli("audit", "verify").done()
        assert {"cluster.recovered", "backup.created", "cluster.client-certificate", "token.revoked",
                "node.removed"} <= events(three)
        # 4. attack: the token of before, and a Controller that was not lost after all
        thief = town.site.daemon("engine", "thief", tmp_path / "thief", engine.view)
        thief.before = engine.before
        thief.cli("engine", "join", stolen, "--name", "thief").refused("FL-JOIN-REVOKED", alone=False)
        two.start()
        two.ended()
        assert json.loads((two.state / "trust.json").read_text())["removed"] is True
        # 5. new Controllers join, and the engine knows them
        town.join("controller", "ctl-4", "ctl-3").done()
        town["ctl-4"].start()
        town.until_well("ctl-3", "ctl-4")
        until(lambda: town["ctl-4"].node("se-1").get("state") == "up", "the engine is at the new one, too")
        # 6. all is lost; of the backup one Controller is made, on its machine, and the engine comes by itself
        for lost in (three, town["ctl-4"]):
            lost.signal(SIGKILL)
            lost.ended()
        anew = town.site.daemon("controller", "ctl-3", tmp_path / "anew", three.view)
        anew.before = three.before
        anew.cli("backup", "restore", tmp_path / "backup", "--identity", tmp_path / "identity").done()
        anew.start()
        until(lambda: anew.node("se-1").get("state") == "up", "the engine is at the one that was restored")
        assert anew.get("/api/cluster/status")["store"] == "sqlite"
        assert [node["name"] for node in anew.listed("node")] == ["ctl-3", "se-1"]
        anew.cli("cluster", "client-certificate", "--output", tmp_path / "none").refused("FL-CLUSTER-SINGLE")
        # 7. it, too, becomes one of several again
        town.nodes["ctl-3"] = anew
        last = town.nodes["ctl-5"] = town.site.daemon("controller", "ctl-5", tmp_path / "ctl-5", three.view)
        last.before = one.before
        last.cli("controller", "join", town.export("controller", "ctl-5", "ctl-3"), "--name", "ctl-5", "--address",
                 town.net.hosts["ctl-1"].address).done()
        last.start()
        town.until_well("ctl-3", "ctl-5")
        last.cli("audit", "verify").done()


def with_etcdctl(node: Daemon, folder: Path) -> "Etcdctl":
    """The command that is printed, which reaches every member through the mesh."""
    printed = node.cli("cluster", "client-certificate", "--output", folder).done()
    assert (folder / "client.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in printed.out + printed.err + node.log
    head, found, _ = printed.out.strip().partition(" endpoint status")
    assert found
    return Etcdctl([*node.before, "env", *head.split()])


def full(node: Daemon, folder: Path) -> None:
    """etcd complains of space, as this node's member knows."""
    def ask(what: str, body: dict[str, str]) -> str:
        return subprocess.run(
            [*node.before, "curl", "--silent", "--fail", "--max-time", "10", "--cacert", folder / "ca.pem",
             "--cert", folder / "client.pem", "--key", folder / "client.key", "--data", json.dumps(body),
             f"https://{node.node(node.name)['internal_address']}:2379/v3/maintenance/{what}"],
            capture_output=True, text=True, check=True).stdout

    ask("alarm", {"action": "ACTIVATE", "memberID": json.loads(ask("status", {}))["header"]["member_id"],
                  "alarm": "NOSPACE"})
    until(lambda: "NOSPACE" in ask("status", {}), "the member has the alarm")


class Etcdctl:
    """etcd's own tool."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        return subprocess.run([*self._command, *arguments], input=given, capture_output=True, text=True, timeout=30,
                              check=True).stdout


def events(node: Daemon) -> set[str]:
    return {record["event"] for record in node.get("/api/audit?limit=1000")["results"]}
