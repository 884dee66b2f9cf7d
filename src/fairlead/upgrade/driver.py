"""The leader's part in an upgrade: it sees how the nodes stand, and writes whose turn it is.

Nodes follow what stands in the store, so all of it is done again after a crash or a change of leader. Each step is one
transaction with its record in the audit log, which compares that this Controller still leads and that nobody else has
taken the step: of two leaders that both believe they lead, one writes nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import uuid4

import structlog

from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.cluster.undertaking import Driving, Journal, Ledger, Records
from fairlead.rotation.driver import NOW as ROTATION
from fairlead.store.fence import Fence, NotLeading
from fairlead.store.protocol import Absent, Compare, Delete, Operation, Put, Record, Unchanged
from fairlead.upgrade import stages
from fairlead.upgrade.manifest import parts
from fairlead.upgrade.stages import MOST_PATIENCE_S, MOST_PAUSE_S, PATIENCE_S, Member, Step, Upgrade

KIND = "upgrade"
NOW = f"{KIND}/now"
WANTED = f"{KIND}/wanted"
"""The last that came to its end: nodes that were away follow it when they come back."""
REST = 5.0
"""Between two looks at all nodes: so many times as long as the last one took."""

log = structlog.get_logger("fairlead.upgrade")


class Fleet(Protocol):
    """The nodes, as this Controller sees them."""

    async def seen(self, upgrade: Upgrade | None) -> Mapping[str, Member]:
        """By id: how each stands with *upgrade*. Raises StoreUnavailable."""
        ...

    def way_back(self, node_id: str) -> str:
        """The version that this node can go back to, as it says; empty: none."""
        ...


@dataclass(frozen=True, slots=True)
class Image:
    """A bundle that this Controller has, and has verified."""

    uuid: str
    version: str
    minimum: str
    roles: tuple[str, ...]
    sha256: str
    size: int
    counter: int = 0
    number: int = 0


class Images(Protocol):
    """The bundles of the cluster."""

    async def find(self, name: str) -> Image:
        """By its uuid, hash or version, verified. Raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """How an upgrade is to go."""

    labels: tuple[str, ...] = ()
    batch: str = "10%"
    budget: str = "0"
    pause_s: int = 0
    patience_s: int = PATIENCE_S

    def checked(self) -> "Wish":
        """Raises Refused FL-UPGRADE-AMOUNT, FL-UPGRADE-PACE, FL-UPGRADE-LABEL."""
        stages.amount(self.batch, 100, least=1)
        stages.amount(self.budget, 100)
        if not 0 <= self.pause_s <= MOST_PAUSE_S or not 1 <= self.patience_s <= MOST_PATIENCE_S:
            raise Refused("FL-UPGRADE-PACE", "a pause or a patience that is too long, or none",
                          f"give a pause of at most {MOST_PAUSE_S} s, a patience of 1 to {MOST_PATIENCE_S} s")
        if bad := [label for label in self.labels if not all(label.partition("="))]:
            raise Refused("FL-UPGRADE-LABEL", f"{bad[0][:80]!r} is no label",
                          "give KEY=VALUE, as `fairlead node label`")
        return self


