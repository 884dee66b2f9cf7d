"""Certificates change while engines stay connected: planned, acknowledged, called off; and what is not followed."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pki import Organisation
from tests.processes import Daemon, Result, Site, a_view, until
from tests.streams import numbered

pytestmark = [pytest.mark.timeout(300)]
OWN = "System-Default-Secure-Channel-Cert"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def rotate(controller: Daemon, kind: str, *options: object) -> Result:
    return controller.cli("rotate", "start", kind, "--wait", "--json", *options)


def trust(engine: Daemon) -> Any:
    return json.loads((engine.state / "trust.json").read_text())


def names(controller: Daemon) -> str:
    """What a certificate of the portal has to carry."""
    return f"portal.{trust(controller)['cluster_uuid']}.fairlead.internal"


def brought(controller: Daemon, organisation: Organisation, name: str, *hosts: str) -> None:
    """A certificate of the organisation, for a request that the Controller made."""
    request = controller.cli("cert", "csr", "--name", name, "--common-name", "portal", *(
        option for host in hosts for option in ("--san", host))).done().out
    leaf = organisation.signed(request)
    controller.cli("cert", "import", "--name", name, "--certificate", leaf, "--chain", organisation.chain).done()


def presented(controller: Daemon) -> str:
    """The subject of who issued what the portal presents, by stock openssl."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{controller.ports['portal']}", "-showcerts"], input="",
        capture_output=True, text=True, timeout=20, check=False).stdout
    return next(line.strip() for line in shown.splitlines() if line.strip().startswith("i:"))


