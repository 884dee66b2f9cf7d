"""Which node changes its version next. Pure: what is seen and the time in, the next record out.

Rules, and what each stops:

1. Forward: every Controller has the image and has verified it (*distribute*), then Controllers one at a time, each
   waited for until it runs the new version and its member of the store is well, the leader last, after it has handed
   over; then engines. So there is a majority at any time, and whoever leads was not changed under it.
2. Back is the same way backwards: engines first, then Controllers. So old Controllers never see an engine of a newer
   version than they saw on the way there.
3. Engines go in batches: the first is one engine, and its failure ends it; later ones are as large as was asked for,
   with a pause between, until more have failed than the budget allows. Nobody new is told then.
4. Who is away is named and not waited for. Who was told and does not come back in time has failed. An engine that has
   no way back, or says so, is left and named: none keeps the others from going back.
5. The record is all there is: a crash or another leader goes on from it. Who is done is seen, not remembered.

Design, section 10: *staged: followers, leader, engines by group, halting on failure; roll-back*.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from pydantic import TypeAdapter

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused, printable

Phase = Literal["distribute", "controllers", "engines", "halting", "over"]
Outcome = Literal["", "done", "halted", "aborted"]
State = Literal["waiting", "fetching", "verified", "switching", "trial", "done", "failed", "back"]
"""Of one node in one upgrade. *failed*: it was never started; *back*: it was, and the node went back by itself."""
STATES: tuple[State, ...] = get_args(State)
FAILED: frozenset[str] = frozenset(("failed", "back"))
HELD: frozenset[str] = frozenset(("verified", "switching", "trial", "done"))
"""States in which a node has the image."""
PATIENCE_S, MOST_PATIENCE_S = 600, 86_400
MOST_PAUSE_S = 86_400
SETTLE = 15 * SECOND
"""So long it is waited for engines that may be coming back, before they count as away."""
MOST_SHOWN, MOST_WORDS = 20, 300
_AMOUNT = re.compile(r"([1-9]\d{0,5})|([1-9]\d?|100)%|0")


@dataclass(frozen=True, slots=True)
class Step:
    """A phase, and since when, microseconds."""

    phase: Phase
    at: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is told. *back*: to the version that it ran before, which it has still."""

    id: str
    version: str
    sha256: str
    size: int
    back: bool = False


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade, as it is kept. Times are microseconds of store time, nodes are by their ids."""

    id: str
    by: str
    asked_at: int
    version: str
    """That it leads to."""
    before: str
    """That the leader ran when it began."""
    phase: Phase
    since: int
    image: str = ""
    sha256: str = ""
    size: int = 0
    back: bool = False
    labels: tuple[str, ...] = ()
    """Engines that have the first go first, then those with the second, then all others."""
    batch: str = "10%"
    budget: str = "0"
    pause_s: int = 0
    patience_s: int = PATIENCE_S
    current: tuple[str, ...] = ()
    """Those that are told now."""
    told_at: int = 0
    """Since when; or when the last ones were through."""
    batches: int = 0
    """Of engines, that have begun."""
    failed: dict[str, str] = field(default_factory=dict)
    """By id: why."""
    away: tuple[str, ...] = ()
    """Names of engines that were not there at its end, or were left."""
    missing: int = 0
    """How many."""
    names: dict[str, str] = field(default_factory=dict)
    """Of those that have failed, by id."""
    left: tuple[str, ...] = ()
    """Engines that stay as they are: they say that they have no way back."""
    why: str = ""
    outcome: Outcome = ""
    steps: tuple[Step, ...] = ()

    @property
    def order(self) -> Order:
        """What each node is told in its turn."""
        return Order(self.id, self.version, self.sha256, self.size, self.back)


_RECORD: TypeAdapter[Upgrade] = TypeAdapter(Upgrade)


def encode(upgrade: Upgrade) -> bytes:
    """As it is kept."""
    return _RECORD.dump_json(upgrade)


def decode(value: bytes) -> Upgrade:
    """The reverse. Raises ValueError."""
    return _RECORD.validate_json(value)


@dataclass(frozen=True, slots=True)
class Member:
    """A node, as the leader sees it."""

    id: str
    name: str
    role: Literal["controller", "engine"]
    version: str = ""
    """That it runs, as it says; empty: not known."""
    state: str = ""
    """In this upgrade, as it says; empty: it has said nothing of it."""
    why: str = ""
    online: bool = True
    able: bool = True
    """Whether its software knows upgrades."""
    well: bool = True
    """Of a Controller: connected, and its member of the store follows a leader."""
    labels: frozenset[str] = frozenset()
    """Each ``KEY=VALUE``."""
    counter: int = 0
    """The highest security counter that it says it has seen."""
    number: int = 0
    """Of the newest bundle that it says it has seen."""


def amount(text: str, of: int, *, least: int = 0) -> int:
    """How many ``N`` or ``P%`` are, *of* so many. Raises Refused FL-UPGRADE-AMOUNT."""
    match = _AMOUNT.fullmatch(text)
    if match is None or (text == "0" and least):
        raise Refused("FL-UPGRADE-AMOUNT", f"{printable(text, 40)!r} is no number of nodes",
                      "give a number such as 5, or a part such as 10%")
    return max(least, int(match[1]) if match[1] else of * int(match[2]) // 100 if match[2] else 0)


def at(upgrade: Upgrade, phase: Phase, now: int) -> Upgrade:
    """In another phase from *now* on."""
    return replace(upgrade, phase=phase, since=now, told_at=now, steps=(*upgrade.steps, Step(phase, now)))


def first(*, back: bool) -> Phase:
    """The phase that it begins with."""
    return "engines" if back else "distribute"


def is_done(upgrade: Upgrade, member: Member) -> bool:
    """Whether that node runs the version for good; on the way back: any but the one that is left."""
    there = member.version not in ("", upgrade.before) if upgrade.back else member.version == upgrade.version
    return there and member.state in ("", "done")


def step(upgrade: Upgrade, seen: Mapping[str, Member], leader: str, now: int, *,
         settled: bool = True) -> Upgrade | None:
    """What the record becomes; None: nothing changes. *leader*: the id of the Controller that leads. *settled*: it has
    been leading for long enough to have heard of everybody.
    """
    after = _step(_settle(upgrade, seen, now), seen, leader, now, settled)
    return after if after != upgrade else None


def _step(upgrade: Upgrade, seen: Mapping[str, Member], leader: str, now: int, settled: bool) -> Upgrade:
    if upgrade.phase == "over":
        return upgrade
    if upgrade.phase == "halting":
        return upgrade if upgrade.current else _over(upgrade, seen, now)
    if why := _too_many(upgrade, seen):
        return at(replace(upgrade, outcome="halted", why=why), "halting", now)
    if upgrade.current:
        return upgrade
    match upgrade.phase:
        case "distribute":
            return _distribute(upgrade, seen, now)
        case "controllers":
            return _controllers(upgrade, seen, leader, now)
        case _:
            return _engines(upgrade, seen, now, settled)


def _settle(upgrade: Upgrade, seen: Mapping[str, Member], now: int) -> Upgrade:
    """Without those that are through, or have failed, or were removed."""
    still: list[str] = []
    failed, names = dict(upgrade.failed), dict(upgrade.names)
    for node_id in upgrade.current:
        member = seen.get(node_id)
        if member is None or (upgrade.phase == "halting" and member.online and member.state in ("", "waiting")):
            continue  # it was removed, or has not begun
        if member.state in FAILED:
            failed[node_id], names[node_id] = member.why[:MOST_WORDS] or member.state, member.name
        elif is_done(upgrade, member) and member.online and member.well:
            continue
        elif now - upgrade.told_at > upgrade.patience_s * SECOND:
            doing = member.state or "waiting"
            failed[node_id] = (f"it is not connected since it was told ({doing})" if not member.online else
                               f"its member of the store is not well ({doing})" if is_done(upgrade, member) else
                               f"it is still {doing} after {upgrade.patience_s} s")
            names[node_id] = member.name
        else:
            still.append(node_id)
    if tuple(still) == upgrade.current:
        return upgrade
    return replace(upgrade, current=tuple(still), failed=failed, names=names,
                   told_at=upgrade.told_at if still else now)


def _too_many(upgrade: Upgrade, seen: Mapping[str, Member]) -> str:
    """Why it goes no further; empty: it does."""
    controllers = [node_id for node_id in upgrade.failed if (one := seen.get(node_id)) and one.role == "controller"]
    engines = [node_id for node_id in upgrade.failed if node_id not in controllers]
    total = sum(one.role == "engine" for one in seen.values())
    allowed = amount(upgrade.budget, total) if upgrade.batches > 1 else 0
    if not controllers and len(engines) <= allowed:
        return ""
    return (f"{len(upgrade.failed)} failed, {0 if controllers else allowed} may: " + "; ".join(
        f"{upgrade.names[one]}: {upgrade.failed[one]}" for one in (controllers + engines)[:5]))[:1000]


def _distribute(upgrade: Upgrade, seen: Mapping[str, Member], now: int) -> Upgrade:
    controllers = [one for one in seen.values() if one.role == "controller"]
    refusing = [one for one in controllers if one.state in FAILED]
    missing = [one for one in controllers if one.state not in HELD and not is_done(upgrade, one)]
    if refusing or (missing and now - upgrade.since > upgrade.patience_s * SECOND):
        why = {one.id: one.why[:MOST_WORDS] or "it does not have the image" for one in refusing or missing}
        failed = replace(upgrade, failed=why, names={one.id: one.name for one in refusing or missing})
        return at(replace(failed, outcome="halted", why=_too_many(failed, seen)), "halting", now)
    return upgrade if missing else at(upgrade, "controllers", now)


def _controllers(upgrade: Upgrade, seen: Mapping[str, Member], leader: str, now: int) -> Upgrade:
    controllers = sorted((one for one in seen.values() if one.role == "controller"), key=lambda one: one.name)
    waiting = [one for one in controllers if not is_done(upgrade, one)]
    if not waiting:
        return at(upgrade, "engines", now) if not upgrade.back else _over(upgrade, seen, now)
    unwell = [one for one in controllers if not (one.online and one.well)]
    followers = [one for one in waiting if one.id != leader] or (waiting if len(controllers) == 1 else [])
    following = followers[0] if followers else None
    if [one for one in unwell if one is not following]:
        return _impatient(upgrade, unwell[0], now)
    if following is None:  # the leader hands over
        return _impatient(upgrade, waiting[0], now)
    if not following.online:
        return _impatient(upgrade, following, now)
    return replace(upgrade, current=(following.id,), told_at=now)


def _impatient(upgrade: Upgrade, member: Member, now: int) -> Upgrade:
    if now - max(upgrade.since, upgrade.told_at) <= upgrade.patience_s * SECOND:
        return upgrade
    why = ("it does not hand over" if member.well and member.online else
           "it is not connected" if not member.online else "its member of the store is not well")
    return at(replace(upgrade, outcome="halted", why=f"{member.name}: {why}", failed={**upgrade.failed, member.id: why},
                      names={**upgrade.names, member.id: member.name}), "halting", now)


def hands_over(upgrade: Upgrade, seen: Mapping[str, Member], leader: str) -> bool:
    """Whether it is the leader's turn, who lets another Controller lead first."""
    others = [one for one in seen.values() if one.role == "controller" and one.id != leader]
    me = seen.get(leader)
    return (upgrade.phase == "controllers" and not upgrade.current and me is not None and not is_done(upgrade, me)
            and bool(others) and all(is_done(upgrade, one) and one.online and one.well for one in others))


