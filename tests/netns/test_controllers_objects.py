"""Objects of the API in a cluster: every Controller has them, presents what they name, and decides by them.

The tests run in this order, in one town: it begins with one Controller, which exchanges its certificate; others come
after.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from fairlead.base.errors import FairleadError
from fairlead.client.control import ControlClient
from fairlead.pki.verify import unverified_context
from tests.netns.controllers import Town, cluster
from tests.processes import fairlead, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=1, spare=["ctl-2", "se-1", "se-2"]) as made:
        yield made


def api(town: Town, at: str) -> ControlClient:
    return ControlClient(town[at].state)


def presented(town: Town, at: str, port: int) -> str:
    """The certificate that who is asked on that port there presents, PEM."""
    with town.net.hosts["se-1"].inside(), socket.create_connection((town.net.hosts[at].address, port), 10) as plain, \
            unverified_context().wrap_socket(plain, server_hostname="x") as tls:
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")


def make(town: Town, name: str) -> dict[str, Any]:
    made: dict[str, Any] = api(town, "ctl-1").post("/api/sslkeyandcertificate", {
        "name": name, "certificate": {"self_signed": True, "subject": {"common_name": f"{name}.example.com"}}})
    return made


def test_who_comes_in_later_presents_the_certificate_that_was_exchanged_before(town: Town) -> None:
    own = make(town, "own")["certificate"]["certificate"]
    api(town, "ctl-1").put("/api/systemconfiguration", {
        "secure_channel_configuration": {"sslkeyandcertificate_refs": ["/api/sslkeyandcertificate?name=own"]}})
    assert presented(town, "ctl-1", 8443) == own
    town.join("controller", "ctl-2").done()
    town["ctl-2"].start()
    town.until_well("ctl-1", "ctl-2", at="ctl-1")
    assert until(lambda: presented(town, "ctl-2", 8443) == own, "ctl-2 presents it")
    with pytest.raises(FairleadError) as refused:
        api(town, "ctl-2").put("/api/systemconfiguration", {})
    assert (refused.value.code, "ctl-1, ctl-2" in str(refused.value)) == ("FL-CHANNEL-PRECONDITION", True)


@pytest.mark.parametrize(("engine", "at"), [("se-1", "ctl-1"), ("se-2", "ctl-2")])
def test_an_engine_joins_by_a_token_of_either_and_both_show_its_mapping(town: Town, engine: str, at: str) -> None:
    asked = api(town, at)
    made = town.node("engine", engine)
    fairlead("engine", "join", "--from-env", "--name", engine, state=made.state, before=made.before, env={
        "AVICNTRL": town.net.hosts[at].address, "AVICNTRL_CLUSTERUUID": asked.get("/api/cluster")["uuid"],
        "AVICNTRL_AUTHTOKEN": asked.get("/api/securetoken-generate")["auth_token"]}).done()
    made.start()
    for controller in ("ctl-1", "ctl-2"):
        def status(controller: str = controller) -> bool:
            found = api(town, controller).get("/api/securechannelmapping")["results"]
            return any((m["status"], m["metadata"][0]["val"]) == ("SECURE_CHANNEL_CONNECTED", engine) for m in found)

        assert until(status, f"{controller} shows the mapping")


def test_what_one_changes_the_other_one_heeds(town: Town) -> None:
    portal = make(town, "portal")["certificate"]["certificate"]
    api(town, "ctl-2").patch("/api/systemconfiguration", {"replace": {"portal_configuration": {
        "sslkeyandcertificate_refs": ["/api/sslkeyandcertificate?name=portal"]}}})
    for controller in ("ctl-1", "ctl-2"):
        assert until(lambda at=controller: presented(town, at, 443) == portal, "both present it")  # type: ignore[misc]
    api(town, "ctl-1").patch("/api/controllerproperties", {"replace": {"secure_channel_se_token_timeout": 30}})
    until(lambda: api(town, "ctl-2").get("/api/controllerproperties")["secure_channel_se_token_timeout"] == 30, "heard")
    engine = api(town, "ctl-2").get("/api/serviceengine", name="se-2")["results"][0]
    api(town, "ctl-2").delete(f"/api/securechannelmapping/{engine['uuid']}")
    town["se-2"].ended()
    assert api(town, "ctl-1").get("/api/serviceengine")["count"] == 1
