"""This engine's journal, and the Controllers as its witnesses: they are shown where it ends, and asked before it is
believed.

A journal has one generation for ever (`JOURNAL`): nobody restores one, so whatever does not go on from what a
Controller was shown was written anew, from the first record too.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from operator import methodcaller
from typing import Any, Protocol

from fairlead.api.audit import describe
from fairlead.audit.head import Judged, SignedHead, check, decode, insist, judge, sign
from fairlead.audit.journal import Journal
from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError
from fairlead.keys.ssh import PrivateKey

JOURNAL = "journal"
SHOW_S = 10.0
"""Between two heads, more or less: a fleet does not show them in step. What happens meanwhile is in the next one."""
ANSWER_S = 2.0


class Controller(Protocol):
    """A Controller that keeps heads."""

    @property
    def name(self) -> str:
        """Its node's name."""
        ...

    async def show(self, head: str) -> None:
        """Give it a head to keep. Raises FairleadError."""
        ...

    async def shown(self) -> list[str]:
        """What it was shown. Raises FairleadError."""
        ...


class Witnesses:
    """Shows, asks and judges."""

    def __init__(self, journal: Journal, node: str, cluster_uuid: str, host_key: PrivateKey, clock: Clock) -> None:
        self._journal = journal
        self._node = node
        self._cluster_uuid = cluster_uuid
        self._host_key = host_key
        self._clock = clock
        self._controllers: list[Controller] = []

    def come(self, controller: Controller) -> None:
        """A Controller wants to be shown where the journal ends."""
        if controller not in self._controllers:
            self._controllers.append(controller)
            self._journal.moved.set()

    def left(self, controller: Controller) -> None:
        """It is no longer connected."""
        if controller in self._controllers:
            self._controllers.remove(controller)

    async def show(self) -> None:
        """Show the end, each time that it has moved on, until cancelled."""
        while True:
            await self._journal.moved.wait()
            self._journal.moved.clear()
            head = self._journal.head
            if head.seq and self._controllers:
                text = sign(self._host_key, cluster_uuid=self._cluster_uuid, generation=JOURNAL, node=self._node,
                            head=head, time=self._clock.now()).text()
                await self._each(methodcaller("show", text))
            await asyncio.sleep(SHOW_S * random.SystemRandom().uniform(0.5, 1.5))

    async def recent(self, limit: int) -> list[dict[str, Any]]:
        """The newest records, oldest first. Raises Refused FL-AUDIT-BROKEN."""
        return [describe(record) for record in self._journal.records()[-limit:]]

    async def check(self) -> dict[str, Any]:
        """Verify the journal, by itself and by what Controllers were shown of it.

        Raises Refused FL-AUDIT-BROKEN, FL-AUDIT-CUT, FL-AUDIT-FORK.
        """
        told = await self._each(methodcaller("shown"))  # first: what comes meanwhile is no cut
        head, records = self._journal.verify(), self._journal.records()
        judged: Mapping[str, list[Judged]] = {name: list(judge(
            list(self._signed(texts or [])), lambda seq: records[seq - 1].head().hash if seq <= len(records) else None,
            JOURNAL)) for name, texts in told.items()}
        insist(judged)
        newest = {(name, one.state): one.head.seq for name, each in judged.items()
                  for one in sorted(each, key=lambda one: one.head.seq)}
        return {"verified": head.seq, "node": self._node, "head": head.hash, "witnesses": [
            {"name": name, "node": self._node, "seq": seq, "state": state}
            for (name, state), seq in sorted(newest.items())]}

    def _signed(self, texts: list[str]) -> list[SignedHead]:
        found = []
        for text in texts:
            with contextlib.suppress(FairleadError):
                head = decode(text)
                check(head, self._host_key.public, cluster_uuid=self._cluster_uuid, node=self._node)
                found.append(head)
        return found

    async def _each(self, ask: Callable[[Controller], Awaitable[Any]]) -> dict[str, Any]:
        """What each Controller answers in time."""
        async def one(controller: Controller) -> Any:
            with contextlib.suppress(FairleadError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    return await ask(controller)
            return None

        asked = list(self._controllers)
        return {controller.name: answer for controller, answer in zip(
            asked, await asyncio.gather(*map(one, asked)), strict=True) if answer is not None}
