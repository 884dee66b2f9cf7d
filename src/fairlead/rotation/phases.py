"""What a rotation does next. Pure: what is seen and the time in, the next record out.

Rules, and what each stops:

1. Nothing that is in use changes before everybody has said that he knows what comes: *stage* makes it, *distribute* and
   *acknowledge* bring it to all that are connected, *cut over* uses it, *retire* makes the old one worthless.
2. A phase is over when nobody is behind. Who stays behind for too long turns it back, and what is in use stays in use;
   only once the old one is being retired there is no way back, and who is behind then is named.
3. Bundles that are out and do not know what comes are waited for, or revoked where that was asked for: they would lead
   to a refusal that looks like an attack.
4. The record is all there is: a crash or another leader goes on from it, and does what the phase says again.

Design, section 9: *in phases stage, distribute, acknowledge, cut over, retire, with plan, status, abort and automatic
roll-back*.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from pydantic import TypeAdapter

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused

Kind = Literal["secure-channel", "api", "root-ca", "host-keys", "user-keys"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Phase = Literal["scheduled", "stage", "distribute", "acknowledge", "cut-over", "retire", "cut-back", "withdraw", "over"]
Outcome = Literal["", "done", "aborted", "rolled-back"]
PATIENCE_S = 60
"""For a phase in which nobody new has caught up."""
MOST_PATIENCE_S = 3600
LONGEST = 10
"""Patiences: so long somebody may be behind in a phase, whoever catches up and falls behind again."""
MOST_SHOWN, MOST_WORDS = 20, 160
"""Nodes that are named in the record, and characters of what each lacks: there may be thousands."""
BY_BUNDLE: frozenset[Kind] = frozenset(("secure-channel", "root-ca", "host-keys"))
"""Of which a bundle says what is believed."""
BOTH: frozenset[Phase] = frozenset(("distribute", "acknowledge", "cut-over", "cut-back"))
"""In which the old and the new one are believed."""


@dataclass(frozen=True, slots=True)
class Step:
    """A phase, and since when, microseconds."""

    phase: Phase
    at: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation, as it is kept. Times are microseconds of store time."""

    id: str
    kind: Kind
    by: str
    asked_at: int
    starts_at: int
    phase: Phase
    since: int
    to: str = ""
    """The uuid of the certificate that it leads to, where that was named."""
    patience_s: int = PATIENCE_S
    forced: tuple[str, ...] = ()
    """Nodes that are left behind knowingly."""
    revoke_tokens: bool = False
    material: dict[str, str] = field(default_factory=dict)
    """What the kind has made; nothing secret."""
    number: int = 0
    """The trust statement that has to be acknowledged."""
    behind: dict[str, str] = field(default_factory=dict)
    """By node: what is missing, as it was last seen; of `MOST_SHOWN` at most."""
    missing: int = 0
    """How many are behind."""
    late_since: int = 0
    """Since when somebody has been behind; 0: nobody is."""
    moved_at: int = 0
    """When somebody was last seen to catch up, or the first to be behind."""
    tokens: int = 0
    """Bundles that are waited for."""
    why: str = ""
    """Of its going back."""
    outcome: Outcome = ""
    steps: tuple[Step, ...] = ()

    @property
    def both(self) -> bool:
        """Whether the old and the new one are believed now."""
        return self.phase in BOTH

    @property
    def is_new_in_use(self) -> bool:
        """Whether the new one is what is used."""
        return self.phase in ("cut-over", "retire")

    @property
    def is_back(self) -> bool:
        """Whether it goes back."""
        return self.phase in ("cut-back", "withdraw")


_RECORD: TypeAdapter[Rotation] = TypeAdapter(Rotation)


def encode(rotation: Rotation) -> bytes:
    """As it is kept."""
    return _RECORD.dump_json(rotation)


