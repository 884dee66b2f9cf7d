"""Host keys change while engines stay connected: no byte is lost, nobody left behind, and the old key opens nothing."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.processes import Daemon, Site, listens, until
from tests.streams import numbered

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def trust(node: Daemon) -> Any:
    return json.loads((node.state / "trust.json").read_text())


def shown(controller: Daemon) -> str:
    return (controller.state / "keys" / "host.pub").read_text().strip()


def rotate(controller: Daemon, *options: object) -> Any:
    done = controller.cli("rotate", "start", "host-keys", "--wait", "--json", "--revoke-tokens", *options)
    return done.done().json


def pinned(engine: Daemon) -> set[str]:
    return {key for one in trust(engine)["controllers"] for key in (one["host_key"], one["next_host_key"]) if key}


def test_twice_with_a_stream_a_sleeper_and_a_newcomer(site: Site) -> None:
    controller = site.controller()
    engine, sleeper = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    sleeper.stop()
    first = shown(controller)
    with numbered(controller, engine) as stream:
        for _ in range(2):
            before = shown(controller)
            assert rotate(controller)["outcome"] == "done"
            assert shown(controller) != before
            until(lambda: pinned(engine) == {shown(controller)}, "the engine pins the new one alone")
            assert sorted(path.name for path in (controller.state / "keys").glob("host*")) == ["host", "host.pub"]
        assert pinned(sleeper) == {first}
        sleeper.start()
        until(lambda: pinned(sleeper) == {shown(controller)}, "the sleeper has caught up")
        site.engine(controller, "se-3")
        controller.cli("audit", "verify").done()
        stream.check()
    events = [one["event"] for one in controller.get("/api/audit?limit=200")["results"]]
    assert (events.count("host-key.next"), events.count("host-key.retired")) == (2, 2)


@pytest.mark.whole
def test_attack_whoever_answers_with_the_old_key_is_refused(site: Site) -> None:
    """A stock server with the key that was in use, where the Controller was: the engine says nothing to it."""
    need("sshd")
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    stolen = site.folder / "stolen"
    shutil.copy2(controller.state / "keys" / "host", stolen)
    assert rotate(controller)["outcome"] == "done"
    until(lambda: pinned(engine) == {shown(controller)}, "the engine pins the new one alone")
    controller.stop()
    port = controller.ports["ssh"]
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([str(shutil.which("sshd")), "-D", "-e", "-f", "/dev/null", "-h", stolen, "-o",
                           f"ListenAddress=127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as impostor:
        try:
            until(lambda: listens("127.0.0.1", port), "the impostor listens")
            until(lambda: any(one.get("code") == "FL-SSH-HOSTKEY" for one in engine.events("link.failed")),
                  "the engine refuses it")
            assert pinned(engine) == {shown(controller)}
        finally:
            impostor.terminate()
    controller.start()
    until(lambda: controller.node("se-1")["state"] == "up", "the engine is back")
