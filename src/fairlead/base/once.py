"""Something that happens once. asyncio.Event would do, with a queue for each that an idle connection has no use for."""

import asyncio


class Once:
    """It has not happened, or it has; nothing undoes it."""

    __slots__ = ("_happened", "_waiting")

    def __init__(self) -> None:
        self._happened = False
        self._waiting: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._happened

    def set(self) -> None:
        """It happens: whoever waits goes on."""
        self._happened = True
        for one in self._waiting or ():
            if not one.done():
                one.set_result(None)
        self._waiting = None

    async def wait(self) -> None:
        """Return when it has happened."""
        if self._happened:
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(mine)
        try:
            await mine
        finally:
            if self._waiting and mine in self._waiting:
                self._waiting.remove(mine)
