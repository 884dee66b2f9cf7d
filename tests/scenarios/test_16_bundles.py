"""Bundles in the wrong hands: each is refused for what it is, nothing is half done, and honest engines come through."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import Daemon, Result, Site, ask, echo, fairlead, free_port, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


@dataclass(frozen=True)
class Home:
    site: Site
    controller: Daemon

    def names(self) -> set[str]:
        """Of all nodes but the Controller."""
        return {str(row["name"]) for row in self.controller.listed("node")} - {"ctl"}

    def token(self, bundle: Path) -> dict[str, object]:
        """The row of *bundle*'s token; its id is the first part of the token string."""
        text = str(json.loads(bundle.read_text())["token"]).removeprefix("flj1_")
        identity = base64.urlsafe_b64decode(text)[:16].hex()
        return next(row for row in self.controller.listed("token") if row["id"] == identity)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield Home(site, site.controller())


def join(state: Path, bundle: Path, name: str, *options: str) -> Result:
    return fairlead("engine", "join", bundle, "--name", name, *options, state=state)


def test_1_a_used_bundle_in_other_hands_freezes_the_young_engine_until_it_is_released(home: Home) -> None:
    controller, site = home.controller, home.site
    bundle = site.bundle(controller)
    stolen = Path(shutil.copy(bundle, site.folder / "stolen"))
    engine = site.daemon("engine", "se-1", site.folder / "se-1", "127.254.240.0/20")
    join(engine.state, bundle, "se-1", "--view", engine.view).done()
    engine.start()
    with serving(echo) as target:
        port = free_port()
        controller.cli("service", "add", "db", "--node", "se-1", "--port", port, "--target", f"127.0.0.1:{target}",
                       "--allow", "controllers").done()
        here = controller.see(str(controller.node("se-1")["internal_address"]))
        assert until(lambda: ask(here, port), "1. the honest engine serves") == b"?"

        said = join(site.folder / "thief", stolen, "se-1").refused("FL-JOIN-CONFLICT", alone=False)
        fingerprint = str(controller.node("se-1")["fingerprint"])
        assert fingerprint in said, "2. the refusal names who came first"
        assert not (site.folder / "thief" / "trust.json").exists()
        until(lambda: controller.node("se-1")["state"] == "frozen", "3. the young engine is frozen")
        until(lambda: engine.get("/api/status")["state"] == "frozen", "4. and knows it")
        assert ask(here, port) == b""
        assert "join.interception-late" in [row["event"] for row in controller.listed("audit")]

        controller.cli("node", "release", "se-1", "--fingerprint", "SHA256:" + "A" * 43).refused("FL-NODE-FINGERPRINT")
        controller.cli("node", "release", "se-1", "--fingerprint", engine.get("/api/status")["fingerprint"]).done()
        assert until(lambda: ask(here, port), "5. it is back after its fingerprint was compared") == b"?"


def test_2_expired_and_revoked_tokens_are_worth_nothing(home: Home, tmp_path: Path) -> None:
    before = home.names()
    short = home.site.bundle(home.controller, "--ttl", "1s")
    until(lambda: home.token(short)["state"] == "expired", "the token expires")
    join(tmp_path / "expired", short, "se-2").refused("FL-JOIN-EXPIRED", alone=False)
    revoked = home.site.bundle(home.controller)
    home.controller.cli("token", "revoke", home.token(revoked)["id"]).done()
    join(tmp_path / "revoked", revoked, "se-2").refused("FL-JOIN-REVOKED", alone=False)
    assert home.names() == before
    assert not short.exists(), "a spent bundle is deleted"


def test_3_a_bundle_is_for_its_role_and_its_node(home: Home, tmp_path: Path) -> None:
    state, before = tmp_path / "se", home.names()
    file = tmp_path / "controller.bundle"
    home.controller.cli("bundle", "export", "--role", "controller", "--output", file).done()
    join(state, file, "se-3").refused("FL-BUNDLE-ROLE")
    bundle = home.site.bundle(home.controller, "--node", "se-3")
    join(state, bundle, "se-4").refused("FL-BUNDLE-NODE")
    assert home.names() == before
    join(state, bundle, "se-3").done()  # neither refusal spent it
    assert home.names() == before | {"se-3"}


def test_4_a_bound_bundle_is_good_where_it_was_asked_for_only(home: Home, tmp_path: Path) -> None:
    asked = fairlead("bundle", "request", "--role", "engine", "--name", "se-5", state=tmp_path / "se-5").done()
    file, bundle = tmp_path / "request", tmp_path / "se-5.bundle"
    file.write_text(asked.out)
    shown = home.controller.cli("bundle", "export", "--for", file, "--output", bundle).done().err
    fingerprint = asked.err.split()[1]
    assert fingerprint in shown
    assert "127.0.0.1" not in bundle.read_text()
    join(tmp_path / "elsewhere", bundle, "se-5").refused("FL-BUNDLE-SEALED")
    fairlead("bundle", "request", "--role", "engine", "--name", "se-5", state=tmp_path / "other").done()
    join(tmp_path / "other", bundle, "se-5").refused("FL-BUNDLE-OTHER")
    assert [row["state"] for row in home.controller.listed("token") if row["node"] == "se-5"] == ["open"]
    join(tmp_path / "se-5", bundle, "se-5").done()
    assert home.controller.node("se-5")["state"] == "down"


def test_5_the_environment_joins_too_and_names_the_cluster(home: Home, tmp_path: Path) -> None:
    fields = json.loads(home.site.bundle(home.controller).read_text())
    env = {"AVICNTRL": f"127.0.0.1:{home.controller.ports['portal']}", "AVICNTRL_AUTHTOKEN": fields["token"],
           "AVICNTRL_CLUSTERUUID": fields["cluster_uuid"], "HTTPS_PROXY": "http://127.0.0.1:9",
           "SSL_CERT_FILE": os.devnull}
    arguments = ("engine", "join", "--from-env", "--name", "se-6")
    other = "00000000-0000-4000-8000-000000000000"
    fairlead(*arguments, state=tmp_path / "se", env=env | {"AVICNTRL_CLUSTERUUID": other}).refused(
        "FL-ENV-CLUSTER", alone=False)
    fairlead(*arguments, state=tmp_path / "se", env=env | {"AVICNTRL_AUTHTOKEN": ""}).refused("FL-ENV")
    changed = fields["token"][:-1] + ("A" if fields["token"][-1] != "A" else "B")
    said = fairlead(*arguments, state=tmp_path / "se", env=env | {"AVICNTRL_AUTHTOKEN": changed})
    assert fields["token"][10:-10] not in said.err
    said.refused("FL-TOKEN-CHECKSUM")
    assert "se-6" not in home.names()
    assert fields["token"] not in fairlead(*arguments, state=tmp_path / "se", env=env).done().err
    assert home.controller.node("se-6")["state"] == "down"
