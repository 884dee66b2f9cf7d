"""Messages of the link: understood in full or refused."""

import math
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from fairlead.link.messages import (
    Acknowledge,
    Draining,
    Frozen,
    Heartbeat,
    Hello,
    Metrics,
    MetricsWanted,
    NewPlan,
    Plan,
    PlanController,
    PlanNode,
    PlanReach,
    PlanServe,
    Removed,
    StreamsWanted,
    Welcome,
    from_controller,
    from_engine,
)
from fairlead.link.metrics import METRICS, NAMES
from tests.world import denied

PLAN = Plan(generation="g", revision=7, node="se-1", internal_address="127.64.1.0",
            nodes=[PlanNode(name="ctl-1", role="controller", internal_address="127.64.0.1")],
            controllers=[PlanController(node_id="i", name="ctl-1", addresses=["192.0.2.10"], ssh_port=22,
                                        portal_port=8443, internal_address="127.64.0.1", host_key="h", user_key="u")],
            reach=[PlanReach(service="db", owner="ctl-1", address="127.64.0.1", port=5432)],
            serve=[PlanServe(service="web", port=80, host="127.0.0.1", target_port=8080, allow=["controllers"])])
OF_ENGINES: list[BaseModel] = [
    Hello(v=1, software="fairlead/1", instance="i", generation="g", plan_revision=0),
    Acknowledge(revision=7, problems=["x"]),
    Heartbeat(sequence=1, time=2, problems=[]),
    Metrics(values={"load1": 0.5, "streams": 3})]
OF_CONTROLLERS: list[BaseModel] = [
    Welcome(v=1, epoch=3, server_time=4, heartbeat_s=5.0), NewPlan(plan=PLAN), Heartbeat(sequence=1, time=2),
    StreamsWanted(), Removed(), Frozen(), Draining(),
    MetricsWanted(every_s=15.0, names=["load1", "of_another_version"])]


def fields(message: BaseModel) -> dict[str, Any]:
    return message.model_dump()


def test_a_next_host_key_is_there_only_while_there_is_one() -> None:
    assert "next_host_key" not in PLAN.model_dump()["controllers"][0]
    assert "next_host_key" not in PLAN.model_dump_json()
    changing = PLAN.model_copy(update={"controllers": [
        PLAN.controllers[0].model_copy(update={"next_host_key": "n"})]})
    assert changing.model_dump()["controllers"][0]["next_host_key"] == "n"
    assert from_controller(fields(NewPlan(plan=changing))) == NewPlan(plan=changing)


@pytest.mark.parametrize("message", OF_ENGINES, ids=lambda m: type(m).__name__)
def test_an_engine_says(message: BaseModel) -> None:
    assert from_engine(fields(message)) == message
    if not isinstance(message, Heartbeat):
        assert denied(lambda: from_controller(fields(message))) == "FL-LINK-MESSAGE"


@pytest.mark.parametrize("message", OF_CONTROLLERS, ids=lambda m: type(m).__name__)
def test_a_controller_says(message: BaseModel) -> None:
    assert from_controller(fields(message)) == message
    if not isinstance(message, Heartbeat):
        assert denied(lambda: from_engine(fields(message))) == "FL-LINK-MESSAGE"


@pytest.mark.parametrize("message", OF_ENGINES, ids=lambda m: type(m).__name__)
def test_a_field_too_many_or_too_few_or_of_another_type(message: BaseModel) -> None:
    good = fields(message)
    bad = [good | {"node": "se-2"}, good | {"kind": good["kind"].upper()},
           {k: v for k, v in good.items() if k != "kind"}]
    for name, value in good.items():
        bad.append(good | {name: {"x": 1}})
        if isinstance(value, int):
            bad += [good | {name: str(value)}, good | {name: value + 0.5}, good | {name: True}, good | {name: None}]
    for one in bad:
        assert denied(partial(from_engine, one)) == "FL-LINK-MESSAGE", one


@pytest.mark.parametrize("message", [
    {}, {"kind": None}, {"kind": []}, {"kind": {}}, {"kind": "x" * 10_000}, {"kind": "\x1b[2J"},
    {"kind": "acknowledge", "revision": 1, "problems": ["x"] * 1001}, {"kind": "heartbeat", "sequence": 1, "time": 1,
                                                                      "problems": ["x"] * 1001},
    {"kind": "hello", "v": 1, "software": "x" * 65, "generation": "g", "plan_revision": 0}])
def test_what_cannot_be_understood(message: dict[str, Any]) -> None:
    assert denied(lambda: from_engine(message)) == "FL-LINK-MESSAGE"
    assert denied(lambda: from_controller(message)) == "FL-LINK-MESSAGE"


def test_a_plan_is_read_in_full_or_not_at_all() -> None:
    good = fields(NewPlan(plan=PLAN))
    for part in ("nodes", "controllers", "reach", "serve"):
        entry = good["plan"][part][0]
        for broken in (entry | {"x": 1}, {**dict(list(entry.items())[1:])}):
            bad = {"kind": "plan", "plan": good["plan"] | {part: [broken]}}
            assert denied(partial(from_controller, bad)) == "FL-LINK-MESSAGE"


@pytest.mark.parametrize("values", [
    {"load1": math.nan}, {"load1": math.inf}, {"load1": -1.0}, {"load1": 2.0**63}, {"load1": 10**400},
    {"load1": "1"}, {"load1": True}, {"load1": None}, {"load1": [1.0]}, {"LOAD1": 1.0}, {"": 1.0},
    {'load1{engine="se-2"}': 1.0}, {"load1\nfairlead_up": 1.0}, {f"load{n}": 1.0 for n in range(100_000)}, [], None, 7])
def test_attack_numbers_that_are_none_and_names_that_nobody_knows(values: Any) -> None:
    assert denied(lambda: from_engine({"kind": "metrics", "values": values})) == "FL-LINK-MESSAGE"


@pytest.mark.parametrize("more", [{"engine": "se-2"}, {"node": "se-2"}, {"node_id": "2"}, {"name": "se-2"}])
def test_attack_no_numbers_are_somebody_elses(more: dict[str, str]) -> None:
    assert denied(lambda: from_engine({"kind": "metrics", "values": {}} | more)) == "FL-LINK-MESSAGE"


def test_every_number_has_its_meaning() -> None:
    assert set(METRICS) == set(NAMES)
