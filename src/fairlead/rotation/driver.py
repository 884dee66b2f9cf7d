"""The leader's part in a rotation: it does what the phase asks for, sees who is behind, and writes what follows.

Everything is done again after a crash or a change of leader, so all work of a kind may be done twice. Each step is one
transaction that compares that this Controller still leads and that nobody else has taken it: of two leaders that both
believe they lead, one writes nothing.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

import structlog

from fairlead.audit.record import Entry
from fairlead.base.errors import FairleadError, Refused
from fairlead.cluster.undertaking import Driving, Journal, Ledger, Records
from fairlead.pki.statement import Content
from fairlead.rotation import phases
from fairlead.rotation.phases import BY_BUNDLE, MOST_PATIENCE_S, Kind, Rotation, Seen, Step
from fairlead.rotation.statements import Statements
from fairlead.store.fence import Fence, NotLeading
from fairlead.store.protocol import Absent, Compare, Operation, Record, StoreUnavailable, Unchanged

KIND = "rotation"
NOW = f"{KIND}/now"
UPGRADE = "upgrade/now"
"""While there is one, nodes come and go: nothing rotates."""
MOST_AHEAD_DAYS = 366

log = structlog.get_logger("fairlead.rotation")


class Working(Protocol):
    """What is particular to a kind. All of it may be done again; none of it changes what is in use but `cut_over` and
    `cut_back`. Raises FairleadError: then the rotation goes back, but for StoreUnavailable, after which it is tried
    again.
    """

    async def check(self, to: str) -> None:
        """Whether it may begin; *to*: the uuid of a certificate, or empty. Raises Refused."""
        ...

    async def stranded(self, to: str) -> Mapping[str, str]:
        """By node: why it would not find its way after this rotation."""
        ...

    async def stage(self, rotation: Rotation) -> Mapping[str, str]:
        """Make what is new, where it is not there yet; what to keep of it in the record."""
        ...

    async def behind(self, rotation: Rotation) -> Mapping[str, str]:
        """By node: what is missing before the phase is over, besides the trust statement."""
        ...

    async def cut_over(self, rotation: Rotation) -> None:
        """The new one is used."""
        ...

    async def cut_back(self, rotation: Rotation) -> None:
        """The old one is used again."""
        ...

    async def retire(self, rotation: Rotation) -> None:
        """The old one is worth nothing."""
        ...

    async def withdraw(self, rotation: Rotation) -> None:
        """The new one is worth nothing."""
        ...


class Fleet(Protocol):
    """Who has which trust statement."""

    async def behind(self, number: int) -> Mapping[str, str]:
        """By node: those that are connected and have an older one."""
        ...


class Bundles(Protocol):
    """The tokens that are out."""

    async def lacking(self) -> Sequence[str]:
        """Ids of those that do not know all that a bundle of now knows."""
        ...

    async def revoke(self, token_id: str, by: str) -> object:
        """Make one worthless."""
        ...


class Driver(Driving):
    """Drives the one rotation that there may be."""

    def __init__(self, store: Records, audit: Journal, fence: Fence, leading: Callable[[], bool], me: str, *,
                 kinds: Mapping[Kind, Working], statements: Statements, fleet: Fleet, bundles: Bundles,
                 content: Callable[[Rotation | None], Awaitable[Content]]) -> None:
        super().__init__(KIND, leading)
        self._store = store
        self._audit = audit
        self._fence = fence
        self._me = me
        self._kinds = kinds
        self._statements = statements
        self._fleet = fleet
        self._bundles = bundles
        self._content = content
        self._ledger = Ledger(store, KIND, phases.encode, phases.decode)

    async def drive(self) -> bool:
        """One turn: the phase's work, and the step that follows; whether a rotation is under way.

        Raises StoreUnavailable, NotLeading, Refused.
        """
        async with self._turn:
            current = await self._ledger.current()
            if current is None:
                await self._statements.publish(await self._content(None))
                return False
            record, rotation = current
            if rotation.phase == "scheduled":
                await self._statements.publish(await self._content(rotation))
                after = phases.begun(rotation, await self._store.now())
            else:
                after = await self._worked(rotation)
            if after is not None:
                await self._write(record, rotation, after)
            return True

    async def _worked(self, rotation: Rotation) -> Rotation | None:
        try:
            changed, seen = await self._work(rotation)
        except StoreUnavailable:
            raise
        except FairleadError as error:
            log.error("rotation.failed", kind=rotation.kind, phase=rotation.phase, code=error.code, why=error.message)
            back = phases.failed(rotation, error.line(), await self._store.now())
            if back is not rotation:
                return back
            changed, seen = rotation, Seen({self._me: error.line()})  # there is no way back: it is tried again
        after = phases.step(changed, seen, await self._store.now())
        return changed if after is None and changed is not rotation else after

    async def _work(self, rotation: Rotation) -> tuple[Rotation, Seen]:
        work = self._kinds[rotation.kind]
        match rotation.phase:
            case "stage":
                material = dict(await work.stage(rotation))
                if material != rotation.material:
                    rotation = replace(rotation, material=material)
            case "cut-over":
                await work.cut_over(rotation)
            case "retire":
                await work.retire(rotation)
            case "cut-back":
                await work.cut_back(rotation)
            case "withdraw":
                await work.withdraw(rotation)
            case _:
                pass
        number = await self._statements.publish(await self._content(rotation))
        behind = dict(await work.behind(rotation))
        if rotation.phase in ("acknowledge", "cut-over", "retire"):
            behind = {**await self._fleet.behind(number), **behind}
        return rotation, Seen(behind, number, await self._tokens(rotation), not self.settled)

    async def _tokens(self, rotation: Rotation) -> int:
        if rotation.phase != "acknowledge" or rotation.kind not in BY_BUNDLE:
            return 0
        lacking = await self._bundles.lacking()
        if rotation.revoke_tokens:
            for token in lacking:
                try:
                    await self._bundles.revoke(token, rotation.by)
                except Refused as refusal:
                    if refusal.code not in ("FL-TOKEN-REDEEMED", "FL-TOKEN-UNKNOWN"):  # it was used a moment ago
                        raise
            return 0
        return len(lacking)

    async def _write(self, record: Record, before: Rotation, after: Rotation) -> None:
        then = await self._kept(after)
        compare: list[Compare] = [*self._fence(), Unchanged(NOW, record.revision)]
        if after.phase == before.phase:  # who catches up is no decision
            outcome = await self._store.transact(compare, then)
        else:
            outcome = await self._audit.append_with(compare, then, [_entry(after, self._me)])
        if not outcome.succeeded:
            raise NotLeading(None)
        log.info("rotation.step", kind=after.kind, phase=after.phase, behind=after.missing, outcome=after.outcome,
                 why=after.why)
        self.nudge()

    async def _kept(self, after: Rotation) -> list[Operation]:
        return await self._ledger.ending(after) if after.phase == "over" else self._ledger.going(after)

    # -- what an operator asks for ------------------------------------------------------------------------------------

    async def plan(self, kind: Kind, to: str) -> tuple[Mapping[str, str], Sequence[str]]:
        """Who would be stranded, by name with the reason, and the ids of the bundles that would be waited for.

        Raises Refused when it may not begin.
        """
        work = self._kinds.get(kind)
        if work is None:
            raise Refused("FL-ROTATE-KIND", f"this version of fairlead does not rotate {kind}", "upgrade it")
        await work.check(to)
        return await work.stranded(to), await self._bundles.lacking() if kind in BY_BUNDLE else ()

    async def start(self, kind: Kind, *, to: str, by: str, starts_at: int, forced: Sequence[str], revoke_tokens: bool,
                    patience_s: int, name: str = "") -> Rotation:
        """Begin; *name*: its id, under which it may be asked for again when the answer was lost.

        Raises Refused FL-ROTATE-BUSY, FL-ROTATE-STRANDED, FL-ROTATE-TIME, and as the kind's `check`.
        """
        fence = self._fence()
        if name and (begun := await self._ledger.named(name)) is not None:
            return begun
        stranded, _ = await self.plan(kind, to)
        if missing := sorted(set(stranded) - set(forced)):
            raise Refused("FL-ROTATE-STRANDED", "it would leave behind " + "; ".join(
                f"{name}: {stranded[name]}" for name in missing[:10]) + ("; ..." if len(missing) > 10 else ""),
                "mend that, or start with --force, which leaves exactly them behind")
        now = await self._store.now()
        if not 1 <= patience_s <= MOST_PATIENCE_S:
            raise Refused("FL-ROTATE-TIME", f"a patience of {patience_s} s", f"give 1 to {MOST_PATIENCE_S}")
        if starts_at > now + MOST_AHEAD_DAYS * 86_400_000_000:
            raise Refused("FL-ROTATE-TIME", "it is to start in more than a year", "give an earlier time")
        rotation = Rotation(name or uuid4().hex[:12], kind, by, now, max(now, starts_at), "scheduled", now, to=to,
                            patience_s=patience_s, forced=tuple(sorted(set(forced) & set(stranded))),
                            revoke_tokens=revoke_tokens, steps=(Step("scheduled", now),))
        outcome = await self._audit.append_with([*fence, Absent(NOW), Absent(UPGRADE)],
                                                self._ledger.going(rotation), [_entry(rotation, by)])
        if not outcome.succeeded:
            other = await self._ledger.current()
            if other is not None and other[1].id == rotation.id:  # asked for twice, and the first time was only slow
                return other[1]
            if other is not None:
                raise Refused("FL-ROTATE-BUSY", f"a rotation is under way ({other[1].kind})",
                              "wait for its end, or `fairlead rotate abort`")
            if await self._store.get(UPGRADE) is not None:
                raise Refused("FL-ROTATE-BUSY", "an upgrade is under way",
                              "wait for its end, or `fairlead upgrade abort`")
            raise NotLeading(None)
        self.nudge()
        return rotation

    async def abort(self, by: str) -> Rotation:
        """Call it off. Raises Refused FL-ROTATE-NONE, FL-ROTATE-LATE."""
        fence = self._fence()
        async with self._turn:
            current = await self._ledger.current()
            if current is None:
                raise Refused("FL-ROTATE-NONE", "no rotation is under way", "`fairlead rotate status` shows the last")
            record, rotation = current
            after = phases.aborted(rotation, by, await self._store.now())
            if after is not rotation:
                outcome = await self._audit.append_with([*fence, Unchanged(NOW, record.revision)],
                                                        await self._kept(after), [_entry(after, by)])
                if not outcome.succeeded:
                    raise NotLeading(None)
        self.nudge()
        return after


def _entry(rotation: Rotation, by: str) -> Entry:
    details: dict[str, str | int] = {"id": rotation.id, "behind": rotation.missing}
    details |= {name: value for name, value in (("outcome", rotation.outcome), ("why", rotation.why[:200]),
                                                ("to", rotation.to), ("forced", ", ".join(rotation.forced)[:200]))
                if value}
    return Entry(f"rotation.{rotation.phase}", rotation.kind, by, details)
