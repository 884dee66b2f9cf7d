"""A Controller's own part in the rotation of host keys: make the next one, show it, forget what is worth nothing.

What there is to do follows from three things alone: the rotation as it stands, this Controller's record, and the keys
on its disk. So it does not matter what it missed, or where it was stopped.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from fairlead.base.errors import FairleadError, OperatorError
from fairlead.controller.hostkeys import HostKeys
from fairlead.controller.rotating.host_keys import KEPT, KIND, NEXT, PINS, PROBLEM, PROOF, SHOWN, proof
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.link.messages import PlanController
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.rotation.phases import Rotation

AGAIN_S = 2.0
"""After which it tries again what the disk refused."""

log = structlog.get_logger("fairlead.controller")


@dataclass(slots=True)
class OwnHostKey:
    """This Controller's."""

    keys: HostKeys
    directory: Directory
    me: str
    """Its id."""
    cluster_uuid: UUID
    rotating: Callable[[], Rotation | None]
    pinned: Callable[[], Sequence[PlanController]]
    """The Controllers that this one dials, as it knows them."""
    done: Callable[[], None] = lambda: None
    """Called when there may be something new to tell."""
    problem: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def shown(self) -> Sequence[PrivateKey]:
        """The key for a new connection, and those besides it by which this Controller is known."""
        me = self.directory.nodes.get(self.me)
        known = me.host_keys if me is not None else ()
        return [self.keys.shown, *(key for key in self.keys.others.values() if key.public in known)]

    def signing(self) -> PrivateKey:
        """The one that signs."""
        return self.keys.shown

    async def follow(self) -> None:
        """Do what is to be done, at every change, until cancelled."""
        self.directory.listen(self._changed.set)
        self._changed.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S if self.problem else None):
                    await self._changed.wait()
            self._changed.clear()
            try:
                self.step()
                self.problem = ""
            except FairleadError as error:
                if self.problem != error.line():
                    log.error("host-key.problem", code=error.code, reason=error.message)
                self.problem = error.line()
            self.done()

    def step(self) -> None:
        """Bring the keys here to what holds now. Raises OperatorError."""
        me, rotation = self.directory.nodes.get(self.me), self._rotation
        if me is None or me.state != "up":
            return
        present, known = PublicKey.from_line(me.host_key), me.host_keys
        wanted = known[-1] if rotation is not None and rotation.is_new_in_use else present
        if rotation is not None and rotation.phase == "stage":
            self._prepare(known[1:])
        if self.keys.shown.public != wanted:
            if not self.keys.has(wanted):
                raise OperatorError("FL-HOST-KEY", f"the private key {wanted.fingerprint}, by which this Controller is "
                                    "known, is not in its state folder", "restore keys/ from a copy of the folder, or "
                                    "remove this Controller and join it anew")
            self.keys.show(wanted)
            log.info("host-key.shown", fingerprint=wanted.fingerprint)
        if rotation is None or rotation.phase != "stage":
            self.keys.keep(known)

    def _prepare(self, following: Sequence[PublicKey]) -> None:
        """See that there is a next key that may be published."""
        there = [key.public for key in self.keys.others.values()]
        if any(key in there for key in following):
            return
        if any(key.fingerprint not in self.directory.keys for key in there):  # and so never was anybody's
            return
        made = self.keys.make()
        log.info("host-key.made", fingerprint=made.fingerprint)

    @property
    def _rotation(self) -> Rotation | None:
        rotation = self.rotating()
        return rotation if rotation is not None and rotation.kind == KIND else None

    def facts(self) -> Mapping[str, str]:
        """What this Controller tells, while host keys rotate."""
        me, rotation = self.directory.nodes.get(self.me), self._rotation
        if me is None or rotation is None or rotation.phase == "scheduled":
            return {}
        keys = self.keys
        following = [PublicKey.from_line(c.next_host_key).fingerprint for c in self.pinned() if c.next_host_key]
        return {SHOWN: keys.shown.public.fingerprint, PINS: " ".join(sorted(following)),
                KEPT: " ".join(key.public.fingerprint for key in keys.others.values()),
                **self._proof(me, rotation), **({PROBLEM: self.problem} if self.problem else {})}

    def _proof(self, me: Node, rotation: Rotation) -> Mapping[str, str]:
        """The next key, and that it is this Controller's, while the one in use is shown."""
        following = [key for key in self.keys.others.values() if key.public.line != me.host_key]
        if rotation.phase != "stage" or not following or self.keys.shown.public.line != me.host_key:
            return {}
        return {NEXT: following[0].public.line,
                PROOF: proof(self.cluster_uuid, rotation.id, me.id, self.keys.shown, following[0])}
