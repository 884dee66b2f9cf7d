"""Real processes are killed in the middle of what they do, and a real disk is full: the same command goes on.

The processes kill themselves (SIGKILL) at the place that the test names: inside a transaction with all its
statements done, after it; or after a change of the state folder. Where in process everything is stopped everywhere,
here a few stops show that the real thing does the same.
"""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from fairlead.keys.ssh import PublicKey
from tests.conftest import lacking, need
from tests.processes import Daemon, Site, a_view, command, fairlead, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]  # on a machine that is busy with other tests

DISK = 4 << 20
SUICIDE = """
import os, signal

kind, _, rest = os.environ.get("KILL_AT", "").partition(" ")
place, _, mark = rest.partition(" ")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if kind == "transaction":
    from fairlead.store.sqlite import Database
    from fairlead.store.protocol import Put
    transact, apply = Database.transact, Database._apply

    def meant(then):
        return any(isinstance(o, Put) and mark.encode() in o.value for o in then)

    def dying_transact(self, compare, then):
        done = transact(self, compare, then)
        if place == "after" and meant(then):
            die()
        return done

    def dying_apply(self, then):
        done = apply(self, then)
        if place == "inside" and meant(then):
            die()
        return done

    Database.transact, Database._apply = dying_transact, dying_apply

elif kind == "change":
    left = [int(place)]

    def dying(call):
        def called(*given, **more):
            done = call(*given, **more)
            left[0] -= 1
            if not left[0]:
                die()
            return done
        return called

    os.replace, os.unlink = dying(os.replace), dying(os.unlink)
"""
"""Read by every Python that starts with its folder on PYTHONPATH."""

DEATHS = [(place, mark) for mark in ('"state":"reserved"', '"state":"redeemed"') for place in ("inside", "after")]
"""During a join."""


@pytest.fixture
def suicide(tmp_path: Path) -> dict[str, str]:
    (folder := tmp_path / "suicide").mkdir()
    (folder / "sitecustomize.py").write_text(SUICIDE)
    return {"PYTHONPATH": str(folder)}


