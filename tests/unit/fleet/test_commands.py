"""Commands to engines: words of a catalogue, on record before and after, answered by the engine that was asked."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError
from fairlead.fleet import commands as rooms
from fairlead.fleet.answering import Answering
from fairlead.fleet.commands import MOST_WAITING, Commands
from fairlead.link.messages import AnyFromController, Command, Outcome
from fairlead.nodes.node import Node
from tests.unit.fleet.ring import CTL_3, Ring
from tests.unit.nodes.test_policy import CTL_1, CTL_2, SE_1, SE_2
from tests.unit.transport.world import until
from tests.world import refusal


@dataclass
class House:
    """Two engines, one of them connected; a journal that remembers."""

    entries: list[Entry] = field(default_factory=list)
    told: asyncio.Queue[tuple[str, AnyFromController]] = field(default_factory=asyncio.Queue)

    here: tuple[str, ...] = (SE_1.id,)
    ring: Ring = field(default_factory=Ring)
    me: Node = CTL_1

    def __post_init__(self) -> None:
        directory: Any = self.ring.directory
        nothing: Any = None
        self.commands = Commands(self, self, self, self.ring.others(self.me))  # type: ignore[arg-type]
        self.ring.answers[self.me.name] = Answering(directory, self.commands, nothing, nothing).answer

    def named(self, name: str) -> Node | None:
        return next((node for node in (CTL_1, SE_1, SE_2) if node.name == name), None)

    def linked(self, ability: str) -> list[str]:
        return list(self.here) if ability == "commands/1" else []

    async def append(self, *entries: Entry) -> None:
        self.entries += entries

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        await self.told.put((node_id, message))

    def begin(self, word: str = "status", deadline_s: float = 10.0) -> asyncio.Task[dict[str, Any]]:
        return asyncio.get_running_loop().create_task(self.commands.run("se-1", word, deadline_s, "jane"))

    async def asked(self) -> Command:
        node_id, message = await asyncio.wait_for(self.told.get(), 10)
        assert (node_id, type(message)) == (SE_1.id, Command)
        return message  # type: ignore[return-value]


def outcome(number: int, result: str = '{"a": 1}', code: str = "") -> Outcome:
    return Outcome(number=number, code=code, words="no" if code else "", result=result)


async def answered(work: asyncio.Task[dict[str, Any]]) -> dict[str, Any]:
    return await work


async def test_an_answer_comes_back_and_both_are_on_record() -> None:
    house = House()
    work = house.begin()
    asked = await house.asked()
    assert [entry.event for entry in house.entries] == ["engine.command"], "before anything is sent"
    await house.commands.heard(SE_1.id, outcome(asked.number))
    assert await work == {"engine": "se-1", "command": "status", "result": {"a": 1}}
    assert [(entry.event, entry.by) for entry in house.entries] == [("engine.command", "jane"),
                                                                    ("engine.command-over", "jane")]


async def test_another_engine_answers_for_nobody() -> None:
    house = House()
    work = house.begin()
    asked = await house.asked()
    await house.commands.heard(SE_2.id, outcome(asked.number, '"mine"'))
    await house.commands.heard(SE_1.id, outcome(asked.number + 1, '"of another question"'))
    await house.commands.heard(SE_1.id, outcome(asked.number, '"right"'))
    await house.commands.heard(SE_1.id, outcome(asked.number, '"once more"'))
    assert (await work)["result"] == "right"


@pytest.mark.parametrize(("answer", "code"), [(outcome(1, "", "FL-X"), "FL-X"),
                                              (outcome(1, "{"), "FL-COMMAND-ANSWER"),
                                              (outcome(1, "[" * 100_000), "FL-COMMAND-ANSWER"),
                                              (outcome(1, "[" * 40 + "]" * 40), "FL-COMMAND-ANSWER"),
                                              (outcome(1, "NaN"), "FL-COMMAND-ANSWER"),
                                              (outcome(1, '"\\ud800"'), "FL-COMMAND-ANSWER")])
async def test_a_refusal_comes_back_as_it_is(answer: Outcome, code: str) -> None:
    house = House()
    work = house.begin()
    await house.asked()
    await house.commands.heard(SE_1.id, answer)
    with pytest.raises(FairleadError) as caught:
        await work
    assert caught.value.code == code


async def test_nobody_waits_for_ever() -> None:
    house = House()
    assert await refusal(house.commands.run("se-1", "status", 0.05, "jane")) == "FL-COMMAND-LATE"
    assert house.entries[-1].details["code"] == "FL-COMMAND-LATE"
    work = house.begin()
    await house.asked()
    await house.asked()
    house.commands.left(SE_1.id)
    assert await refusal(answered(work)) == "FL-COMMAND-AWAY"


@pytest.mark.parametrize(("name", "word", "code"), [
    ("se-1", "sh -c id", "FL-COMMAND-UNKNOWN"), ("se-2", "status", "FL-COMMAND-AWAY"),
    ("ctl-1", "status", "FL-NODE-UNKNOWN"), ("se-9", "status", "FL-NODE-UNKNOWN")])
async def test_what_is_not_of_the_catalogue_is_not_sent(name: str, word: str, code: str) -> None:
    house = House()
    assert await refusal(house.commands.run(name, word, 1.0, "jane")) == code
    assert house.told.empty()
    assert house.entries == []


async def test_there_is_a_bound_to_what_waits() -> None:
    house = House()
    waiting = [house.begin() for _ in range(MOST_WAITING)]
    for _ in waiting:
        await house.asked()
    assert await refusal(answered(house.begin())) == "FL-COMMAND-MANY"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


# -- at a Controller to which the engine has no link ------------------------------------------------------------------

@dataclass
class Cluster:
    """ctl-1 has no link to the engine, ctl-2 has one, ctl-3 has none."""

    ring: Ring = field(default_factory=Ring)

    def __post_init__(self) -> None:
        self.one = House(here=(), ring=self.ring, me=CTL_1)
        self.two = House(ring=self.ring, me=CTL_2)
        self.three = House(here=(), ring=self.ring, me=CTL_3)


def on_record(house: House) -> list[tuple[str, str, str, Any]]:
    return [(entry.event, entry.subject, entry.by, {name: entry.details[name] for name in entry.details
                                                    if name in ("via", "controller", "code")})
            for entry in house.entries]


async def test_who_has_the_link_does_it_and_both_have_it_on_record() -> None:
    cluster = Cluster()
    work = cluster.one.begin("diagnostics")
    asked = await cluster.two.asked()
    assert asked.command == "diagnostics"
    assert on_record(cluster.one) == [("engine.command-passed", "se-1", "jane", {"controller": "ctl-2"})]
    assert on_record(cluster.two) == [("engine.command", "se-1", "jane", {"via": "ctl-1"})], "before it is sent"
    await cluster.two.commands.heard(SE_1.id, outcome(asked.number))
    assert await work == {"engine": "se-1", "command": "diagnostics", "result": {"a": 1}}
    assert on_record(cluster.two)[1:] == [("engine.command-over", "se-1", "jane", {"code": "done"})]
    assert cluster.three.entries == []
    assert cluster.one.told.empty()
    assert cluster.three.told.empty()


async def test_a_refusal_comes_from_afar_as_it_is() -> None:
    cluster = Cluster()
    for answer, code in ((outcome(1, "", "FL-X"), "FL-X"), (outcome(2, "{"), "FL-COMMAND-ANSWER"),
                         (outcome(3, "[" * 900 + "]" * 900), "FL-COMMAND-ANSWER")):
        work = cluster.one.begin()
        await cluster.two.asked()
        await cluster.two.commands.heard(SE_1.id, answer)
        assert await refusal(answered(work)) == code


async def test_an_engine_that_is_nowhere_is_away_and_who_is_silent_is_named() -> None:
    cluster = Cluster()
    cluster.two.here = ()
    assert await refusal(cluster.one.commands.run("se-1", "status", 1.0, "jane")) == "FL-COMMAND-AWAY"
    cluster.ring.silent.add("ctl-3")
    with pytest.raises(FairleadError, match="ctl-3") as caught:
        await cluster.one.commands.run("se-1", "status", 1.0, "jane")
    assert caught.value.code == "FL-COMMAND-AWAY"
    assert cluster.one.entries == []


async def test_nobody_passes_it_on_and_it_is_done_once() -> None:
    """The link went between the two questions; or its Controller did after the second."""
    cluster = Cluster()
    asked: Any = cluster.ring.answers["ctl-2"]
    fields = {"engine": SE_1.id, "word": "status", "deadline_s": 1.0, "by": "jane"}
    cluster.two.here = ()
    cluster.three.here = (SE_1.id,)
    assert await refusal(asked(CTL_1, "engine-command", fields)) == "FL-COMMAND-AWAY"
    assert ("ctl-2", "ctl-3", "engine-linked") not in cluster.ring.asked
    cluster.two.here = (SE_1.id,)
    cluster.three.here = ()
    work = cluster.one.begin()
    await cluster.two.asked()
    cluster.ring.silent.add("ctl-2")
    cluster.two.commands.left(SE_1.id)
    assert await refusal(answered(work)) == "FL-COMMAND-AWAY"
    assert [op for _, _, op in cluster.ring.asked].count("engine-command") == 1
    assert cluster.two.told.empty()


async def test_a_controller_that_does_not_say_what_came_of_it_is_not_waited_for(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """And what has begun there is done to its end, and on record."""
    monkeypatch.setattr(rooms, "ANSWER_S", 0.05)
    cluster = Cluster()
    work = asyncio.get_running_loop().create_task(cluster.one.commands.run("se-1", "status", 0.3, "jane"))
    asked = await cluster.two.asked()
    cluster.ring.deaf.add("ctl-2")
    await cluster.two.commands.heard(SE_1.id, outcome(asked.number))
    assert await refusal(answered(work)) == "FL-COMMAND-LATE"
    assert on_record(cluster.two)[-1] == ("engine.command-over", "se-1", "jane", {"code": "done"})


async def test_a_command_that_was_begun_for_one_that_went_away_is_ended_on_record() -> None:
    cluster = Cluster()
    fields = {"engine": SE_1.id, "word": "status", "deadline_s": 10.0, "by": "jane"}
    answer: Any = cluster.ring.answers["ctl-2"](CTL_1, "engine-command", fields)
    work = asyncio.ensure_future(answer)
    asked = await cluster.two.asked()
    work.cancel()  # as the end of that Controller's connection does it
    await asyncio.gather(work, return_exceptions=True)
    await cluster.two.commands.heard(SE_1.id, outcome(asked.number))
    await until(lambda: len(cluster.two.entries) == 2)
    assert on_record(cluster.two)[-1] == ("engine.command-over", "se-1", "jane", {"code": "done"})


@pytest.mark.parametrize("wrong", [
    {"engine": CTL_1.id}, {"engine": "../x"}, {"word": "sh -c id"}, {"word": 7}, {"deadline_s": 61.0},
    {"deadline_s": 0.0}, {"deadline_s": True}, {"by": ""}, {"by": "x" * 300}, {"more": 1}])
async def test_attack_a_question_that_is_not_of_its_form_is_refused(wrong: dict[str, Any]) -> None:
    cluster = Cluster()
    fields = {"engine": SE_1.id, "word": "status", "deadline_s": 1.0, "by": "jane"} | wrong
    answer: Any = cluster.ring.answers["ctl-2"](CTL_1, "engine-command", fields)
    assert await refusal(answer) in ("FL-PEER-QUESTION", "FL-NODE-UNKNOWN", "FL-COMMAND-UNKNOWN")
    assert cluster.two.told.empty()
    assert cluster.two.entries == []