class Driver(Driving):
    """Drives the one upgrade that there may be."""

    def __init__(self, store: Records, audit: Journal, fence: Fence, leading: Callable[[], bool], me: str,
                 node_id: str, *, fleet: Fleet, images: Images, hand_over: Callable[[], Awaitable[None]]) -> None:
        """*me*, *node_id*: this Controller's name and id. *hand_over*: have another Controller lead. Raises
        FairleadError.
        """
        super().__init__(KIND, leading, rest=REST)
        self._store = store
        self._audit = audit
        self._fence = fence
        self._me = me
        self._node_id = node_id
        self._fleet = fleet
        self._images = images
        self._hand_over = hand_over
        self._ledger = Ledger(store, KIND, stages.encode, stages.decode)

    async def drive(self) -> bool:
        """One turn: what is seen, and the step that follows; whether an upgrade is under way.

        Raises StoreUnavailable, NotLeading, and what handing over raises.
        """
        async with self._turn:
            current = await self._ledger.current()
            if current is None:
                return False
            record, upgrade = current
            seen = await self._fleet.seen(upgrade)
            after = stages.step(upgrade, seen, self._node_id, await self._store.now(), settled=self.settled)
            if after is not None:
                await self._write(record, upgrade, after)
                return True
        if stages.hands_over(upgrade, seen, self._node_id):
            log.info("upgrade.hands-over", upgrade=upgrade.id)
            await self._hand_over()
        return True

    async def _write(self, record: Record, before: Upgrade, after: Upgrade) -> None:
        then = await self._ending(after) if after.phase == "over" else self._ledger.going(after)
        outcome = await self._audit.append_with([*self._fence(), Unchanged(NOW, record.revision)], then,
                                                [_entry(after, self._me, before)])
        if not outcome.succeeded:
            raise NotLeading(None)
        log.info("upgrade.step", upgrade=after.id, phase=after.phase, current=len(after.current),
                 failed=len(after.failed), outcome=after.outcome, why=after.why)
        self.nudge()

    async def _ending(self, after: Upgrade) -> list[Operation]:
        then = await self._ledger.ending(after)
        return [*then, Put(WANTED, stages.encode(after))] if after.outcome == "done" else then

    # -- what an operator asks for ------------------------------------------------------------------------------------

    async def start(self, image: str, wish: Wish, by: str, *, name: str = "") -> Upgrade:
        """Begin; *name*: its id, under which it may be asked for again when the answer was lost.

        Raises Refused FL-UPGRADE-BUSY, FL-UPGRADE-OLD, FL-UPGRADE-ROLE, FL-UPGRADE-SAME, FL-UPGRADE-OLDER,
        FL-UPGRADE-SEEN, FL-UPGRADE-AWAY, as `Wish.checked`, and as the image is not known.
        """
        self._fence()
        if name and (begun := await self._ledger.named(name)) is not None:
            return begun
        wish = wish.checked()
        found = await self._images.find(image)
        seen = await self._fleet.seen(None)
        self._check(found, seen)
        now = await self._store.now()
        before = self._before(found, seen)
        upgrade = Upgrade(name or uuid4().hex[:12], by, now, found.version, before, "distribute", now,
                          image=found.uuid, sha256=found.sha256, size=found.size, labels=wish.labels, batch=wish.batch,
                          budget=wish.budget, pause_s=wish.pause_s, patience_s=wish.patience_s, told_at=now,
                          steps=(Step("distribute", now),))
        return await self._begin(upgrade, by, [Absent(NOW)], [])

    def _check(self, image: Image, seen: Mapping[str, Member]) -> None:
        if missing := sorted({one.role for one in seen.values()} - set(image.roles)):
            raise Refused("FL-UPGRADE-ROLE", f"the bundle is not for every {missing[0]}",
                          "build it for both roles")
        self._insist_on_controllers(seen)
        there = [one for one in seen.values() if one.online]
        if all(one.version == image.version for one in there):
            raise Refused("FL-UPGRADE-SAME", f"every node that is connected runs {image.version} already",
                          "apply a bundle of another version")
        runs = self._version(seen)
        if _parts(image.version) < _parts(runs):
            raise Refused("FL-UPGRADE-OLDER", f"the bundle is of version {image.version}, the cluster runs {runs}",
                          "`fairlead upgrade rollback` goes back to the version of before")
        old = [f"{one.name} (its software takes no upgrades)" if not one.able else f"{one.name} ({one.version})"
               for one in sorted(there, key=lambda one: (one.role, one.name))
               if not one.able or _parts(one.version) < _parts(image.minimum)]
        if newer := [f"{one.name} (number {one.number}, security counter {one.counter})" for one in there
                     if one.number > image.number or one.counter > image.counter]:  # of before a restore, say
            raise Refused("FL-UPGRADE-SEEN", f"the bundle has the number {image.number} and the security counter "
                          f"{image.counter}; newer ones have been seen by " + ", ".join(sorted(newer)[:10]),
                          "apply the newest bundle; if such a node is in wrong hands, `fairlead node remove` it")
        if old:
            raise Refused("FL-UPGRADE-OLD", f"version {image.version} can be reached from {image.minimum} on; too old: "
                          + ", ".join(old[:10]) + (", ..." if len(old) > 10 else ""),
                          "upgrade these to a version between, or by hand")

    def _insist_on_controllers(self, seen: Mapping[str, Member]) -> None:
        away = sorted(one.name for one in seen.values() if one.role == "controller" and not (one.online and one.well))
        if away:
            raise Refused("FL-UPGRADE-AWAY", f"not connected, or not well: {', '.join(away)}; each Controller is away "
                          "for a moment, and the others have to be a majority meanwhile",
                          "see to it that all Controllers are up, or remove those that do not come back")

    def _before(self, image: Image, seen: Mapping[str, Member]) -> str:
        """The version that a way back leads to: also where this Controller has changed in an upgrade that halted."""
        if (runs := self._version(seen)) != image.version:
            return runs
        others = sorted({one.version for one in seen.values()} - {"", image.version}, key=_parts)
        return self._fleet.way_back(self._node_id) or next(iter(others), "")

    def _version(self, seen: Mapping[str, Member]) -> str:
        me = seen.get(self._node_id)
        return me.version if me is not None else ""

    async def back(self, wish: Wish, by: str, *, name: str = "") -> Upgrade:
        """Have all nodes go back to the version of before; an upgrade that is under way ends with it. Engines that say
        that they have no way back are left, and named.

        Raises Refused FL-UPGRADE-NONE, FL-UPGRADE-PREVIOUS, FL-UPGRADE-BUSY, FL-UPGRADE-AWAY, as `Wish.checked`.
        """
        self._fence()
        if name and (begun := await self._ledger.named(name)) is not None:
            return begun
        wish = wish.checked()
        async with self._turn:
            current = await self._ledger.current()
            last = current[1] if current is not None else next(iter(await self._ledger.past()), None)
            if last is None or last.back:
                raise Refused("FL-UPGRADE-NONE", "there is no upgrade to go back from" if last is None else
                              f"the last one went back to {last.version} already",
                              "`fairlead upgrade apply` goes on to another version")
            seen = await self._fleet.seen(None)
            self._insist_on_controllers(seen)
            stuck = sorted((one for one in seen.values() if one.online and one.version == last.version
                            and self._fleet.way_back(one.id) != last.before), key=lambda one: one.name)
            if controllers := self._ways(one for one in stuck if one.role == "controller"):
                raise Refused("FL-UPGRADE-PREVIOUS", f"these Controllers have no way back to {last.before}: "
                              f"{controllers}; they do not have it any more, or its security counter is "
                              "below what they have run", "apply a bundle of a newer version that works")
            # by its word alone an engine keeps nobody but itself from going back
            why = f"left as they are, with no way back to {last.before}: {self._ways(stuck)}" if stuck else ""
            now = await self._store.now()
            upgrade = Upgrade(name or uuid4().hex[:12], by, now, last.before, last.version, "engines", now, back=True,
                              labels=wish.labels, batch=wish.batch, budget=wish.budget, pause_s=wish.pause_s,
                              patience_s=wish.patience_s, told_at=now, left=tuple(one.id for one in stuck), why=why,
                              steps=(Step("engines", now),))
            if current is None:
                return await self._begin(upgrade, by, [Absent(NOW)], [])
            ended = replace(stages.at(last, "over", now), outcome="aborted", why=f"{by} goes back", current=())
            return await self._begin(upgrade, by, [Unchanged(NOW, current[0].revision)],
                                     [one for one in await self._ending(ended) if one != Delete(NOW)])

    def _ways(self, members: Iterable[Member]) -> str:
        """The first of them, each with where its way back leads."""
        found = [f"{one.name} ({self._fleet.way_back(one.id) or 'none'})" for one in members]
        return ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")

    async def _begin(self, upgrade: Upgrade, by: str, compare: Sequence[Compare],
                     then: Sequence[Operation]) -> Upgrade:
        # what the last one wanted is wanted no more, whatever comes of this one
        outcome = await self._audit.append_with(
            [*self._fence(), *compare, Absent(ROTATION)],
            [*self._ledger.going(upgrade), Delete(WANTED), *then], [_entry(upgrade, by)])
        if not outcome.succeeded:
            other = await self._ledger.current()
            if other is not None and other[1].id == upgrade.id:  # asked for twice, and the first time was only slow
                return other[1]
            if other is not None:
                raise Refused("FL-UPGRADE-BUSY", f"an upgrade is under way (to {other[1].version})",
                              "wait for its end, or `fairlead upgrade abort`")
            if await self._store.get(ROTATION) is not None:
                raise Refused("FL-UPGRADE-BUSY", "a rotation is under way",
                              "wait for its end, or `fairlead rotate abort`")
            raise NotLeading(None)
        self.nudge()
        return upgrade

    async def abort(self, by: str) -> Upgrade:
        """Have nobody new begin. Raises Refused FL-UPGRADE-NONE."""
        self._fence()
        async with self._turn:
            current = await self._ledger.current()
            if current is None:
                raise Refused("FL-UPGRADE-NONE", "no upgrade is under way", "`fairlead upgrade status` shows the last")
            record, upgrade = current
            after = stages.aborted(upgrade, by, await self._store.now())
            if after != upgrade:
                outcome = await self._audit.append_with([*self._fence(), Unchanged(NOW, record.revision)],
                                                        self._ledger.going(after), [_entry(after, by)])
                if not outcome.succeeded:
                    raise NotLeading(None)
        self.nudge()
        return after


def _parts(version: str) -> tuple[int, ...]:
    """To compare; of a developer's number, what it begins with."""
    try:
        return parts(version)
    except Refused:
        return ()


def newer(one: str, other: str) -> bool:
    """Whether version *one* is newer than *other*."""
    return _parts(one) > _parts(other)


def _entry(upgrade: Upgrade, by: str, before: Upgrade | None = None) -> Entry:
    details: dict[str, str | int] = {"id": upgrade.id, "told": len(upgrade.current), "failed": len(upgrade.failed)}
    details |= {name: value for name, value in (
        ("outcome", upgrade.outcome), ("why", upgrade.why[:200]), ("sha256", upgrade.sha256),
        ("names", ", ".join(upgrade.names.values())[:200])) if value}
    same = before is not None and before.phase == upgrade.phase
    return Entry(f"upgrade.{'turn' if same else upgrade.phase}", upgrade.version, by, details)
