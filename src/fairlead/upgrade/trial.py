"""Whether the version that runs has proven itself. The judgement is pure: facts in, what is missing out.

Rules, and why:

1. Joined is not enough: a Controller that this node dials has to have let it in, for that takes keys, certificates,
   handshake and protocol. An engine needs one; a Controller needs those that make a majority with it.
2. Of a Controller, besides: its store answers, its doors are open, and it knows who leads.
3. No listener of the plan may be missing that was there before. What was wrong before the switch may stay wrong.
4. A node that had no such connections before the switch (headless: its Controllers are off) is judged by whether it
   meets the same silence. A Controller that answers must let it in, so nothing is confirmed blindly; where none answers
   a version goes back for no fault of its own only if it cannot even listen.
5. All that for some seconds on end: what comes up and falls down is not healthy.
6. A trial that failed while the disk took no record of it is recorded by the version that runs in its place, as soon as
   that can be: or the node would say for ever that it is on trial, and take no other version.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError
from fairlead.upgrade import launch
from fairlead.upgrade.versions import Versions

HEALTHY_S = 3.0
LOOK_S = 0.2
AGAIN_S = 10 * LOOK_S
"""Between two tries to write to a disk that is full."""
MOST_NOTED = 100
"""Problems that are noted before a switch."""

log = structlog.get_logger("fairlead.upgrade")


@dataclass(frozen=True, slots=True)
class Facts:
    """How a node stands."""

    controllers: int
    """That it dials."""
    links: int
    """Of these, those that have let it in."""
    answering: int
    """Of these, those of which it is not known that they do not answer."""
    needed: int
    """Links that it needs."""
    listeners: tuple[str, ...] = ()
    """What is wrong with the listeners of its plan."""
    lacking: tuple[str, ...] = ()
    """What else has to be there and is not."""

    def noted(self) -> dict[str, Any]:
        """What `missing` reads of the facts before the switch."""
        return {"links": self.links, "listeners": list(self.listeners[:MOST_NOTED])}


def missing(now: Facts, before: Mapping[str, Any]) -> list[str]:
    """What keeps a version from having proven itself; *before*: as `Facts.noted`, empty when nobody noted anything."""
    links, listeners = before.get("links"), before.get("listeners")
    needed = min(now.needed, now.controllers)
    if isinstance(links, int) and links < needed:
        needed = max(links, min(needed, now.answering))
    known = set(listeners) if isinstance(listeners, list) else set()
    found = list(now.lacking)
    if now.links < needed:
        found.append(f"{now.links} of the Controllers have let this node in, it needs {needed}")
    return found + [line for line in now.listeners if line not in known]


class Proving:
    """Looks at the running version until it is confirmed, or what failed in its place is on record."""

    def __init__(self, versions: Versions, version: str, facts: Callable[[], Facts], clock: Clock) -> None:
        """*version*: the one that runs."""
        self._versions = versions
        self._version = version
        self._facts = facts
        self._clock = clock
        self._unsaved = ""

    async def run(self) -> None:
        """Returns once that is on disk; at once when nothing is on trial; its guard ends it otherwise."""
        try:
            standing = self._versions.standing()
        except FairleadError as error:
            log.error("upgrade.unknown", code=error.code, reason=error.message)
            return
        if not standing.trial or standing.current != self._version:
            if standing.trial and not launch.guarded():  # who is guarded is on trial, whatever number it gives itself
                await self._went_back(standing.current)
            return
        since: float | None = None
        said = ""
        while True:
            lacking = missing(self._facts(), standing.before)
            if lacking:
                since = None
                if said != (said := "; ".join(lacking)):
                    self._versions.explain(said)
            elif since is None:
                since = self._clock.monotonic()
            elif self._clock.monotonic() - since >= HEALTHY_S and self._confirmed():
                return
            await asyncio.sleep(LOOK_S)

    async def _went_back(self, tried: str) -> None:
        """The guard of the version that was *tried* has this one run in its place, and could not write that down."""
        def record() -> None:
            now = self._versions.standing()
            if now.trial and now.current == tried:
                self._versions.back("it failed, and the disk took no record of it", self._clock.now())

        while True:
            if self._saved(record):
                return
            await asyncio.sleep(AGAIN_S)

    def _confirmed(self) -> bool:
        confirmed = self._saved(lambda: self._versions.confirm(self._clock.now()))
        if confirmed:
            log.info("upgrade.confirmed", version=self._version)
        return confirmed

    def _saved(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except FairleadError as error:  # a full disk: it may have room later
            if error.code != self._unsaved:
                self._unsaved = error.code
                log.error("upgrade.unsaved", code=error.code, reason=error.message)
            return False
        return True
