"""How long the event loop keeps everybody waiting: what an operator sees of a Controller that has too much to do."""

import asyncio
from collections import deque

LOOK_S = 0.05
WINDOW_S = 60.0


class Stalls:
    """Looks a few times a second whether it is late, and remembers a minute."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque()
        """When, and by how much; each is smaller than those before it, which the worst of a window needs no more of."""

    async def watch(self) -> None:
        """Look, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.note(loop.time(), loop.time() - due)

    def note(self, now: float, late_s: float) -> None:
        """At *now* (seconds, monotonic) it was so late."""
        while self._late and self._late[-1][1] <= late_s:
            self._late.pop()
        self._late.append((now, late_s))
        while self._late[0][0] < now - WINDOW_S:
            self._late.popleft()

    @property
    def worst_s(self) -> float:
        """The longest in the last minute."""
        return max(0.0, self._late[0][1]) if self._late else 0.0
