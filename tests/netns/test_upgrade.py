"""Three Controllers and six engines, 70 ms away, go to a second version of fairlead and back, with streams through
every tunnel; one engine's new version does not work, and only that one goes back, by itself.

A stream may break only while one of its two ends is started anew. Configuration goes on meanwhile.
"""

import contextlib
import itertools
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.errors import FairleadError
from fairlead.base.version import installed
from fairlead.client.control import ControlClient
from tests.netns.controllers import IDLE, Town, cluster
from tests.netns.rotations import ALL
from tests.processes import Daemon, connect, echo, fairlead, serving, until
from tests.second_version import SIGN, build_wheel
from tests.streams import Lasting

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]

NAMES = [f"se-{number}" for number in range(1, 7)]
OWN, SECOND, THIRD = installed(), "0.2.0", "0.3.0"
BROKEN = "se-4"
AROUND_S = 1.0
"""A stream may break so long before an end is logged, or after its start."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("upgrade"), controllers=3, engines=len(NAMES)) as made:
        yield made


def bundle(town: Town, version: str, *, broken: Sequence[str] = ()) -> Path:
    """A bundle of a second version, by the keys of the first one that was made here."""
    folder = town.site.folder / version
    folder.mkdir()
    wheel = build_wheel(folder, version, broken=broken)
    keys, made = town.site.folder / "upgrade-keys", folder / "upgrade.bundle"
    fairlead("upgrade", "build", "--version", version, "--output", made, "--keys" if keys.exists() else "--demo-keys",
             keys, wheel).done()
    return made


def version(node: Daemon) -> str:
    """That runs there; empty while nothing answers."""
    with contextlib.suppress(FairleadError):
        return str(node.get("/api/version")["version"])
    return ""


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def restarts(node: Daemon) -> list[tuple[float, float]]:
    """When it was on its way from one run to the next, from what it has logged."""
    ends = [seconds(one["time"]) for one in node.events(f"{node.role}.stopping")]
    starts = [seconds(one["time"]) for one in node.events(f"{node.role}.ready")]
    return [(end, min((start for start in starts if start > end), default=float("inf"))) for end in ends]


@contextlib.contextmanager
def streams(town: Town) -> Iterator[Mapping[tuple[str, str], Lasting]]:
    """One from each engine to each Controller; judged at the end."""
    found: dict[tuple[str, str], Lasting] = {}
    with contextlib.ExitStack() as after:
        for owner in ALL:
            with town.net.hosts[owner].inside():
                target = after.enter_context(serving(echo))
            name, port = f"numbers-{owner}", town.port()
            ControlClient(town[owner].state, 60.0).post("/api/service", {
                "name": name, "node": owner, "port": port, "target": f"127.0.0.1:{target}", "allow": ["engines"]})
            address = town[owner].node(owner)["internal_address"]
            for engine in NAMES:
                found[engine, owner] = Lasting(partial(_open, town, engine, address, port))
            after.callback(town["ctl-1"].cli, "service", "remove", name)
        for one in found.values():
            one.begin()
        until(lambda: all(one.lines for one in found.values()), "every stream goes on")
        for one in found.values():
            one.broke.clear()  # its listener was not there yet
        yield found
        for (engine, owner), one in found.items():
            one.check()
            windows = [*restarts(town[engine]), *restarts(town[owner])]
            for moment in one.broke:
                assert any(end - AROUND_S <= moment <= start + AROUND_S for end, start in windows), (
                    f"{engine} to {owner} broke at {moment}, when neither was started anew: {windows}")
        sys.stderr.write(f"{sum(one.lines for one in found.values())} lines came back in order; "
                         f"{sum(len(one.broke) for one in found.values())} breaks\n")


def _open(town: Town, engine: str, address: str, port: int) -> socket.socket:
    with town.net.hosts[engine].inside():
        return connect(address, port)


@contextlib.contextmanager
def configuring(town: Town) -> Iterator[list[str]]:
    """Services are declared, at one Controller and another, until the end; names of those that were acknowledged."""
    done, end = list[str](), threading.Event()

    def work() -> None:
        for number in itertools.count():
            if end.wait(0.5):
                return
            with contextlib.suppress(FairleadError):
                town.declare(ALL[number % 3], name := f"during-{len(done)}-{number}", timeout_s=10.0)
                done.append(name)

    town.idle("ctl-1")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        end.set()
        thread.join()
    for at in ALL:
        until(lambda at=at: set(done) <= town.written(at), f"{at} has every write")  # type: ignore[misc]


def rows(town: Town, at: str = "ctl-1") -> dict[str, dict[str, Any]]:
    """`upgrade status`, by node."""
    found = json.loads(town[at].cli("upgrade", "status", "--json").done().out)
    return {row["node"]: row for row in found["nodes"]}


def first_ready(node: Daemon, version: str) -> float:
    """When that version was first ready there."""
    return next(seconds(one["time"]) for one in node.events(f"{node.role}.ready") if one["version"] == version)


def test_1_to_a_second_version(town: Town) -> None:
    file = bundle(town, SECOND)
    town["ctl-2"].cli("upgrade", "trust", town.site.folder / "upgrade-keys" / "root.json").done()
    leader = town.until_led("ctl-1")
    with streams(town), configuring(town) as written:
        town[leader].cli("upgrade", "apply", file, "--batch", "2", "--wait", within_s=500).done()
        before = len(written)
        until(lambda: len(written) > before, "configuration goes on")
    nodes = [*ALL, *NAMES]
    assert {name: version(town[name]) for name in nodes} == dict.fromkeys(nodes, SECOND)
    for name in nodes:
        until(lambda name=name: (town[name].state / "hosts").read_text().startswith(f"{SIGN}{SECOND}"), name)  # type: ignore[misc]
    at = {name: first_ready(town[name], SECOND) for name in nodes}
    followers = [name for name in ALL if name != leader]
    assert max(at[name] for name in followers) < at[leader] < min(at[name] for name in NAMES)
    assert abs(at[followers[0]] - at[followers[1]]) > 1, "one at a time"
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)
    found = rows(town)
    assert found.pop(IDLE)["state"] == "offline"
    assert {name: (row["version"], row["state"]) for name, row in found.items()} == dict.fromkeys(
        nodes, (SECOND, "done"))


def test_2_and_back(town: Town) -> None:
    with streams(town), configuring(town):
        town["ctl-1"].cli("upgrade", "rollback", "--wait", within_s=500).done()
    nodes = [*ALL, *NAMES]
    assert {name: version(town[name]) for name in nodes} == dict.fromkeys(nodes, OWN)
    for name in nodes:
        until(lambda name=name: not (town[name].state / "hosts").read_text().startswith(SIGN), name)  # type: ignore[misc]
    town.until_well(*ALL)
    town.until_up(NAMES, ALL)


def test_3_only_the_engine_whose_new_version_does_not_work_goes_back_and_the_batch_halts(town: Town) -> None:
    file = bundle(town, THIRD, broken=[BROKEN])
    with streams(town):
        refused = town["ctl-1"].cli("upgrade", "apply", file, "--batch", "2", "--wait", within_s=500)
        assert refused.code == 1, refused
        until(lambda: version(town[BROKEN]) == OWN, "it has gone back")
    assert {version(town[name]) for name in ALL} == {THIRD}
    found = rows(town)
    assert (found[BROKEN]["state"], found[BROKEN]["version"]) == ("back", OWN)
    assert "FL-TEST-BROKEN" in found[BROKEN]["why"], found[BROKEN]
    others = {name: version(town[name]) for name in NAMES if name != BROKEN}
    assert set(others.values()) == {OWN, THIRD}, "the batch has halted"
    assert {name for name, row in found.items() if row["state"] in ("back", "failed")} == {BROKEN}
    town.until_up(NAMES, ALL)