def _engines(upgrade: Upgrade, seen: Mapping[str, Member], now: int, settled: bool) -> Upgrade:
    waiting = queue(upgrade, seen)
    if not waiting:
        away = absent(upgrade, seen)
        if away and (not settled or now - max(upgrade.since, upgrade.told_at) < SETTLE):
            return upgrade
        return at(upgrade, "controllers", now) if upgrade.back else _over(upgrade, seen, now)
    if upgrade.batches and now - upgrade.told_at < upgrade.pause_s * SECOND:
        return upgrade
    total = sum(one.role == "engine" for one in seen.values())
    size = amount(upgrade.batch, total, least=1) if upgrade.batches else 1
    group = _group(upgrade, waiting[0])
    batch = [one.id for one in waiting if _group(upgrade, one) == group][:size]
    return replace(upgrade, current=tuple(batch), told_at=now, batches=upgrade.batches + 1)


def queue(upgrade: Upgrade, seen: Mapping[str, Member]) -> Sequence[Member]:
    """The engines that are there and have their turn still to come, in its order."""
    return sorted((one for one in seen.values() if one.role == "engine" and one.online and one.able
                   and one.id not in (*upgrade.failed, *upgrade.current, *upgrade.left) and not is_done(upgrade, one)),
                  key=lambda one: (_group(upgrade, one), one.name))


