"""Something that happens once: whoever waits goes on, whoever comes late does not wait, who gives up is forgotten."""

import asyncio

from fairlead.base.once import Once


async def test_whoever_waits_goes_on_and_whoever_comes_late_does_not_wait() -> None:
    once = Once()
    assert not once.is_set()
    waiting = [asyncio.create_task(once.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    once.set()
    once.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
        await once.wait()
    assert once.is_set()


async def test_who_gives_up_is_forgotten_and_the_others_go_on() -> None:
    once = Once()
    gives_up, waits = asyncio.create_task(once.wait()), asyncio.create_task(once.wait())
    await asyncio.sleep(0)
    gives_up.cancel()
    await asyncio.sleep(0)
    assert len(once._waiting or ()) == 1
    once.set()
    async with asyncio.timeout(10):
        await waits
    assert gives_up.cancelled()
