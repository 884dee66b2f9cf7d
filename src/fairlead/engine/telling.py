"""Telling Controllers how it stands here: one that does not read is hung up on, and keeps no other one waiting."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from fairlead.base.errors import FairleadError

SAY_S = 2.0
"""A Controller that takes nothing for so long is hung up on, as Controllers do with engines."""


class Told(Protocol):
    """A Controller, while its link is there."""

    def hang_up(self, why: str) -> None:
        """End its link."""
        ...


async def tell(controller: Told, saying: Awaitable[None]) -> bool:
    """Have *saying*, which sends something to *controller*, come to an end; whether it was sent."""
    try:
        async with asyncio.timeout(SAY_S):
            await saying
    except TimeoutError:
        controller.hang_up("the Controller does not read")
        return False
    except FairleadError:  # the link ends by itself; its reader notices
        return False
    return True