class Killed:
    """A Controller that is started, each time, to be killed at a transaction that writes a certain text."""

    def __init__(self, controller: Daemon, environment: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self.controller, self.environment, self.patch = controller, environment, patch

    def starts(self, place: str = "", mark: str = "") -> None:
        """And is killed there, if a place is given."""
        with self.patch.context() as given:
            for name, value in (self.environment | {"KILL_AT": f"transaction {place} {mark}"} if place else {}).items():
                given.setenv(name, value)
            self.controller.start()

    def ended(self) -> None:
        """It was killed."""
        assert self.controller.ended() == -SIGKILL


@pytest.fixture
def killed(tmp_path: Path, suicide: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Killed]:
    with Site(tmp_path) as site:
        controller = site.controller()
        controller.stop()
        yield Killed(controller, suicide, monkeypatch)


def test_1_a_controller_that_is_killed_at_every_step_of_a_nodes_life_loses_none_and_doubles_none(
        killed: Killed, tmp_path: Path) -> None:
    controller, bundle = killed.controller, tmp_path / "se.bundle"
    # 1. the bundle: the token is written, and nobody is told
    killed.starts("after", '"state":"open"')
    controller.cli("bundle", "export", "--role", "engine", "--output", bundle).refused("FL-DAEMON-ANSWER")
    killed.ended()
    assert not bundle.exists()
    # 2. the join: one command, which outlives four deaths
    killed.starts(*DEATHS[0])
    assert [row["state"] for row in controller.listed("token")] == ["open"]
    controller.cli("bundle", "export", "--role", "engine", "--output", bundle).done()
    with command("engine", "join", bundle, "--name", "se-1", state=tmp_path / "se") as join:
        try:
            for death in [*DEATHS[1:], ("after", '"state":"tombstone"')]:
                killed.ended()
                killed.starts(*death)
            _, said = join.communicate(timeout=240)
        finally:
            join.kill()
    assert join.returncode == 0, said
    (row,) = (row for row in controller.listed("node") if row["role"] == "engine")
    key = PublicKey.from_line((tmp_path / "se" / "keys" / "host.pub").read_text().strip())
    assert (row["name"], row["fingerprint"], row["internal_address"]) == ("se-1", key.fingerprint, "127.64.1.0")
    history = [str(record["event"]) for record in controller.listed("audit")]
    assert (history.count("join.reserved"), history.count("join.committed")) == (1, 1)
    # 3. its end
    controller.cli("node", "remove", "se-1").refused("FL-DAEMON-ANSWER")
    killed.ended()
    killed.starts()
    assert not controller.node("se-1")
    controller.cli("node", "remove", "se-1").refused("FL-NODE-UNKNOWN")
    controller.cli("audit", "verify").done()


def test_2_a_join_that_is_killed_after_each_change_of_its_folder_makes_one_node(
        tmp_path: Path, suicide: dict[str, str]) -> None:
    with Site(tmp_path) as site:
        controller = site.controller()
        engine = site.daemon("engine", "se-1", tmp_path / "se", a_view())
        bundle = site.bundle(controller)
        join = ["engine", "join", bundle, "--name", "se-1", "--view", engine.view]
        for change in itertools.count(1):
            result = fairlead(*join, state=engine.state, env=suicide | {"KILL_AT": f"change {change}"})
            if result.code == 0:
                break
            assert result.code == -SIGKILL, result
        assert change >= 8
        assert not bundle.exists()
        assert not list((engine.state / "pending").glob("*"))
        engine.start()
        until(lambda: controller.node("se-1")["state"] == "up", "the engine is up")
        assert [row["role"] for row in controller.listed("node")] == ["leader", "engine"]
        assert [row["state"] for row in controller.listed("token")] == ["redeemed"]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 12))


def test_3_a_controller_whose_disk_is_full_reads_and_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    need("mount", "umount")
    if os.geteuid() != 0:
        lacking("mounting needs root")
    with small_disk(tmp_path / "ctl") as disk, Site(tmp_path) as site:
        controller = site.controller()
        site.engine(controller, "se-0")
        bundle = site.bundle(controller)
        fill(disk / "filler")
        # what is there is read, nothing new is taken in, and people are told
        controller.cli("bundle", "export", "--role", "engine").refused("FL-STORE")
        controller.cli("node", "remove", "se-0").refused("FL-STORE")
        assert controller.node("se-0")["state"] == "up"
        until(lambda: any("FL-STORE" in p for p in controller.get("/api/status")["problems"]), "the problem is named")
        # a join waits until there is room
        with command("engine", "join", bundle, "--name", "se-1", state=tmp_path / "se-1") as join:
            try:
                assert join.stderr is not None
                tries = (line for line in join.stderr if "exchanging keys" in line)
                assert next(tries)
                assert next(tries), "the first came to nothing"
                assert controller.node("se-1") == {}
                (disk / "filler").unlink()
                _, said = join.communicate(timeout=240)
            finally:
                join.kill()
        assert join.returncode == 0, said
        assert [row["name"] for row in controller.listed("node")] == ["ctl", "se-0", "se-1"]
        until(lambda: not controller.get("/api/status")["problems"], "all is well again")
        # killed while it is full: nothing that was answered is lost
        fill(disk / "filler")
        controller.cli("bundle", "export", "--role", "engine").refused("FL-STORE")
        controller.signal(SIGKILL)
        controller.ended()
        (disk / "filler").unlink()
        controller.start()
        assert [row["name"] for row in controller.listed("node")] == ["ctl", "se-0", "se-1"]
        assert {row["state"] for row in controller.listed("token")} == {"redeemed"}
        controller.cli("audit", "verify").done()
        controller.cli("node", "remove", "se-0").done()
