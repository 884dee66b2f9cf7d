"""The root CA changes with engines and streams attached; and what belonged to the old one is worth nothing."""

import json
import shutil
import signal
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Daemon, Result, Site, fairlead, until
from tests.streams import numbered

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def rotate(controller: Daemon, *options: object) -> Result:
    return controller.cli("rotate", "start", "root-ca", "--wait", "--json", *options)


def trust(node: Daemon) -> Any:
    return json.loads((node.state / "trust.json").read_text())


def believed(controller: Daemon) -> str:
    """The root certificates that are believed, PEM."""
    return controller.cli("cluster", "ca").done().out


def verified(controller: Daemon, port: str, ca: Path) -> bool:
    """Whether what is presented there is by a root of *ca*, as stock openssl sees it."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{controller.ports[port]}", "-CAfile", str(ca), "-no-CApath",
         "-no-CAstore", "-verify_return_error"], input="", capture_output=True, text=True, timeout=20, check=False)
    return "Verify return code: 0 (ok)" in shown.stdout


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_everything_is_signed_anew_and_nobody_notices(site: Site) -> None:
    controller = site.controller()
    engine, sleeper = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    old = written(site.folder / "old.pem", believed(controller))
    sleeper.stop()
    planned = controller.cli("rotate", "plan", "root-ca", "--json").done().json
    assert (planned["stranded"], planned["sleeping"]) == ({}, ["se-2"])
    controller.cli("rotate", "start", "root-ca", "--to", "x").refused("FL-CERT-UNKNOWN")
    with numbered(controller, engine) as stream:
        assert rotate(controller).done().json["outcome"] == "done"
        stream.check()
    new = written(site.folder / "new.pem", believed(controller))
    assert (new.read_text().count("BEGIN"), new.read_text() == old.read_text()) == (1, False)
    for port in ("portal", "api"):
        assert verified(controller, port, new), port
        assert not verified(controller, port, old), port
    root = b64encode(ssl.PEM_cert_to_DER_cert(new.read_text())).decode()
    until(lambda: trust(engine)["statement"] == trust(controller)["statement"], "the engine follows")
    for node in (engine, controller):
        assert trust(node)["roots"] == trust(node)["ca_certificates"] == [root]
    # who slept follows by himself, and a second time as well
    assert rotate(controller).done().json["outcome"] == "done"
    sleeper.start()
    until(lambda: controller.node("se-2")["state"] == "up", "the sleeper is up")
    until(lambda: trust(sleeper)["roots"] == trust(controller)["roots"], "the sleeper follows")
    site.engine(controller, "se-3")
    controller.stop()
    controller.start()
    until(lambda: controller.node("se-1")["state"] == "up", "se-1 comes back to a Controller that was started again")
    controller.cli("audit", "verify").done()


@pytest.mark.whole
def test_it_goes_back_while_somebody_does_not_follow_and_can_be_called_off(site: Site) -> None:
    controller = site.controller()
    engine, deaf = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    old = believed(controller)
    deaf.signal(signal.SIGSTOP)
    rotate(controller, "--patience", "3s").refused("FL-ROTATE-BACK", alone=False)
    assert believed(controller) == old
    controller.cli("rotate", "start", "root-ca").done()
    until(lambda: trust(engine)["statement"] and len(trust(engine)["roots"]) == 2, "the engine believes both")
    assert believed(controller).count("BEGIN") == 2
    controller.cli("rotate", "abort").done()
    until(lambda: len(controller.get("/api/rotation")["past"]) == 2, "it is over")
    assert controller.get("/api/rotation")["past"][0]["outcome"] == "aborted"
    deaf.signal(signal.SIGCONT)
    until(lambda: trust(engine)["roots"] == trust(deaf)["roots"] == trust(controller)["roots"], "all is as it was")
    assert (believed(controller), len(trust(engine)["roots"])) == (old, 1)


@pytest.mark.whole
def test_who_logged_in_from_afar_stays_logged_in(site: Site) -> None:
    controller = site.controller(password="the password of the admin")
    ca, home = written(site.folder / "ca.pem", believed(controller)), site.folder / "home"

    def afar(*arguments: object, given: str | None = None) -> Result:
        return fairlead(*arguments, given=given, env={"XDG_CONFIG_HOME": str(home)})

    url = f"https://127.0.0.1:{controller.ports['api']}"
    afar("login", url, "--ca", ca, "--password-file", "-", given="the password of the admin").done()
    for _ in range(2):
        assert rotate(controller).done().json["outcome"] == "done"
        assert [node["name"] for node in afar("node", "list", "--json").done().json] == ["ctl"]
        assert json.loads((home / "fairlead" / "context.json").read_text())["ca"] == believed(controller)
    other = site.controller("other")  # somebody in between, with the same names and a root of his own
    context = json.loads((home / "fairlead" / "context.json").read_text())
    context["url"] = f"https://127.0.0.1:{other.ports['api']}"
    (home / "fairlead" / "context.json").write_text(json.dumps(context))
    afar("node", "list").refused("FL-AFAR-CA")


@pytest.mark.whole
def test_a_backup_of_before_leads_no_engine_back(site: Site, tmp_path: Path) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    recipient = fairlead("backup", "key", "--output", tmp_path / "identity").done().out.strip()
    controller.cli("backup", "create", "--output", tmp_path / "backup", "--recipient", recipient).done()
    assert rotate(controller).done().json["outcome"] == "done"
    until(lambda: len(trust(engine)["roots"]) == 1, "the engine follows")
    now = trust(engine)
    controller.stop()
    shutil.rmtree(controller.state)
    controller.cli("backup", "restore", tmp_path / "backup", "--identity", tmp_path / "identity", "--view",
                   controller.view, "--listen", "127.0.0.1").done()
    controller.start()
    until(lambda: engine.events("trust.refused"), "the engine is told of the retired root, and refuses")
    assert {event["code"] for event in engine.events("trust.refused")} == {"FL-TRUST-ROOT"}
    assert (trust(engine)["roots"], trust(engine)["ca_certificates"]) == (now["roots"], now["ca_certificates"])
