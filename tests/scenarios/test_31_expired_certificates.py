"""A certificate that has expired makes no bricks: engines stay, come back, and there is a way back that all believe.

The daemons' clocks run ahead (faketime), so that certificates end under their hands.
"""

import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.clock import DAY, SECOND
from fairlead.enrol.trust import load as load_trust
from fairlead.keys.wire import from_b64
from fairlead.pki.certificate import SERVER_LIFETIME, der_of, validity
from fairlead.pki.pair import leaf_fault
from tests.conftest import need
from tests.pki import Organisation
from tests.processes import Daemon, Site, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]
OWN = "System-Default-Secure-Channel-Cert"
LIFE_S = SERVER_LIFETIME // SECOND


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    need("faketime")
    with Site(tmp_path) as made:
        yield made


def ahead(*daemons: Daemon, seconds: int) -> None:
    """From their next start on."""
    for daemon in daemons:
        daemon.before = ["faketime", "-f", f"+{seconds}"]


def problems(daemon: Daemon) -> list[str]:
    said: list[str] = daemon.get("/api/status")["problems"]
    return said


def up(controller: Daemon, name: str) -> None:
    until(lambda: controller.node(name)["state"] == "up", f"{name} is up")


def events(controller: Daemon, event: str) -> list[Any]:
    return [r for r in controller.cli("audit", "list", "--json").done().json if r["event"] == event]


def test_engines_stay_and_come_back_while_the_portals_certificate_is_over_and_then_it_is_made_anew(
        site: Site) -> None:
    born = time.time()
    controller = site.controller(renew_certificates=False)
    engine = site.engine(controller, "se-1")
    for daemon in (engine, controller):
        daemon.stop()
    ahead(controller, engine, seconds=LIFE_S - int(time.time() - born) - 12)
    controller.start()
    assert any("[FL-CERT-EXPIRES]" in line for line in until(lambda: problems(controller), "a hint"))
    assert controller.get("/api/status")["healthy"]
    engine.start()
    up(controller, "se-1")
    until(lambda: any("[FL-CERT-EXPIRED]" in line for line in problems(controller)), "it is over")
    for _ in range(2):
        up(controller, "se-1")
        for daemon in (controller, engine):
            daemon.signal(signal.SIGTERM)
            daemon.ended()
        controller.start()
        engine.start()
    up(controller, "se-1")
    assert any("[FL-CERT-EXPIRED]" in line for line in problems(controller))
    late = site.daemon("engine", "se-2", site.folder / "se-2", "127.200.0.0/20")
    ahead(late, seconds=LIFE_S)
    bundle = site.bundle(controller)
    late.cli("engine", "join", bundle, "--name", "se-2", "--view", late.view).refused("FL-TIME-SKEW", alone=False)

    controller.signal(signal.SIGTERM)
    controller.ended()
    controller.configure(renew_certificates=True)
    controller.start()
    assert not any("FL-CERT" in line for line in problems(controller))
    assert {r["subject"] for r in events(controller, "certificate.renewed")} == {"secure-channel", "api"}
    late.cli("engine", "join", bundle, "--name", "se-2", "--view", late.view).done()
    up(controller, "se-1")


def presented(controller: Daemon, port: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", controller.ports[port])))


def test_a_month_ahead_a_running_controller_presents_another_under_the_same_root(site: Site) -> None:
    born = time.time()
    controller = site.controller()
    controller.stop()
    month = 30 * DAY // SECOND
    ahead(controller, seconds=LIFE_S - month - int(time.time() - born) - 4)
    controller.start()
    before = {port: presented(controller, port) for port in ("portal", "api")}
    until(lambda: len(events(controller, "certificate.renewed")) == 2, "both are made anew")
    until(lambda: all(presented(controller, port) != shown for port, shown in before.items()), "both are presented")
    assert not any("FL-CERT" in line for line in problems(controller))
    ca = from_b64(load_trust(controller.state).ca_certificates[0])
    assert leaf_fault(presented(controller, "portal"), ca, load_trust(controller.state).tls_name) == ""


def test_an_organisation_s_that_is_over_is_left_by_a_rotation_with_an_engine_attached(site: Site) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    organisation = Organisation(site.folder / "pki")
    name = load_trust(controller.state).tls_name
    request = controller.cli("cert", "csr", "--name", "corporate", "--common-name", "portal", "--san", name).done().out
    leaf = organisation.signed(request, days=2)
    over = validity(der_of(leaf.read_bytes()))[1] // SECOND
    controller.cli("cert", "import", "--name", "corporate", "--certificate", leaf, "--chain",
                   organisation.chain).done()
    controller.cli("rotate", "start", "secure-channel", "--to", "corporate", "--wait").done()
    for daemon in (engine, controller):
        daemon.stop()
    ahead(controller, engine, seconds=over - int(time.time()) - 12)
    controller.start()
    engine.start()
    up(controller, "se-1")
    until(lambda: any("[FL-CERT-EXPIRED]" in line for line in problems(controller)), "it is over")
    controller.cli("cert", "use", OWN).refused("FL-CHANNEL-PRECONDITION")
    controller.cli("rotate", "start", "secure-channel", "--to", OWN, "--wait").done()
    until(lambda: not problems(controller), "all is well")
    up(controller, "se-1")
    assert load_trust(engine.state).ca_certificates == load_trust(controller.state).ca_certificates
    late = site.daemon("engine", "se-2", site.folder / "se-2", "127.200.0.0/20")
    late.before = controller.before
    late.cli("engine", "join", site.bundle(controller), "--name", "se-2", "--view", late.view).done()
