"""A Controller is lost, and made anew from its backup: engines know it again, and what was spent stays spent."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Daemon, Site, fairlead, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(200)]
WORDS = "these words were never said together"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def test_a_lost_controller_comes_back_and_nothing_that_was_spent_does(site: Site, tmp_path: Path) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    gone = site.join(controller, "se-2")
    bundle = site.bundle(controller)
    # 1. a backup is made while a token is open
    recipient = fairlead("backup", "key", "--output", tmp_path / "identity").done().out.strip()
    made = controller.cli("backup", "create", "--output", tmp_path / "backup", "--recipient", recipient).done()
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o600
    # 2. the token is redeemed, and another engine is removed
    stolen = shutil.copy(bundle, tmp_path / "stolen.bundle")
    late = site.daemon("engine", "se-3", tmp_path / "se-3", engine.view)
    late.cli("engine", "join", bundle, "--name", "se-3").done()
    controller.cli("node", "remove", "se-2").done()
    # 3. the Controller is lost with its disk
    controller.stop()
    shutil.rmtree(controller.state)
    shown = fairlead("backup", "show", tmp_path / "backup", "--identity", tmp_path / "identity", "--json").done().json
    assert [(node["name"], node["state"]) for node in shown["nodes"]] == [("ctl", "up"), ("se-1", "up"), ("se-2", "up")]
    told = controller.cli("backup", "restore", tmp_path / "backup", "--identity", tmp_path / "identity", "--view",
                          controller.view, "--listen", "127.0.0.1", "--removed", "se-2").done()
    assert made.out.strip() in told.err
    controller.start()
    # 4. who was there is there, without being told anything
    until(lambda: controller.node("se-1")["state"] == "up", "se-1 is up again")
    assert [node["name"] for node in controller.listed("node")] == ["ctl", "se-1"]
    # 5. attack: the token that the backup knows as open; 6. the engine that was removed
    thief = site.daemon("engine", "thief", tmp_path / "thief", engine.view)
    thief.cli("engine", "join", stolen, "--name", "thief").refused("FL-JOIN-REVOKED", alone=False)
    gone.start(ready=False).ended()
    assert json.loads((gone.state / "trust.json").read_text())["removed"] is True
    # 7. all of it is on record, in a chain that goes on, and new engines join
    events = [record["event"] for record in controller.get("/api/audit?limit=1000")["results"]]
    assert {"cluster.created", "cluster.restored", "token.revoked", "node.removed"} <= set(events)
    controller.cli("audit", "verify").done()
    site.engine(controller, "se-4")


def test_what_is_no_backup_for_this_folder_changes_nothing(site: Site, tmp_path: Path) -> None:
    controller = site.controller()
    secret, wrong = tmp_path / "words", tmp_path / "wrong"
    secret.write_text(WORDS + "\n")
    wrong.write_text("something quite different\n")
    controller.cli("backup", "create", "--output", tmp_path / "backup", "--passphrase-file", secret).done()
    controller.cli("backup", "create", "--output", tmp_path / "b", "--passphrase-file", "-", given="short").refused(
        "FL-PASSWORD")
    controller.cli("backup", "create", "--output", tmp_path / "b", "--recipient", "x").refused("FL-BACKUP-RECIPIENT")
    assert not (tmp_path / "b").exists()
    controller.stop()
    assert WORDS not in controller.log
    data = (tmp_path / "backup").read_bytes()
    (tmp_path / "harmed").write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    empty, before = tmp_path / "empty", files(controller)
    for state, code, arguments in (
            (empty, "FL-BACKUP-DAMAGED", ["harmed", "--passphrase-file", secret]),
            (empty, "FL-BACKUP-SEALED", ["backup", "--passphrase-file", wrong]),
            (empty, "FL-BACKUP-SEALED", ["backup"]),
            (empty, "FL-BACKUP-CLUSTER", ["backup", "--passphrase-file", secret, "--cluster", "0" * 36]),
            (empty, "FL-NODE-UNKNOWN", ["backup", "--passphrase-file", secret, "--removed", "se-9"]),
            (empty, "FL-NODE-CONTROLLER", ["backup", "--passphrase-file", secret, "--removed", "ctl"]),
            (controller.state, "FL-ALREADY-INITIALISED", ["backup", "--passphrase-file", secret])):
        fairlead("backup", "restore", *arguments, state=state, cwd=tmp_path).refused(code)
    assert not empty.exists()
    assert files(controller) == before


def files(controller: Daemon) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in controller.state.rglob("*") if file.is_file()}