def decode(value: bytes) -> Rotation:
    """The reverse. Raises ValueError."""
    return _RECORD.validate_json(value)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the leader sees of the phase, once it has done what the phase asks for."""

    behind: Mapping[str, str]
    """By node: what is missing."""
    number: int = 0
    """The newest trust statement."""
    tokens: int = 0
    """Bundles that are out and would lead to a refusal after the cut."""
    settling: bool = False
    """The leader leads since a moment ago, and who is not there may be coming back to it: nobody stays behind yet."""


def begun(rotation: Rotation, now: int) -> Rotation | None:
    """The record once its time has come; None before."""
    return at(rotation, "stage", now) if now >= rotation.starts_at else None


def at(rotation: Rotation, phase: Phase, now: int) -> Rotation:
    """In another phase from *now* on."""
    return replace(rotation, phase=phase, since=now, late_since=0, moved_at=now, behind={}, missing=0,
                   tokens=0, steps=(*rotation.steps, Step(phase, now)))


def step(rotation: Rotation, seen: Seen, now: int) -> Rotation | None:
    """What the record becomes; None: nothing changes."""
    behind = {name: why for name, why in seen.behind.items() if name not in rotation.forced}
    late_since = (rotation.late_since or now) if behind else 0  # bundles alone are waited for without patience
    waits_anew = not rotation.late_since or len(behind) < rotation.missing
    shown = {name: why[:MOST_WORDS] for name, why in sorted(behind.items())[:MOST_SHOWN]}
    kept = replace(rotation, behind=shown, missing=len(behind), tokens=seen.tokens,
                   late_since=late_since, moved_at=now if waits_anew else rotation.moved_at)
    if behind:
        patience = rotation.patience_s * SECOND
        if (now - kept.moved_at > patience and not seen.settling) or now - late_since > LONGEST * patience:
            return _tired(kept, now)
    elif (after := _after(kept, seen)) is not None:
        phase, changed = after
        return at(changed, phase, now)
    same = (kept.behind, kept.missing, kept.tokens) == (rotation.behind, rotation.missing, rotation.tokens)
    return None if same else kept


def _after(rotation: Rotation, seen: Seen) -> tuple[Phase, Rotation] | None:
    """The phase that follows when nobody is behind, and what changes with it."""
    match rotation.phase:
        case "stage":
            return "distribute", rotation
        case "distribute":
            return "acknowledge", replace(rotation, number=seen.number)
        case "acknowledge":
            return None if seen.tokens else ("cut-over", rotation)
        case "cut-over":
            return "retire", rotation
        case "retire":
            return "over", replace(rotation, outcome="done")
        case "cut-back":
            return "withdraw", rotation
        case "withdraw":
            return "over", replace(rotation, outcome=rotation.outcome or "rolled-back")
        case _:
            return None


def _tired(rotation: Rotation, now: int) -> Rotation:
    """Somebody stays behind: back, or on without him where there is no way back."""
    names = ", ".join(f"{name} ({why})" for name, why in list(rotation.behind.items())[:5])
    more = f" and {rotation.missing - 5} more" if rotation.missing > 5 else ""
    why = f"in the phase {rotation.phase} {names}{more} stayed behind for {rotation.patience_s} s"[:600]
    left, missing = rotation.behind, rotation.missing
    match rotation.phase:
        case "retire":
            return replace(at(replace(rotation, outcome="done", why=why), "over", now), behind=left, missing=missing)
        case "withdraw":
            return replace(at(replace(rotation, outcome=rotation.outcome or "rolled-back"), "over", now), behind=left,
                           missing=missing)
        case "cut-back":
            return at(rotation, "withdraw", now)
        case _:
            return _back(rotation, "rolled-back", why, now)


def aborted(rotation: Rotation, by: str, now: int) -> Rotation:
    """The record once somebody has called it off. Raises Refused FL-ROTATE-LATE when there is no way back."""
    if rotation.phase in ("retire", "over"):
        raise Refused("FL-ROTATE-LATE", "the old one is being retired already: there is no way back",
                      "wait for its end; another rotation leads on from there")
    if rotation.is_back:
        return rotation
    if rotation.phase == "scheduled":
        return at(replace(rotation, outcome="aborted", why=f"called off by {by}"), "over", now)
    return _back(rotation, "aborted", f"called off by {by}", now)


def failed(rotation: Rotation, why: str, now: int) -> Rotation:
    """The record when what comes cannot be made or used. In *retire* it goes on: there is no way back."""
    if rotation.phase in ("retire", "over") or rotation.is_back:
        return rotation
    return _back(rotation, "rolled-back", why[:600], now)


def _back(rotation: Rotation, outcome: Outcome, why: str, now: int) -> Rotation:
    phase: Phase = "cut-back" if rotation.phase == "cut-over" else "withdraw"
    return at(replace(rotation, outcome=outcome, why=why), phase, now)
