"""The longest stall of the loop in the last minute."""

import asyncio
import contextlib
import time

from fairlead.controller.stalls import WINDOW_S, Stalls


def test_the_worst_of_a_minute_counts_and_is_forgotten_then() -> None:
    stalls = Stalls()
    assert stalls.worst_s == 0
    for now, late_s in ((0.0, 0.2), (1.0, 0.9), (2.0, 0.5), (3.0, 0.1)):
        stalls.note(now, late_s)
    assert stalls.worst_s == 0.9
    stalls.note(1.0 + WINDOW_S + 0.5, 0.0)
    assert stalls.worst_s == 0.5
    stalls.note(3.0 + WINDOW_S + 0.5, 0.0)
    assert stalls.worst_s == 0


async def test_a_loop_that_stands_still_is_noticed() -> None:
    stalls = Stalls()
    watching = asyncio.create_task(stalls.watch())
    async with asyncio.timeout(10):
        while stalls.worst_s < 0.2:
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - that is what it is about
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
