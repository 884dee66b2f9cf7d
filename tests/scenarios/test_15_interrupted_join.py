"""A join is interrupted at each of its steps: the same bundle goes on with the same keys, and makes one node."""

import contextlib
import json
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL
from threading import Event

import pytest

from fairlead.keys.ssh import PublicKey
from tests.processes import Daemon, Site, an_address, command, fairlead, relay, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


class Between:
    """A Controller's public address: whoever joins meets this, which may hold, drop or pass what it sees."""

    def __init__(self, site: Site, controller: Daemon) -> None:
        self.site = site
        self.controller = controller
        self.portal_passes: Callable[[bytes], bool] = lambda _: True
        self.ssh_passes: Callable[[bytes], bool] = lambda _: True
        self.ssh_open = Event()
        self.ssh_dialled = Event()

    def portal(self, sock: socket.socket) -> None:
        relay(sock, ("127.0.0.1", self.controller.ports["portal"]), self.portal_passes)

    def ssh(self, sock: socket.socket) -> None:
        self.ssh_dialled.set()
        self.ssh_open.wait()
        relay(sock, ("127.0.0.1", self.controller.ports["ssh"]), self.ssh_passes)

    def history(self) -> list[str]:
        """Every event of the audit log."""
        return [str(row["event"]) for row in self.controller.listed("audit")]


@pytest.fixture
def between(world: Between) -> Between:
    world.portal_passes = world.ssh_passes = lambda _: True
    world.ssh_open.set()
    world.ssh_dialled.clear()
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Between]:
    with Site(tmp_path_factory.mktemp("site")) as site, contextlib.ExitStack() as gates:
        address = an_address()
        controller = site.controller(address=address)
        world = Between(site, controller)
        gates.enter_context(serving(world.portal, address, controller.ports["portal"]))
        gates.enter_context(serving(world.ssh, address, controller.ports["ssh"]))
        yield world


def test_1_a_lost_reply_costs_nothing(between: Between, tmp_path: Path) -> None:
    bundle = between.site.bundle(between.controller)
    lost = Event()

    def lose_the_answer(_: bytes) -> bool:
        if not lost.is_set() and any(row["state"] == "reserved" for row in between.controller.listed("token")):
            lost.set()
            return False
        return True

    between.portal_passes = lose_the_answer
    fairlead("engine", "join", bundle, "--name", "se-lost", state=tmp_path / "se").done()
    assert lost.is_set()
    assert len(between.controller.events("join.repeated")) == 1
    assert between.history()[-2:] == ["join.reserved", "join.committed"]
    assert [row["name"] for row in between.controller.listed("node")].count("se-lost") == 1


@pytest.mark.parametrize("committed", [False, True], ids=["before commit", "after commit"])
def test_2_a_killed_join_goes_on_with_the_same_keys(between: Between, tmp_path: Path, committed: bool) -> None:
    bundle, state, name = between.site.bundle(between.controller), tmp_path / "se", f"se-killed-{committed}".lower()
    join = ["engine", "join", bundle, "--name", name]
    if committed:
        between.ssh_passes = lambda _: "join.committed" not in between.history()[-1:]
    else:
        between.ssh_open.clear()
    with command(*join, state=state) as process:
        try:
            until(between.ssh_dialled.is_set, "the engine dials SSH")
            if committed:
                until(lambda: between.history()[-1] == "join.committed", "the join is committed")
            journal = state / "pending" / "join.json"
            assert stat.S_IMODE(journal.stat().st_mode) == 0o600
            assert json.loads(bundle.read_text())["token"] not in Path(f"/proc/{process.pid}/cmdline").read_text()
        finally:
            process.send_signal(SIGKILL)
        assert process.wait() == -SIGKILL
    assert not (state / "trust.json").exists()
    fingerprint = between.controller.node(name)["fingerprint"]
    assert between.controller.node(name)["state"] == ("down" if committed else "joining")

    between.ssh_passes = lambda _: True
    between.ssh_open.set()
    fairlead(*join, state=state).done()
    assert not journal.parent.exists()
    assert not bundle.exists()
    assert between.controller.node(name)["fingerprint"] == fingerprint
    assert PublicKey.from_line((state / "keys" / "host.pub").read_text().strip()).fingerprint == fingerprint
    assert [row["name"] for row in between.controller.listed("node")].count(name) == 1

