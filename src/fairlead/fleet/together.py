"""Telling many engines side by side; whoever takes nothing just now is gone on with later, and nobody waits for it.

What was begun for it goes on meanwhile and keeps its place, since what is sent on a channel is sent in turn.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

WAIT_S = 0.1
"""For all of them. Most need no time at all: what they are told fits into a buffer."""


class Together:
    """Several works at once, of which the slow ones hold nobody up."""

    def __init__(self) -> None:
        self._late: set[asyncio.Task[None]] = set()

    async def do(self, works: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Return when all are done, or after a moment. A fault in one is raised, of a late one told to the loop."""
        tasks = [asyncio.ensure_future(work) for work in works]
        if not tasks:
            return
        try:
            done, late = await asyncio.wait(tasks, timeout=WAIT_S)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task in late:
            self._late.add(task)
            task.add_done_callback(self._over)
        for task in done:
            task.result()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "an engine was not told", "exception": bug,
                                                    "task": task})