def absent(upgrade: Upgrade, seen: Mapping[str, Member]) -> Sequence[Member]:
    """The engines that are away, or whose software knows no upgrades, and do not run the version."""
    return sorted((one for one in seen.values() if one.role == "engine" and not (one.online and one.able)
                   and one.id not in upgrade.failed and not is_done(upgrade, one)), key=lambda one: one.name)


def _group(upgrade: Upgrade, member: Member) -> int:
    return next((place for place, label in enumerate(upgrade.labels) if label in member.labels), len(upgrade.labels))


def _over(upgrade: Upgrade, seen: Mapping[str, Member], now: int) -> Upgrade:
    left = [one for node_id in upgrade.left if (one := seen.get(node_id)) and not is_done(upgrade, one)]
    away = sorted({one.name for one in (*absent(upgrade, seen), *left)})
    return replace(at(upgrade, "over", now), outcome=upgrade.outcome or "done", away=tuple(away[:MOST_SHOWN]),
                   missing=len(away))


def aborted(upgrade: Upgrade, by: str, now: int) -> Upgrade:
    """The record once somebody has called it off: nobody new is told, and who is under way comes to an end."""
    if upgrade.phase in ("halting", "over"):
        return upgrade
    return at(replace(upgrade, outcome="aborted", why=f"called off by {by}"), "halting", now)


def told(upgrade: Upgrade, node_id: str, role: str) -> bool:
    """Whether that node is to change its version, now."""
    return node_id in upgrade.current and upgrade.phase in ("controllers", "engines") and (
        (role == "controller") == (upgrade.phase == "controllers"))
