"""How many requests were answered, at which door and with which class of status. Strangers choose no label of it."""

from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Answered:
    """Counts."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        """By door and class, such as ``2xx``."""

    def at(self, door: str, app: Application) -> Application:
        """*app*, with its answers counted for that *door*."""

        async def counted(scope: Message, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self.counts[door, f"{message['status'] // 100}xx"] += 1
                await send(message)

            await app(scope, receive, sending)

        return counted
