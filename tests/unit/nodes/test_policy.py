"""Who may reach what: deny by default, engine never to engine."""

from dataclasses import replace

import pytest

from fairlead.nodes.node import Endpoint, Node, State
from fairlead.nodes.policy import allowed, clash, find, owns, reachable, refusal
from fairlead.nodes.service import Service
from tests.world import Role


def node(name: str, role: Role = "engine", state: State = "up", labels: dict[str, str] | None = None) -> Node:
    number = int(name.rpartition("-")[2])
    place = f"127.64.{int(role == 'engine')}.{number}"
    endpoint = Endpoint((f"192.0.2.{number}",), 443, 8443, 22) if role == "controller" else None
    return Node(f"id-{name}", name, role, state, place, "host", "user", 1, endpoint, labels or {})


def service(name: str, owner: str, port: int, *allow: str) -> Service:
    return Service(name, owner, port, "127.0.0.1", port, allow)


CTL_1, CTL_2 = node("ctl-1", "controller"), node("ctl-2", "controller")
SE_1, SE_2 = node("se-1", labels={"site": "lab"}), node("se-2", labels={"site": "labs"})
NODES = [CTL_1, CTL_2, SE_1, SE_2]


@pytest.mark.parametrize(("who", "owner", "allow", "granted"), [
    (SE_1, CTL_1, "engines", True), (SE_1, CTL_1, "se-1", True), (SE_1, CTL_1, "site=lab", True),
    (SE_1, CTL_1, "se-2", False), (SE_1, CTL_1, "controllers", False), (SE_2, CTL_1, "site=lab", False),
    (SE_1, CTL_1, "site", False), (SE_1, CTL_1, "lab", False), (SE_1, CTL_1, "aviseuser", False),
    (CTL_2, CTL_1, "controllers", True), (CTL_2, CTL_1, "ctl-2", True), (CTL_2, CTL_1, "engines", False),
    (CTL_1, SE_1, "controllers", True), (CTL_1, SE_1, "engines", False), (CTL_1, SE_1, "ctl-2", False),
    # engine to engine is not offered, whatever the policy says
    (SE_1, SE_2, "engines", False), (SE_1, SE_2, "se-1", False), (SE_1, SE_2, "site=lab", False),
    # what a node owns itself it has, allowed or not
    (SE_1, SE_1, "controllers", True)])
def test_who_may_reach(who: Node, owner: Node, allow: str, granted: bool) -> None:
    declared = service("db", owner.name, 5432, allow)
    assert (refusal(who, owner, declared) is None) == granted
    found = find(who, NODES, [declared], owner.internal_address, 5432)
    assert (found is not None) == (granted and who is not owner)


def test_nobody_is_allowed_by_default() -> None:
    for who in NODES:
        for owner in NODES:
            if who is not owner:
                assert refusal(who, owner, service("db", owner.name, 1)) is not None


def test_at_a_drained_engine_and_from_it_nothing_begins() -> None:
    ours, theirs = service("db", CTL_1.name, 1, "engines"), service("app", SE_1.name, 2, "controllers")
    drained = replace(SE_1, drained=True)
    assert [reach.service for reach in reachable(SE_1, NODES, [ours, theirs])] == [ours]
    assert list(reachable(drained, NODES, [ours, theirs])) == []
    assert refusal(CTL_1, SE_1, theirs) is None
    assert "drained" in str(refusal(CTL_1, drained, theirs))
    assert owns(drained, theirs), "what is open goes on"


@pytest.mark.parametrize("state", ["joining", "frozen", "removed"])
def test_only_who_is_up_owns_or_reaches(state: State) -> None:
    for role, owner_role in (("engine", "controller"), ("controller", "engine")):
        who, owner = (node(f"n-{i}", r, labels={}) for i, r in ((1, role), (2, owner_role)))  # type: ignore[arg-type]
        declared = service("db", owner.name, 1, "engines", "controllers")
        assert refusal(who, owner, declared) is None
        assert refusal(replace(who, state=state), owner, declared) is not None
        assert refusal(who, replace(owner, state=state), declared) is not None
        assert list(reachable(replace(who, state=state), [who, owner], [declared])) == []


def test_a_role_owns_one_of_each_of_its_nodes() -> None:
    declared = service("metrics", "role:engine", 9100, "controllers")
    assert [r.owner.name for r in reachable(CTL_1, NODES, [declared])] == ["se-1", "se-2"]
    assert not list(reachable(SE_1, NODES, [declared]))
    assert owns(SE_1, declared)
    assert not owns(CTL_1, declared)
    impostor = replace(CTL_2, name="engine")
    assert not owns(impostor, declared)


def test_a_request_names_a_service_by_its_address_or_name_and_never_a_destination() -> None:
    declared = replace(service("db", "ctl-1", 5432, "engines"), target_host="169.254.169.254", target_port=80)
    for host in ("127.64.0.1", "db"):
        found = find(SE_1, NODES, [declared], host, 5432)
        assert found is not None
        assert (found.owner.name, found.address, found.port) == ("ctl-1", "127.64.0.1", 5432)
    for host, port in (("169.254.169.254", 80), ("127.0.0.1", 5432), ("localhost", 5432), ("", 5432), ("*", 5432),
                       ("0.0.0.0", 5432), ("::1", 5432), ("::ffff:127.64.0.1", 5432), ("127.64.0.01", 5432),
                       ("127.64.1", 5432), ("2134900737", 5432), ("ctl-1", 5432), ("DB", 5432), ("db.", 5432),
                       ("127.64.0.1", 80), ("127.64.0.1", 0), ("127.64.0.1", -1), ("127.64.1.2", 5432),
                       ("127.64.0.2", 5432)):
        assert find(SE_1, NODES, [declared], host, port) is None, host


def test_the_entry_that_lets_in_is_named() -> None:
    assert allowed(SE_1, service("db", "ctl-1", 1, "se-9", "site=lab", "engines")) == "site=lab"
    assert allowed(SE_1, service("db", "ctl-1", 1, "se-9")) is None


def test_a_label_cannot_pass_for_a_name_or_a_role() -> None:
    sly = replace(SE_1, labels={"engines": "x", "ctl-2": "", "": "controllers"})
    for who in ("ctl-2", "controllers", "engines=y"):
        assert allowed(sly, service("db", "ctl-1", 1, who)) is None


@pytest.mark.parametrize(("new", "other", "clashes"), [
    (("a", "ctl-1", 80), ("b", "ctl-1", 80), True), (("a", "ctl-1", 80), ("b", "ctl-1", 81), False),
    (("a", "ctl-1", 80), ("b", "ctl-2", 80), False), (("a", "ctl-1", 80), ("b", "role:controller", 80), True),
    (("a", "role:controller", 80), ("b", "ctl-2", 80), True), (("a", "role:engine", 80), ("b", "ctl-2", 80), False),
    (("a", "role:engine", 80), ("b", "role:engine", 80), True), (("a", "se-9", 80), ("b", "se-9", 80), True),
    (("a", "ctl-1", 80), ("a", "ctl-1", 80), False)])
def test_two_services_never_share_a_place(
        new: tuple[str, str, int], other: tuple[str, str, int], clashes: bool) -> None:
    assert (clash(service(*new), [service(*other)], NODES) is not None) == clashes
