"""Three Controllers, of which two are lost for good: the third goes on alone, and becomes several again.

And what is done on a cluster that is well: a look with etcd's own tool, and a backup that is restored elsewhere.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairlead.client.control import ControlClient
from tests.conftest import need
from tests.netns.network import Host, network
from tests.processes import COMMAND, Result, surroundings, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]


@dataclass(slots=True)
class Node:
    """A node on a host of its own."""

    role: str
    name: str
    state: Path
    host: Host
    process: "subprocess.Popen[bytes] | None" = None

    def cli(self, *arguments: object, given: str | None = None, state: bool = True) -> Result:
        where = ["--state", str(self.state)] if state else []
        found = subprocess.run(self.host.command(*COMMAND, *map(str, arguments), *where), input=given, text=True,
                               capture_output=True, env=surroundings(), timeout=120, check=False)
        return Result(found.returncode, found.stdout, found.stderr)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL",
                 *self.host.command(*COMMAND, self.role, "run", "--state", str(self.state))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=surroundings())

    def end(self, *, kill: bool = False) -> int:
        assert self.process is not None
        self.process.kill() if kill else self.process.terminate()
        return self.process.wait(30)

    @property
    def log(self) -> Path:
        return self.state.with_suffix(".log")

    def get(self, path: str) -> Any:
        return ControlClient(self.state, 10.0).get(path)

    def voters(self) -> list[str]:
        members = self.get("/api/cluster/status")["members"]
        return sorted(m["name"] for m in members if m["role"] != "learner" and m["state"] == "up")

    def sees(self, name: str) -> str:
        return next((str(n["state"]) for n in self.get("/api/node")["results"] if n["name"] == name), "gone")


@dataclass(slots=True)
class Site:
    """All of them."""

    folder: Path
    hosts: dict[str, Host]
    nodes: dict[str, Node] = field(default_factory=dict)

    def node(self, role: str, name: str) -> Node:
        made = self.nodes[name] = Node(role, name, self.folder / name, self.hosts[name])
        return made

    def first(self, name: str) -> Node:
        made = self.node("controller", name)
        made.cli("controller", "init", "--name", name, "--address", made.host.address, "--admin-password-file", "-",
                 given="a password of ours").done()
        made.start()
        until(lambda: made.get("/api/status")["state"] == "up", f"{name} runs")
        return made

    def join(self, at: Node, name: str, role: str = "controller") -> Node:
        made, bundle = self.node(role, name), self.folder / f"{name}.bundle"
        at.cli("bundle", "export", "--role", role, "--node", name, "--output", bundle).done()
        address = ["--address", made.host.address] if role == "controller" else []
        made.cli(role, "join", bundle, "--name", name, *address).done()
        made.start()
        if role == "controller":
            until(lambda: name in at.voters(), f"{name} votes")
        else:
            until(lambda: at.sees(name) == "up", f"{name} is up")
        return made


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    need("etcd", "etcdctl")
    with network("ctl-1", "ctl-2", "ctl-3", "ctl-4", "se-1") as net, contextlib.ExitStack() as after:
        made = Site(tmp_path, net.hosts)

        @after.callback
        def end() -> None:
            for node in made.nodes.values():
                if node.process is not None and node.process.poll() is None:
                    node.process.terminate()
            for node in made.nodes.values():
                if node.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        node.process.wait(15)
                    node.process.kill()
                    node.process.wait()
                    sys.stderr.write(f"==== {node.name}\n{node.log.read_text()[-6000:]}")

        yield made


def test_one_of_three_goes_on_alone_and_becomes_several_again(site: Site, tmp_path: Path) -> None:
    one = site.first("ctl-1")
    one.cli("cluster", "client-certificate", "--output", tmp_path / "none").refused("FL-CLUSTER-SINGLE")
    one.cli("cluster", "recover", "--yes").refused("FL-RUNNING")
    two, three = site.join(one, "ctl-2"), site.join(one, "ctl-3")
    engine = site.join(three, "se-1", "engine")
    look_with_etcdctl(two, tmp_path / "certificate")
    # 1. on ctl-3, which follows: a backup is made, and a token that stays open
    two.cli("bundle", "export", "--role", "engine", "--output", tmp_path / "open.bundle").done()
    recipient = three.cli("backup", "key", "--output", tmp_path / "identity", state=False).done().out.strip()
    three.cli("backup", "create", "--output", tmp_path / "backup", "--recipient", recipient).done()
    # 2. two of three are lost: nothing can be changed any more
    for lost in (one, two):
        lost.end(kill=True)
    until(lambda: three.cli("cluster", "status").code == 1, "there is no quorum")
    three.end()
    # 3. the third goes on alone
    told = three.cli("cluster", "recover", "--yes").done()
    assert "gone" in told.err
    assert "se-1" in told.out
    three.start()
    until(lambda: three.voters() == ["ctl-3"] and three.get("/api/status")["role"] == "leader", "it leads")
    until(lambda: three.sees("se-1") == "up", "the engine is there again")
    assert [three.sees(name) for name in ("ctl-1", "ctl-2")] == ["gone", "gone"]
    three.cli("audit", "verify").done()
    events = [record["event"] for record in three.get("/api/audit?limit=1000")["results"]]
    assert {"cluster.recovered", "backup.created", "token.revoked"} <= set(events)
    # 4. attack: the token of before; a Controller that was not lost after all
    engine.end()
    thief = Node("engine", "thief", tmp_path / "thief", engine.host)
    thief.cli("engine", "join", tmp_path / "open.bundle", "--name", "thief").refused("FL-JOIN-REVOKED", alone=False)
    engine.start()
    two.start()
    until(lambda: json.loads((two.state / "trust.json").read_text())["removed"], "ctl-2 is told that it was removed")
    assert two.process is not None
    two.process.wait(30)
    assert three.voters() == ["ctl-3"]
    # 5. new Controllers join
    site.join(three, "ctl-4")
    assert three.voters() == ["ctl-3", "ctl-4"]
    until(lambda: three.sees("se-1") == "up", "the engine is still there")
    # 6. of a cluster's backup one Controller is made, on its machine; the engine comes to it by itself
    for node in (three, site.nodes["ctl-4"]):
        node.end(kill=True)
    anew = Node("controller", "ctl-3", tmp_path / "restored", three.host)
    anew.cli("backup", "restore", tmp_path / "backup", "--identity", tmp_path / "identity").done()
    site.nodes["restored"] = anew
    anew.start()
    until(lambda: anew.sees("se-1") == "up", "the engine is at the restored one")
    assert anew.get("/api/cluster/status")["store"] == "sqlite"
    assert [anew.sees(name) for name in ("ctl-1", "ctl-2", "ctl-4")] == ["gone"] * 3


def look_with_etcdctl(node: Node, folder: Path) -> None:
    """The command that is printed reaches every member, through the mesh."""
    printed = node.cli("cluster", "client-certificate", "--output", folder).done()
    assert (folder / "client.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in printed.out + printed.err + node.log.read_text()
    line = printed.out.strip().removeprefix("ETCDCTL_API=3 ").replace("-w table", "-w json")
    found = subprocess.run(node.host.command("env", "ETCDCTL_API=3", *line.split()), capture_output=True, text=True,
                           timeout=30, check=False)
    assert found.returncode == 0, found
    assert len(json.loads(found.stdout)) == 3
    assert "cluster.client-certificate" in [r["event"] for r in node.get("/api/audit?limit=1000")["results"]]
