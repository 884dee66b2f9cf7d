"""Controllers that are found elsewhere, and engines that were away: who knows one of them finds all of them again.

The tests run in this order, in one town.
"""

import signal
import socket
import ssl
from collections.abc import Iterator

import pytest

from fairlead.enrol.trust import load
from fairlead.keys.wire import from_b64
from fairlead.pki.verify import client_context
from tests.netns.controllers import Town, cluster
from tests.processes import Daemon, ask, echo, listens, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

ALL = ("ctl-1", "ctl-2", "ctl-3")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=1) as made:
        yield made


def moves(town: Town, name: str, address: str) -> str:
    """The host gets another address, and its Controller's settings name that one only; the address of before."""
    before = town.net.hosts[name].address
    town.net.settle(name, address)
    town[name].configure(addresses=[address])
    return before


def known(node: Daemon, controller: str) -> str:
    """Where that node finds a Controller."""
    return next((str(c["address"]) for c in node.get("/api/status")["controllers"] if c["name"] == controller), "")


def linked(node: Daemon, controller: str, address: str) -> bool:
    """Whether the control connection that it dialled to a Controller is up, at that address."""
    return any((row["peer"], row["kind"], row["direction"], row["state"]) == (controller, "control", "out", "up")
               and str(row["address"]).rpartition(":")[0] == address for row in node.listed("tunnel"))


def presented(town: Town, at: str, address: str, port: int, name: str) -> bool:
    """Whether who answers there, asked from the host *at*, has a certificate of the cluster for *name*."""
    trust = load(town[at].state)
    context = client_context([from_b64(c) for c in trust.ca_certificates])
    with town.net.hosts[at].inside(), socket.create_connection((address, port), 10) as plain:
        try:
            context.wrap_socket(plain, server_hostname=name).close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_1_a_controller_that_moves_while_it_runs_is_found_there_by_all(town: Town) -> None:
    """It has both addresses for a while; then the old one is gone, with all connections that went there."""
    node, new = town["ctl-2"], "10.78.1.2"
    old = moves(town, "ctl-2", new)
    assert not presented(town, "ctl-1", new, 443, new)
    node.signal(signal.SIGHUP)
    for name in ("ctl-1", "ctl-3", "se-1"):
        until(lambda name=name: known(town[name], "ctl-2") == new, f"{name} learns the address")  # type: ignore[misc]
    assert presented(town, "ctl-1", new, 443, new), "whoever has learned the address finds a certificate for it"
    assert presented(town, "ctl-1", new, 8443, load(town["ctl-1"].state).tls_name)
    town.net.desert("ctl-2", old)
    for name in ("ctl-1", "ctl-3", "se-1"):
        until(lambda name=name: linked(town[name], "ctl-2", new), f"{name} has a link there")  # type: ignore[misc]
    town.until_well(*ALL)
    until(lambda: town["ctl-2"].node("se-1")["state"] == "up", "the engine is up there")


def test_2_who_moved_while_it_was_off_is_found_by_those_that_it_finds(town: Town) -> None:
    """The leader, off; and another while the store has no majority, which cannot be told at once.

    The engine is off meanwhile, and then knows one address that is still good.
    """
    engine, leader = town["se-1"], town.until_led("ctl-1")
    other = "ctl-3" if leader != "ctl-3" else "ctl-1"
    (good,) = {*ALL} - {leader, other}
    engine.stop()
    town[leader].stop()
    old = {leader: moves(town, leader, "10.78.1.9")}
    town.net.desert(leader, old[leader])
    town[leader].start()
    until(lambda: known(town[good], leader) == "10.78.1.9", "the others learn the address")
    town.until_well(*ALL)
    old[other] = moves(town, other, "10.78.1.8")
    for name in (leader, good):
        town[name].signal(signal.SIGSTOP)
    try:
        town[other].signal(signal.SIGHUP)
        until(lambda: "[FL-STORE]" in str(town[other].get("/api/status")["problems"]), "it cannot tell anybody")
    finally:
        for name in (leader, good):
            town[name].signal(signal.SIGCONT)
    until(lambda: known(town[good], other) == "10.78.1.8", "the others learn that one too")
    town.net.desert(other, old[other])
    engine.start()
    for name, address in ((leader, "10.78.1.9"), (other, "10.78.1.8")):
        until(lambda name=name, address=address: linked(engine, name, address), f"the engine finds {name}")  # type: ignore[misc]
    town.until_well(*ALL)
    for name in ALL:
        until(lambda name=name: town[name].node("se-1")["state"] == "up", f"the engine is up at {name}")  # type: ignore[misc]


def test_3_an_engine_without_any_controller_goes_on_with_its_plan(town: Town) -> None:
    """Also when it is started meanwhile; and it comes back to each Controller as that comes back."""
    engine, owner = town["se-1"], town["ctl-2"]
    address = owner.node("ctl-2")["internal_address"]

    def asked(question: bytes) -> bytes:
        with town.net.hosts["se-1"].inside():
            return ask(address, 7001, question)

    with town.net.hosts["ctl-2"].inside():
        service = serving(echo)
        port = service.__enter__()
    try:
        owner.cli("service", "add", "words", "--node", "ctl-2", "--port", 7001, "--target", f"127.0.0.1:{port}",
                  "--allow", "engines").done()
        until(lambda: asked(b"before") == b"before", "the service is reached")
        revision = engine.get("/api/status")["plan_revision"]
        for name in ALL:
            town[name].signal(signal.SIGTERM)
        for name in ALL:
            assert town[name].ended() == 0
        until(lambda: engine.get("/api/status")["state"] == "headless", "it is alone")
        engine.stop()
        engine.start()
        shown = engine.get("/api/status")
        assert (shown["state"], shown["plan_revision"]) == ("headless", revision)
        with town.net.hosts["se-1"].inside():
            assert listens(address, 7001)
        assert "words" in {row["name"] for row in engine.listed("service")}
        assert asked(b"alone") == b"", "its stream is cut, not served by anybody"
        for name in ("ctl-3", "ctl-2", "ctl-1"):
            town[name].start()
        town.until_well(*ALL)
        for name in ALL:
            until(lambda name=name: town[name].node("se-1").get("state") == "up", f"it is back at {name}")  # type: ignore[misc]
        assert engine.get("/api/status")["state"] == "up"
        until(lambda: asked(b"after") == b"after", "the service is reached again")
    finally:
        service.__exit__(None, None, None)


def test_4_a_controller_that_was_removed_meanwhile_is_forgotten(town: Town) -> None:
    engine = town["se-1"]
    engine.stop()
    assert {c.name for c in load(engine.state).controllers} == {*ALL}
    town["ctl-1"].cli("node", "remove", "ctl-3").done()
    assert town["ctl-3"].ended() == 0
    town.until_well("ctl-1", "ctl-2")
    engine.start()
    until(lambda: {c["name"] for c in engine.get("/api/status")["controllers"]} == {"ctl-1", "ctl-2"}, "it forgets")
    assert {c.name for c in load(engine.state).controllers} == {"ctl-1", "ctl-2"}
    until(lambda: "ctl-3" not in (engine.state / "plan.json").read_text() + (engine.state / "hosts").read_text(),
          "its new plan knows nothing of it either")
