"""A bundle gets to engines: brought up, fetched through the mesh, killed halfway, gone on with."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.cli.images import upload
from fairlead.client.control import ControlClient
from tests.processes import Daemon, Site, fairlead, surroundings, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]
SIZE = 40 * 1024 * 1024


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def fetching(engine: Daemon, sha256: str, size: int, root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", "tests.fetcher", engine.state, sha256, str(size), root],
                            env=surroundings(), stdout=subprocess.PIPE, text=True)


def come(node: Daemon, sha256: str) -> int:
    return sum(path.stat().st_size for path in (node.state / "images").glob(f"{sha256}*"))


def test_a_bundle_gets_to_every_engine_whoever_is_killed_meanwhile(site: Site, tmp_path: Path) -> None:
    controller = site.controller()
    engines = [site.engine(controller, f"se-{number}") for number in (1, 2)]
    payload, bundle, keys = tmp_path / "payload", tmp_path / "second.bundle", tmp_path / "keys"
    payload.write_bytes(os.urandom(SIZE))
    fairlead("upgrade", "build", "--version", "9.9.9", "--output", bundle, "--demo-keys", keys, payload).done()
    root, size, sha256 = keys / "root.json", bundle.stat().st_size, hashlib.sha256(bundle.read_bytes()).hexdigest()
    # 1. without a root nothing begins; a root is pinned once
    api = ControlClient(controller.state)
    asked = {"name": "second", "size": size, "sha256": sha256}
    with pytest.raises(Exception, match="whose upgrade bundles"):
        api.post("/api/image", asked)
    controller.cli("upgrade", "trust", root).done()
    fairlead("upgrade", "build", "--version", "9.9.9", "--output", tmp_path / "evil", "--demo-keys", tmp_path / "k2",
             bundle).done()
    controller.cli("upgrade", "trust", tmp_path / "k2" / "root.json").refused("FL-UPGRADE-PINNED")
    # 2. an upload is cut off by a kill of the Controller, and goes on
    image = api.post("/api/image", asked)
    for place in range(0, 8 * 1024 * 1024, 1024 * 1024):
        image = api.send("PUT", f"/api/image/{image['uuid']}/content", bundle.read_bytes()[place:place + 1024 * 1024],
                         offset=place)
    controller.signal(signal.SIGKILL)
    controller.ended()
    controller.start()
    until(lambda: controller.node("se-1")["state"] == "up", "the Controller is back")
    shown = api.get(f"/api/image/{image['uuid']}")
    assert (shown["state"], shown["offset"]) == ("uploading", 8 * 1024 * 1024)
    said = list[str]()
    done = upload(api, bundle, said.append)
    assert (done["uuid"], done["state"], done["version"]) == (image["uuid"], "verified", "9.9.9")
    assert said
    assert said[0] == "22% of second.bundle is there", "it went on, and did not begin again"
    # 3. attack: somebody else's bundle is refused, and nothing of it is kept
    with pytest.raises(Exception, match=r"root|sign"):
        upload(api, tmp_path / "evil", said.append)
    assert [one["name"] for one in api.get("/api/image")["results"]] == ["second"]
    # 4. both engines fetch; one is killed halfway, and goes on from there
    for engine in engines:
        engine.stop()
    first, second = (fetching(engine, sha256, size, root) for engine in engines)
    until(lambda: come(engines[0], sha256) > 2 * 1024 * 1024, "it has begun")
    first.kill()
    first.communicate()
    there = come(engines[0], sha256)
    assert 0 < there < size
    again = fetching(engines[0], sha256, size, root)
    assert again.communicate(timeout=120)[0].split()[-2:] == ["9.9.9", str(size - there)]
    assert second.communicate(timeout=120)[0].split()[-2:] == ["9.9.9", str(size)]
    for engine in engines:
        assert hashlib.sha256((engine.state / "images" / sha256).read_bytes()).hexdigest() == sha256
    # 5. all of it is on record
    events = [record["event"] for record in controller.get("/api/audit?limit=1000")["results"]]
    assert {"upgrade.root-pinned", "image.verified", "image.refused", "upgrade.seen-raised"} <= set(events)
    controller.cli("audit", "verify").done()
