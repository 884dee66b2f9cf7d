"""The engine's daemon, in parts that need no network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.base.clock import LAST_INSTANT, SECOND, rfc3339
from fairlead.base.errors import OperatorError, Refused
from fairlead.engine.daemon import Engine
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.link.messages import Plan, PlanController
from tests.world import ManualClock


@pytest.mark.parametrize(("said", "later"), [(LAST_INSTANT - 1, 9), (0, -9)], ids=["the-last", "the-first"])
def test_attack_a_time_at_the_end_of_time_can_still_be_written_down(said: int, later: int) -> None:
    """The clock goes on, or is set back, after a Controller has said it."""
    clock = ManualClock()
    engine: Any = SimpleNamespace(clock=clock, _asking=SimpleNamespace(reset=lambda: None))
    Engine.heard(engine, said)
    assert Engine.store_time(engine) == said
    clock.instant += later * SECOND
    assert Engine.store_time(engine) == said
    assert rfc3339(Engine.store_time(engine))


def controller(host_key: str) -> PlanController:
    return PlanController(node_id="1", name="ctl-1", addresses=["192.0.2.1"], ssh_port=22, portal_port=8443,
                          internal_address="127.64.0.1", host_key=host_key, user_key="u")


async def test_a_head_is_judged_by_the_keys_of_now_on_a_link_of_before() -> None:
    """Host keys change under links that stand; a Controller's heads are worth keeping all the same."""
    before, now = (PrivateKey.generate().public.line for _ in range(2))
    taken: list[tuple[PublicKey, ...]] = []

    async def take(_: str, name: str, *keys: PublicKey) -> str:
        taken.append(keys)
        return ""

    engine: Any = SimpleNamespace(witness_of=SimpleNamespace(take=take), _controllers=lambda: [controller(now)])
    await Engine._witness(engine, controller(before), "head")
    assert taken == [(PublicKey.from_line(now),)]


async def test_pins_of_before_give_way_to_the_statement_that_was_kept_without_its_plan() -> None:
    """As when the engine ended between the two writes: no other statement comes, so nothing else would mend it."""
    known = controller("old")
    stated = SimpleNamespace(node_id="1", host_key="new", next_host_key="")
    wanted: list[list[PlanController]] = []

    async def nothing() -> None:
        pass

    async def unread() -> None:
        raise Refused("FL-PEER-PROTOCOL", "no answer")

    engine: Any = SimpleNamespace(
        clock=ManualClock(), _asking=SimpleNamespace(is_due=lambda *_, **__: True), _catch_up=nothing, _reread=unread,
        plan=Plan(node="se-1", internal_address="127.64.1.0", generation="1", revision=1, controllers=[known], nodes=[],
                  reach=[], serve=[]),
        trust=SimpleNamespace(controllers=[stated]), supervisor=SimpleNamespace(want=wanted.append))
    engine._pin = lambda: Engine._pin(engine)
    engine._controllers = lambda: Engine._controllers(engine)
    await Engine._failed(engine, known, OperatorError("FL-SSH-HOSTKEY", "another key"))
    assert [[one.host_key for one in controllers] for controllers in wanted] == [["new"]]


async def test_a_plan_that_is_not_on_the_disk_is_a_problem_until_one_is(tmp_path: Path) -> None:
    async def apply(_: Plan) -> None:
        pass

    nothing = SimpleNamespace(problems=[])
    engine: Any = SimpleNamespace(
        plan=None, state=tmp_path / "no folder", _plan_problem="", documents=SimpleNamespace(problems=[], again=list),
        listeners=nothing, user_keys=nothing, upgrades=nothing, supervisor=SimpleNamespace(want=list), problems=(),
        _remember_controllers=lambda _: None, _apply=apply, _controllers=list)
    plan = Plan(node="se-1", internal_address="127.64.1.0", generation="1", revision=1, controllers=[controller("k")],
                nodes=[], reach=[], serve=[])
    await Engine.follow(engine, plan)
    assert [line for line in problems(engine) if "FL-" in line], "it is in force, and says what is wrong"
    assert engine.plan == plan
    engine.state.mkdir()
    await Engine.follow(engine, plan)
    assert not problems(engine)


def problems(engine: Any) -> list[str]:
    said: list[str] = Engine.problems.fget(engine)  # type: ignore[attr-defined]
    return said
