"""What an engine does when it is asked: its catalogue, in time, and few at once."""

import asyncio
import json
from typing import Any

from fairlead.base.errors import Refused
from fairlead.engine.commands import MOST_AT_ONCE, Commands, machine
from fairlead.link.messages import MOST_RESULT, Command


def command(word: str, number: int = 1, deadline_s: float = 5.0) -> Command:
    return Command(number=number, command=word, deadline_s=deadline_s)


async def test_a_word_is_done_or_refused() -> None:
    recorded: list[dict[str, str]] = []
    never = asyncio.Event()

    async def fine() -> Any:
        return {"up": True}

    async def bad() -> Any:
        raise Refused("FL-CONFIG", "line 3")

    async def large() -> Any:
        return "x" * MOST_RESULT

    async def slow() -> Any:
        await never.wait()

    commands = Commands({"fine": fine, "bad": bad, "large": large, "slow": slow},
                        lambda event, **details: recorded.append(details | {"event": event}))
    done = await commands.run(command("fine"), "ctl-1")
    assert (done.number, done.code, json.loads(done.result)) == (1, "", {"up": True})
    assert recorded == [{"event": "command", "command": "fine", "controller": "ctl-1"}]
    for word, deadline_s, code in (("bad", 5.0, "FL-CONFIG"), ("large", 5.0, "FL-COMMAND-ANSWER"),
                                   ("slow", 0.05, "FL-COMMAND-LATE"), ("sh", 5.0, "FL-COMMAND-UNKNOWN")):
        assert (await commands.run(command(word, deadline_s=deadline_s), "ctl-1")).code == code
    running = [asyncio.get_running_loop().create_task(commands.run(command("slow"), "ctl-1"))
               for _ in range(MOST_AT_ONCE)]
    await asyncio.sleep(0)
    assert (await commands.run(command("fine"), "ctl-1")).code == "FL-COMMAND-MANY"
    never.set()
    assert [one.code for one in await asyncio.gather(*running)] == [""] * MOST_AT_ONCE
    assert (await commands.run(command("fine"), "ctl-1")).code == ""


def test_a_machine_says_what_it_is() -> None:
    assert machine()["process"]["VmRSS"].endswith("kB")
