"""Many are told at once: one that takes nothing holds nobody up, and what was begun for it is not lost."""

import asyncio
from typing import Any

import pytest

from fairlead.fleet.together import Together


async def test_who_takes_nothing_is_not_waited_for_and_gets_it_when_he_does() -> None:
    together, takes, told = Together(), asyncio.Event(), asyncio.Queue[str]()

    async def tell(name: str) -> None:
        if name == "slow":
            await takes.wait()
        told.put_nowait(name)

    async with asyncio.timeout(5):
        await together.do(map(tell, ("slow", "one", "two")))
        assert [told.get_nowait(), told.get_nowait(), told.qsize()] == ["one", "two", 0]
        await together.do([])
        takes.set()
        assert await told.get() == "slow"


async def test_a_fault_is_raised_or_told_to_the_loop_when_it_comes_late() -> None:
    together, heard, late = Together(), asyncio.Queue[dict[str, Any]](), asyncio.Event()

    async def fault() -> None:
        raise ZeroDivisionError

    async def late_fault() -> None:
        await late.wait()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await together.do([fault()])
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.put_nowait(context))
    await together.do([late_fault()])
    assert heard.empty()
    late.set()
    async with asyncio.timeout(5):
        assert isinstance((await heard.get())["exception"], ZeroDivisionError)


async def test_who_is_cancelled_cancels_what_was_begun() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    telling = asyncio.ensure_future(Together().do([endless()]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    async with asyncio.timeout(5):
        await ended.wait()