def test_the_own_certificates_are_issued_anew(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    for kind in ("api", "secure-channel"):
        assert rotate(controller, kind).done().json["outcome"] == "done", kind
    assert engine.runs


def phases(controller: Daemon) -> list[str]:
    """Those of the rotation that is under way."""
    now = controller.get("/api/rotation")["current"]
    return [step["phase"] for step in now["steps"]] if now else []


def records(controller: Daemon) -> list[str]:
    """What is on record of rotations, in order."""
    return [one["event"] for one in controller.get("/api/audit?limit=200")["results"]
            if one["event"].startswith("rotation.")]


def test_to_an_organisation_s_pki_and_back_with_engines_and_streams(site: Site) -> None:
    controller = site.controller()
    engine, sleeper = site.engine(controller, "se-1"), site.join(controller, "se-2")
    organisation = Organisation(site.folder / "pki")
    brought(controller, organisation, "corporate", names(controller))
    refused = controller.cli("cert", "use", "corporate").refused("FL-CHANNEL-PRECONDITION")
    assert "rotate start secure-channel" in refused
    planned = controller.cli("rotate", "plan", "secure-channel", "--to", "corporate", "--json").done().json
    assert (planned["stranded"], planned["sleeping"]) == ({}, ["se-2"])
    before = site.bundle(controller)
    with numbered(controller, engine) as stream:
        done = rotate(controller, "secure-channel", "--to", "corporate", "--revoke-tokens").done().json
        assert done["outcome"] == "done"
        assert "Example Corp" in presented(controller)
        assert trust(engine)["ca_certificates"] == trust(controller)["ca_certificates"]
        assert len(trust(engine)["ca_certificates"]) == 1
        late = site.daemon("engine", "late", site.folder / "late", engine.view)
        late.cli("engine", "join", before, "--name", "late").refused("FL-JOIN-PEER", alone=False)
        site.engine(controller, "se-3")
        sleeper.start()
        until(lambda: trust(sleeper)["statement"] == trust(controller)["statement"], "the sleeper has caught up")
        assert trust(sleeper)["ca_certificates"] == trust(controller)["ca_certificates"]
        assert rotate(controller, "secure-channel", "--to", OWN).done().json["outcome"] == "done"
        assert "fairlead root" in presented(controller)
        assert trust(sleeper)["ca_certificates"] == trust(controller)["ca_certificates"]
        stream.check()
    assert records(controller) == 2 * [f"rotation.{phase}" for phase in (
        "scheduled", "stage", "distribute", "acknowledge", "cut-over", "retire", "over")]


@pytest.mark.whole
def test_bundles_that_are_out_are_waited_for(site: Site) -> None:
    """One that was made before the new certificate was known joins as long as it lives; then comes the cut."""
    controller = site.controller()
    site.engine(controller, "se-1")
    organisation = Organisation(site.folder / "pki")
    brought(controller, organisation, "corporate", names(controller))
    before = site.bundle(controller)
    begun = controller.cli("rotate", "start", "secure-channel", "--to", "corporate", "--json").done().json
    until(lambda: controller.get("/api/rotation")["current"]["tokens"] == 1, "the bundle is waited for")
    meanwhile = site.bundle(controller)
    controller.cli("rotate", "start", "api").refused("FL-ROTATE-BUSY")
    controller.cli("cert", "use", "corporate").refused("FL-ROTATE-BUSY")
    joined = site.daemon("engine", "se-2", site.folder / "se-2", a_view())
    joined.cli("engine", "join", before, "--name", "se-2", "--view", joined.view).done()
    until(lambda: controller.get("/api/rotation")["past"], "it goes on when the bundle is spent")
    assert controller.get("/api/rotation")["past"][0]["id"] == begun["id"]
    other = site.daemon("engine", "se-3", site.folder / "se-3", a_view())
    other.cli("engine", "join", meanwhile, "--name", "se-3", "--view", other.view).done()
    assert "Example Corp" in presented(controller)


@pytest.mark.whole
def test_an_engine_that_never_acknowledges_turns_it_back(site: Site) -> None:
    controller = site.controller()
    engine, deaf = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    organisation = Organisation(site.folder / "pki")
    brought(controller, organisation, "corporate", names(controller))
    believed = trust(engine)["ca_certificates"]
    deaf.signal(signal.SIGSTOP)
    refused = rotate(controller, "secure-channel", "--to", "corporate", "--patience", "3s")
    assert "se-2 (it has not acknowledged" in refused.refused("FL-ROTATE-BACK", alone=False)
    past = controller.get("/api/rotation")["past"][0]
    assert (past["outcome"], "cut-over" in [step["phase"] for step in past["steps"]]) == ("rolled-back", False)
    until(lambda: trust(engine)["ca_certificates"] == believed, "what was distributed is withdrawn")
    deaf.signal(signal.SIGCONT)
    until(lambda: trust(deaf)["statement"] == trust(controller)["statement"], "the deaf one has caught up")
    assert trust(deaf)["ca_certificates"] == believed
    assert "fairlead root" in presented(controller)


@pytest.mark.whole
@pytest.mark.parametrize("phase", ["scheduled", "acknowledge", "cut-over"])
def test_it_is_called_off_in_each_phase_that_lasts(site: Site, phase: str) -> None:
    controller = site.controller()
    engine, deaf = site.engine(controller, "se-1"), site.engine(controller, "se-2")
    brought(controller, Organisation(site.folder / "pki"), "corporate", names(controller))
    believed = trust(engine)["ca_certificates"]
    if phase == "acknowledge":
        deaf.signal(signal.SIGSTOP)
    controller.cli("rotate", "start", "secure-channel", "--to", "corporate",
                   *(["--at", "60m"] if phase == "scheduled" else [])).done()
    if phase == "cut-over":
        until(lambda: "cut-over" in phases(controller) or controller.get("/api/rotation")["past"], "it cuts over")
        controller.cli("rotate", "abort")
    else:
        until(lambda: phase in phases(controller), phase)
        controller.cli("rotate", "abort").done()
    past = until(lambda: controller.get("/api/rotation")["past"], "it is over")[0]
    deaf.signal(signal.SIGCONT)
    if past["outcome"] == "done":  # it was too late for that
        return
    assert past["outcome"] == "aborted"
    until(lambda: trust(engine)["ca_certificates"] == believed == trust(deaf)["ca_certificates"], "all is as it was")
    assert "fairlead root" in presented(controller)
    assert rotate(controller, "secure-channel", "--to", "corporate").done().json["outcome"] == "done"
