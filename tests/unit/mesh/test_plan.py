"""Plans: exactly what policy grants, and no more than the reader needs."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.mesh.plan import Listener, hosts, listeners, names, plan_for, same
from fairlead.nodes.address import View
from fairlead.nodes.node import Node, State
from fairlead.nodes.policy import owns, reachable, refusal
from fairlead.nodes.service import STORE_SERVICES, Service
from tests.unit.nodes.test_policy import CTL_1, CTL_2, NODES, SE_1, SE_2, node, service
from tests.world import denied

STATES: st.SearchStrategy[State] = st.sampled_from(["up", "up", "up", "joining", "frozen", "removed"])
SITES = st.dictionaries(st.just("site"), st.sampled_from(["lab", "labs"]), max_size=1)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Node], list[Service]]:
    nodes = [node(f"ctl-{i}", "controller", draw(STATES), draw(SITES)) for i in range(1, draw(st.integers(1, 3)) + 1)]
    nodes += [node(f"se-{i}", "engine", draw(STATES), draw(SITES)) for i in range(1, draw(st.integers(0, 4)) + 1)]
    owners = st.sampled_from([*(n.name for n in nodes), "role:engine", "role:controller", "se-gone"])
    who = st.sampled_from([*(n.name for n in nodes), "engines", "controllers", "site=lab", "site=labs", "se-gone"])
    services = [Service(f"s{i}", draw(owners), draw(st.integers(1, 4)), "127.0.0.1", 80,
                        tuple(draw(st.lists(who, max_size=3)))) for i in range(draw(st.integers(0, 6)))]
    return nodes, services


@given(clusters())
def test_a_plan_reaches_exactly_what_policy_grants(cluster: tuple[list[Node], list[Service]]) -> None:
    nodes, services = cluster
    for me in nodes:
        plan = plan_for(me, nodes, services, generation="g", revision=1)
        granted = {(s.name, o.name, o.internal_address, s.port) for s in services for o in nodes
                   if o is not me and refusal(me, o, s) is None}
        assert {(r.service, r.owner, r.address, r.port) for r in plan.reach} == granted
        assert len(plan.reach) == len(granted)
        assert {s.service for s in plan.serve} == {s.name for s in services if owns(me, s)}
        by_name = {n.name: n for n in nodes}
        for reach in plan.reach:
            assert {me.role, by_name[reach.owner].role} != {"engine"}
            assert me.state == by_name[reach.owner].state == "up"
        if me.role == "engine":
            assert {n.name for n in plan.nodes} <= {me.name, *(n.name for n in nodes if n.role == "controller")}
            assert {n.name for n in plan.nodes} >= {n.name for n in nodes if n.role == "controller" and n.state == "up"}
        assert me.name not in {c.name for c in plan.controllers}
        assert all((by_name[c.name].state == "up" or (me.role == "controller" and by_name[c.name].learning))
                   and by_name[c.name].role == "controller" for c in plan.controllers)


def test_an_engines_plan_names_no_other_engine() -> None:
    services = [service("web", "role:engine", 80, "se-2", "controllers"), service("db", "ctl-1", 5432, "se-1", "se-2"),
                service("own", "se-2", 81, "controllers")]
    plan = plan_for(SE_1, NODES, services, generation="g", revision=1)
    text = plan.model_dump_json()
    assert SE_2.name not in text
    assert SE_2.internal_address not in text
    assert [(r.service, r.owner) for r in plan.reach] == [("db", "ctl-1")]


def test_a_plan_of_a_controller() -> None:
    services = [service("metrics", "role:engine", 9100, "controllers"), service("db", "ctl-2", 5432, "ctl-1"),
                replace(service("own", "ctl-1", 80, "engines"), target_host="127.0.0.1", target_port=8080)]
    plan = plan_for(CTL_1, NODES, services, generation="g", revision=3)
    assert [(r.service, r.owner, r.address) for r in plan.reach] == [
        ("db", "ctl-2", "127.64.0.2"), ("metrics", "se-1", "127.64.1.1"), ("metrics", "se-2", "127.64.1.2")]
    assert [(s.service, s.port, s.host, s.target_port, s.allow) for s in plan.serve] == [
        ("own", 80, "127.0.0.1", 8080, ["engines"])]
    assert [(c.name, c.addresses, c.ssh_port) for c in plan.controllers] == [("ctl-2", ["192.0.2.2"], 22)]
    assert (plan.generation, plan.revision, plan.node) == ("g", 3, "ctl-1")


def test_the_order_of_nodes_and_services_makes_no_new_plan() -> None:
    services = [service("a", "ctl-1", 1, "engines"), service("b", "ctl-2", 2, "engines")]
    one = plan_for(SE_1, NODES, services, generation="g", revision=1)
    other = plan_for(SE_1, NODES[::-1], services[::-1], generation="g", revision=2)
    assert one != other
    assert same(one, other)
    assert not same(one, plan_for(SE_1, NODES, services[:1], generation="g", revision=1))
    assert not same(one, other.model_copy(update={"generation": "h"}))


def test_listeners_are_where_this_node_sees_them() -> None:
    services = [service("db", "ctl-1", 5432, "engines"),
                replace(service("web", "se-1", 80, "controllers"), target_port=8080),
                replace(service("there", "se-1", 81, "controllers"), target_host="127.65.1.1")]
    plan = plan_for(SE_1, [CTL_1, CTL_2, SE_1], services, generation="g", revision=1)
    assert listeners(plan, View.parse("127.65.0.0/16")) == [
        Listener("127.65.0.1", 5432, "db", "ctl-1", "127.64.0.1", None),
        Listener("127.65.1.1", 80, "web", "se-1", "127.64.1.1", ("127.0.0.1", 8080))]  # the third listens there itself
    assert [one.host for one in listeners(plan, View())] == ["127.64.0.1", "127.64.1.1", "127.64.1.1"]
    assert denied(lambda: listeners(plan, View.parse("127.65.0.0/24"))) == "FL-VIEW"
    assert all(IPv4Address(one.host).is_loopback for one in listeners(plan, View()))


def test_names_and_hosts() -> None:
    plan = plan_for(SE_1, NODES, [], generation="g", revision=1)
    view = View.parse("127.65.0.0/16")
    assert names(plan, view) == [("127.65.0.1", "ctl-1"), ("127.65.0.2", "ctl-2"), ("127.65.1.1", "se-1")]
    assert hosts(plan, view).splitlines()[0] == "127.65.0.1\tctl-1.fairlead.internal ctl-1"


@pytest.mark.parametrize("state", ["frozen", "joining"])
def test_who_is_not_up_is_in_nobodys_plan(state: str) -> None:
    frozen = replace(CTL_2, state=state, joined_at=0)  # type: ignore[arg-type]
    services = [service("db", "ctl-2", 5432, "engines", "controllers")]
    for me in (CTL_1, SE_1):
        plan = plan_for(me, [CTL_1, frozen, SE_1], services, generation="g", revision=1)
        assert "ctl-2" not in plan.model_dump_json()


def test_a_controller_that_is_not_admitted_takes_part_in_the_store_and_in_nothing_else() -> None:
    learning = replace(CTL_2, state="joining", joined_at=1)
    services = [*STORE_SERVICES, service("db", "ctl-1", 5432, "controllers", "engines"),
                service("shop", "ctl-2", 80, "controllers", "engines")]
    nodes = [CTL_1, learning, SE_1]
    store = {("fairlead-store-peers", 2380)}
    for me, other in ((CTL_1, learning), (learning, CTL_1)):
        plan = plan_for(me, nodes, services, generation="g", revision=1)
        assert {(r.service, r.port) for r in plan.reach if r.owner == other.name} == store
        assert {r.service for r in plan.reach} == {name for name, _ in store}
        assert [c.name for c in plan.controllers] == [other.name]
        assert {(s.host, s.target_port) for s in plan.serve if s.service.startswith("fairlead-")} == {
            (me.internal_address, 2379), (me.internal_address, 2380)}
        assert not [one for one in listeners(plan, View()) if (one.host, one.port) == (me.internal_address, 2379)]
    assert "ctl-2" not in plan_for(SE_1, nodes, services, generation="g", revision=1).model_dump_json(exclude={"reach"})
    not_committed = replace(learning, joined_at=0)
    assert not list(reachable(not_committed, [CTL_1, not_committed], services))
    assert not list(reachable(SE_1, [CTL_1, CTL_2], STORE_SERVICES))
