"""Has a bundle here, on this node: fetched through the mesh, and verified by what this node itself trusts.

Rules, and the attack each stops:

1. Who gives is not believed. A file is what its hash says, and a bundle is what the root says that this node pinned:
   a Controller that was taken over gives other bytes, and is named; or another bundle, and that is refused here.
2. Bytes of several Controllers may make one file. If its hash is wrong nobody knows whose they were: it is fetched
   again, of one Controller as a whole at a time, so that the one that lies is found, named, and not asked again.
3. What was verified is the open file that `open` gives: whoever puts another one in its place has changed nothing.
4. What verification has shown (the newest root, the highest versions of metadata) is remembered before anybody uses the
   bundle: no older one is taken afterwards.
5. A bundle that is refused is not kept.
6. Slow retrieval: a turn at one Controller has an end, and whoever gives little in it is not asked again before the
   others. A Controller that drips, in one turn or in many, keeps nobody from what another one gives.
7. A Controller's refusal is that it does not give, whichever code it names: it is taken for no fault of this node's.

All of it goes on where it was: after a cut, a restart, a full disk.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.link import frames
from fairlead.link.images import SUBSYSTEM, VERSION, Incoming, Want
from fairlead.transport.channel import Channel
from fairlead.transport.tunnel import Tunnel
from fairlead.upgrade.images import Images, Moved, fetch
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import Verified, verify

GREET_S = 120.0
"""A Controller lets few nodes fetch at once."""
SILENT_S = 30.0
TURN_S = GREET_S + 90.0
"""So long one turn at a Controller takes at most, the waiting for it included: it ends its turns sooner itself."""
LEAST_BYTES = 4 * 1024 * 1024
"""Who gives less in a turn is not asked again before the others."""
ROUNDS = 5
"""Of asking everybody without a single byte, before it is given up."""
PAUSE_S = 1.0
MOST_OPEN = 2
"""Verified files that are held open: the one that is worked with, and the one before."""

log = structlog.get_logger("fairlead.upgrade")

Verifying = Callable[[int, bytes, Seen, int], Verified]


class Ways(Protocol):
    """The connections to Controllers."""

    def controllers(self) -> list[str]:
        """Those to which there is a link."""
        ...

    async def stream_to(self, name: str) -> Tunnel:
        """A stream connection. Raises FairleadError."""
        ...


class Trusting(Protocol):
    """What this node trusts, which no Controller changes."""

    async def trusted(self) -> tuple[bytes, Seen]:
        """The pinned root, and what was seen. Raises Refused FL-UPGRADE-UNTRUSTED, StoreUnavailable."""
        ...

    async def remember(self, root: bytes, seen: Seen) -> None:
        """Both were shown by a verification: they count from now on. Raises FairleadError."""
        ...


class Bringing:
    """Has bundles here, each once at a time."""

    def __init__(self, images: Images, ways: Ways, trust: Trusting, clock: Clock, now: Callable[[], Awaitable[int]],
                 *, used: Callable[[], Mapping[str, int]] = dict,
                 lying: Callable[[str, str], Awaitable[None]] | None = None, verifying: Verifying = verify,
                 having: Callable[[str], Sequence[str]] = lambda _: ()) -> None:
        """*now*: store time. *used*: the files that have to stay, as `Images.begin` has them. *lying*: told which
        Controller gave other bytes than the hash that was asked for. *having*: the names of those who are known to have
        a file: they are asked first.
        """
        self._images = images
        self._ways = ways
        self._trust = trust
        self._clock = clock
        self._now = now
        self._used = used
        self._lying = lying
        self._verify = verifying
        self._having = having
        self._turns: dict[str, asyncio.Lock] = {}
        self._open: dict[str, int] = {}
        self.moved = Moved()
        self._came: dict[str, int] = {}

    def came(self, sha256: str) -> int:
        """How many bytes of it have been fetched since this process was started."""
        return self._came.get(sha256, 0)

    async def bring(self, sha256: str, size: int) -> Verified:
        """Have it here, verified by this node's own root and what it has seen.

        Raises Refused, StoreUnavailable, OperatorError; said again, it goes on where it was.
        """
        self._images.path(sha256)
        async with self._turns.setdefault(sha256, asyncio.Lock()):
            await self._trust.trusted()  # without a root there is nothing to fetch for
            if await asyncio.to_thread(self._images.whole, sha256) is None:
                used = {**dict.fromkeys((*self._open, sha256), 0), **self._used()}
                await asyncio.to_thread(self._images.begin, sha256, size, used)
                await self._fetch(sha256, size)
            return await self._verified(sha256)

    async def check(self, sha256: str) -> Verified:
        """The same of a file that is here. Raises Refused, StoreUnavailable."""
        async with self._turns.setdefault(sha256, asyncio.Lock()):
            return await self._verified(sha256)

    def open(self, sha256: str) -> int:
        """A descriptor of the file that was verified, of its own place; the caller closes it.

        Raises Refused FL-IMAGE-UNKNOWN.
        """
        handle = self._open.get(sha256)
        if handle is None:
            raise Refused("FL-IMAGE-UNKNOWN", f"the image {sha256} was not verified here", "have it brought first")
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)

    def forget_others(self, sha256: str) -> None:
        """Nothing but that file is kept: where nobody else wants any, as on an engine. Raises nothing; it blocks."""
        with contextlib.suppress(FairleadError):  # what stays costs room, and goes the next time
            self._images.forget({sha256})

    def close(self) -> None:
        """Let go of all files."""
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    # -- verification -------------------------------------------------------------------------------------------------

    async def _verified(self, sha256: str) -> Verified:
        root, seen = await self._trust.trusted()
        handle = await asyncio.to_thread(self._images.open, sha256)
        began = self._clock.monotonic()
        try:
            verified = await asyncio.to_thread(self._judged, handle, root, seen, await self._now())
            if verified.sha256 != sha256:
                raise Refused("FL-IMAGE-HASH", f"the file {sha256} has other bytes by now", "have it brought again")
            # but for the counter: it counts once the version has proved itself (`upgrade.versions`)
            await self._trust.remember(verified.root, replace(verified.seen, counter=0))
        except Refused as refusal:
            os.close(handle)
            log.warning("image.refused", sha256=sha256, code=refusal.code, reason=refusal.message)
            await asyncio.to_thread(self._images.remove, sha256)
            raise
        except BaseException:
            os.close(handle)
            raise
        self.moved = Moved(self.moved.bytes, self.moved.files, self._clock.monotonic() - began)
        self._keep_open(sha256, handle)
        return verified

    def _judged(self, handle: int, root: bytes, seen: Seen, now: int) -> Verified:
        """As `verify`. What that did not foresee is a refusal, too: no file that somebody made ends a daemon."""
        try:
            return self._verify(handle, root, seen, now)
        except FairleadError:
            raise
        except Exception as error:
            kind = type(error).__name__
            log.exception("image.unforeseen", error=kind)
            raise Refused("FL-INTERNAL", f"its verification ended by a fault of ours: {kind}",
                          "the log says more; report it, with the file") from None

    def _keep_open(self, sha256: str, handle: int) -> None:
        if (before := self._open.pop(sha256, None)) is not None:
            os.close(before)
        self._open[sha256] = handle
        while len(self._open) > MOST_OPEN:
            os.close(self._open.pop(next(iter(self._open))))

    # -- fetching -----------------------------------------------------------------------------------------------------

    async def _fetch(self, sha256: str, size: int) -> None:
        """Have all of it. Raises FairleadError."""
        last: FairleadError = OperatorError("FL-IMAGE-AWAY", "no Controller that is connected has the image",
                                            "see that one is: `fairlead tunnel list`")
        alone, liars, idle = False, set[str](), 0
        givers = {"an earlier fetch"} if await asyncio.to_thread(self._images.have, sha256) else set[str]()
        while idle < ROUNDS:
            came = 0
            for name in [one for one in self._names(sha256) if one not in liars]:
                if alone:  # whose bytes it has is to be known
                    await asyncio.to_thread(self._images.remove, sha256)
                    givers.clear()
                before = await asyncio.to_thread(self._images.have, sha256)
                try:
                    gave = LEAST_BYTES
                    while gave >= LEAST_BYTES:  # in turns: it ends one before the end of the file
                        gave = await self._of(name, sha256, size)
                        if await asyncio.to_thread(self._images.whole, sha256) is not None:
                            return
                except FairleadError as error:
                    last = error
                    if error.code == "FL-IMAGE-HASH":
                        givers.add(name)
                        await self._wrong(sha256, givers, liars)
                        alone, givers, came = True, set(), came + (not alone)
                        continue
                    if error.code in ("FL-DISK", "FL-IMAGE-ROOM"):  # it is not the other side's fault
                        raise
                    log.info("image.later", sha256=sha256, controller=name, code=error.code, reason=error.message)
                if (now := await asyncio.to_thread(self._images.have, sha256)) > before:
                    givers.add(name)
                    came += 0 if alone else now - before
            if liars and not set(self._names(sha256)) - liars:
                break
            idle = 0 if came else idle + 1
            if not came and idle < ROUNDS:
                await asyncio.sleep(PAUSE_S)
        if liars:
            raise Refused("FL-IMAGE-HASH", f"{', '.join(sorted(liars))} gave other bytes than those of {sha256}",
                          "whoever has taken over that Controller does this: see its logs, and remove it")
        raise last

    async def _wrong(self, sha256: str, givers: set[str], liars: set[str]) -> None:
        log.warning("alarm", alarm="image.other-bytes", about=", ".join(sorted(givers)), sha256=sha256)
        if len(givers) == 1:
            (name,) = givers
            liars.add(name)
            if self._lying is not None:
                await self._lying(name, sha256)

    def _names(self, sha256: str) -> list[str]:
        """Whom to ask, in which order: a fleet spreads over all Controllers."""
        names = self._ways.controllers()
        random.SystemRandom().shuffle(names)
        having = self._having(sha256)
        return sorted(names, key=lambda name: name not in having)

    async def _of(self, name: str, sha256: str, size: int) -> int:
        """One turn at one Controller; how many bytes came."""
        before = await asyncio.to_thread(self._images.have, sha256)
        try:
            end = asyncio.get_running_loop().time() + TURN_S
            async with asyncio.timeout_at(end):
                tunnel = await self._ways.stream_to(name)
                channel = await tunnel.subsystem(SUBSYSTEM)
            try:
                return await fetch(self._images, sha256, size, _Asked(channel, end))
            finally:
                channel.close()
        except TimeoutError:
            raise Refused("FL-STREAM-LOST", f"{name} gives nothing") from None
        finally:
            after = await asyncio.to_thread(self._images.have, sha256)
            whole = await asyncio.to_thread(self._images.whole, sha256) is not None
            self._came[sha256] = self._came.get(sha256, 0) + max(0, after - before)
            self.moved = Moved(self.moved.bytes + max(0, after - before), self.moved.files + whole,
                               self.moved.verify_s)


class _Asked:
    """A `Source`: a channel to a Controller."""

    def __init__(self, channel: Channel, end: float) -> None:
        """*end*: of the turn, by the loop's time."""
        self._channel = channel
        self._end = end

    async def rest(self, sha256: str, size: int, offset: int) -> AsyncGenerator[bytes]:
        """See `Source`."""
        loop = asyncio.get_running_loop()
        incoming, patience_s = Incoming(), GREET_S
        async with asyncio.timeout_at(self._end):
            await self._channel.send(frames.encode(Want(v=VERSION, sha256=sha256, offset=offset).model_dump()))
        while True:  # only the waiting is cut short, never a piece on its way to the disk
            async with asyncio.timeout_at(min(loop.time() + patience_s, self._end)):
                data = await self._channel.receive()
            if not data:
                if incoming.have is None:
                    raise Refused("FL-STREAM-LOST", "the Controller gives no images now")
                return
            data = incoming.feed(data)
            if incoming.have is None:
                continue
            if incoming.have.code:  # its code is its own: to this node it would speak of this node's disk, say
                raise Refused("FL-IMAGE-UNKNOWN", f"the Controller gives none: {printable(incoming.have.words, 300)}")
            if incoming.have.size != size:
                raise Refused("FL-IMAGE-SIZE", f"the Controller has {incoming.have.size} bytes, {size} are wanted")
            patience_s = SILENT_S
            if data:
                yield data
