"""Nodes are made once, run once, leave in good order, and what is gone is gone."""

from pathlib import Path

import pytest

from tests.processes import Daemon, Site, fairlead, init_arguments, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


def test_1_one_folder_is_one_node_and_runs_once(controller: Daemon, engine: Daemon, bundle: Path) -> None:
    controller.cli(*init_arguments(controller)).refused("FL-ALREADY-INITIALISED")
    for daemon in (controller, engine):
        assert f"pid {daemon.pid}" in daemon.cli(daemon.role, "run").refused("FL-ALREADY-RUNNING")
    controller.cli("controller", "destroy", "--yes").refused("FL-RUNNING")
    engine.cli("engine", "join", bundle, "--name", "se-1").refused("FL-ALREADY-JOINED")
    assert bundle.exists()
    assert controller.node("se-1")["state"] == "up"


def test_2_an_engine_leaves_and_may_come_again(site: Site, controller: Daemon) -> None:
    leaving = site.engine(controller, "se-leaving")
    address = controller.node("se-leaving")["internal_address"]
    leaving.cli("engine", "leave").done()
    assert leaving.ended() == 0
    assert controller.node("se-leaving").get("state") in (None, "removed")
    assert sorted(path.name for path in leaving.state.iterdir()) == ["audit.jsonl"]
    leaving.cli("engine", "run").refused("FL-NOT-JOINED")
    leaving.cli("engine", "leave").refused("FL-NOT-JOINED")
    again = site.bundle(controller, "--node", "se-leaving")
    leaving.cli("engine", "join", again, "--name", "se-leaving", "--view", leaving.view).done()
    leaving.start()
    until(lambda: controller.node("se-leaving")["state"] == "up", "it is back")
    assert controller.node("se-leaving")["internal_address"] != address, "a freed address rests"


@pytest.mark.whole
def test_3_a_rebuilt_controller_is_another_cluster(site: Site) -> None:
    first = site.controller("rebuilt")
    engine = site.join(first, "se-orphan")
    bundle = site.bundle(first)
    first.stop()
    fairlead("engine", "leave", state=engine.state).refused("FL-LEAVE-UNREACHABLE")
    first.cli("controller", "destroy", given="n\n")
    assert (first.state / "store.db").exists()
    first.cli("controller", "destroy", "--yes").done()
    assert [path.name for path in first.state.iterdir()] == []
    first.cli("controller", "run").refused("FL-STATE-MISSING")
    first.cli(*init_arguments(first), "--listen", "127.0.0.1").done()
    first.start()
    said = fairlead("engine", "join", bundle, "--name", "se-2", state=site.folder / "se-2").refused(
        "FL-JOIN-PEER", alone=False)  # at the same address somebody else answers: perhaps in the middle
    assert f"127.0.0.1:{first.ports['portal']}" in said
    assert bundle.exists()
    assert [row["name"] for row in first.listed("node")] == ["rebuilt"]
    engine.cli("engine", "leave", "--local-only").done()
