"""Commands to engines: words of a catalogue, on record before and after, answered by the engine that was asked."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError
from fairlead.fleet.commands import MOST_WAITING, Commands
from fairlead.link.messages import AnyFromController, Command, Outcome
from fairlead.nodes.node import Node
from tests.unit.nodes.test_policy import CTL_1, SE_1, SE_2
from tests.world import refusal


@dataclass
class House:
    """Two engines, one of them connected; a journal that remembers."""

    entries: list[Entry] = field(default_factory=list)
    told: asyncio.Queue[tuple[str, AnyFromController]] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.commands = Commands(self, self, self)  # type: ignore[arg-type]

    def named(self, name: str) -> Node | None:
        return next((node for node in (CTL_1, SE_1, SE_2) if node.name == name), None)

    def linked(self, ability: str) -> list[str]:
        return [SE_1.id] if ability == "commands/1" else []

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
                                              (outcome(1, "{"), "FL-COMMAND-ANSWER")])
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
