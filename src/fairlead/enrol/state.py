"""What may happen to a token: the state table of the join protocol, section 6. Pure.

Rules, and the attack each stops:

1. A token is reserved for one pair of keys and committed for exactly those. Repeating with the same keys costs nothing
   (a lost reply); other keys that prove the secret mean that somebody else has the bundle: before the commit the token
   freezes for good, after it the young engine does.
2. ``frozen``, ``expired`` and ``revoked`` are final: a frozen token that could thaw would be frozen again by the thief.
3. A token that is bound to keys never freezes: a stolen bound bundle is no lever against the honest node.
4. Deadlines are judged here by the store time that was read, and compared again inside the transaction: a request that
   was slow in between cannot reserve after the ceiling.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal

from pydantic import TypeAdapter

from fairlead.base.clock import MINUTE, SECOND
from fairlead.base.errors import Refused

State = Literal["open", "reserved", "redeemed", "expired", "revoked", "frozen"]
LIFETIME = 10 * MINUTE
COMMIT_GRACE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Conflict:
    """Who else proved the secret, once the token was spent."""

    fingerprint: str
    source: str
    time: int


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as the store keeps it: no secret, only the public key that its holder proves. Times in microseconds."""

    id: str
    state: State
    role: Literal["controller", "engine"]
    issued_by: str
    issued_at: int
    expires_at: int
    commit_by: int
    token_public: str
    """32 bytes, hexadecimal."""
    anchor_hash: str
    generation: str
    node: str | None = None
    source: str | None = None
    bound_keys_hash: str | None = None
    keys_hash: str | None = None
    node_id: str | None = None
    used_by: str = ""
    """Fingerprint of the host key that it was reserved for."""
    used_at: int = 0
    conflict: Conflict | None = None
    cloud: str = ""
    """The uuid of the cloud that its node is to be in; empty: the default one."""
    tenant: str = ""
    took_tombstone: bool = False
    """Whether the reserved name was a removed node's: it becomes a tombstone again when the join comes to nothing."""

    @property
    def deadline(self) -> int | None:
        """When it expires by itself, or None when it is final."""
        return {"open": self.expires_at, "reserved": self.commit_by}.get(self.state)


class Step(Enum):
    """What a fully proven request, or a commit, does."""

    RESERVE = auto()
    REPEAT = auto()
    FREEZE = auto()
    CONFLICT = auto()
    CONFLICT_KNOWN = auto()
    LATE_USE = auto()
    EXPIRE = auto()
    COMMIT = auto()


_ADAPTER: TypeAdapter[TokenRecord] = TypeAdapter(TokenRecord)


def decode(value: bytes) -> TokenRecord:
    """The token of a stored value."""
    return _ADAPTER.validate_json(value)


def encode(token: TokenRecord) -> bytes:
    """The stored value."""
    return _ADAPTER.dump_json(token)


def judge_exchange(token: TokenRecord, keys_hash: str, now: int, margin: int) -> Step:
    """What the exchange with these keys does. Raises Refused for what is final or not for these keys.

    *margin* (microseconds): how much earlier than the deadline a transaction must take effect.
    """
    bound = token.bound_keys_hash
    if bound is not None and bound != keys_hash:
        raise Refused("FL-JOIN-BOUND", "this bundle was made for the keys of another machine",
                      "import it on the machine that requested it")
    match token.state:
        case "open":
            return Step.RESERVE if now < token.expires_at - margin else Step.EXPIRE
        case "reserved" if token.keys_hash == keys_hash:
            return Step.REPEAT if now < token.commit_by else Step.EXPIRE
        case "reserved":
            return Step.FREEZE if now < token.commit_by else Step.EXPIRE
        case "redeemed" if token.keys_hash == keys_hash:
            if now < token.commit_by:
                return Step.REPEAT
            raise used()
        case "redeemed":
            if now >= token.expires_at:
                return Step.LATE_USE
            return Step.CONFLICT if token.conflict is None else Step.CONFLICT_KNOWN
        case _:
            raise final(token.state)


def judge_commit(token: TokenRecord, keys_hash: str, now: int, margin: int) -> Step:
    """What a commit message under these keys does: COMMIT, REPEAT or EXPIRE. Raises Refused."""
    if token.keys_hash != keys_hash:
        raise Refused("FL-JOIN-REFUSED", "the join was refused")
    match token.state:
        case "reserved":
            return Step.COMMIT if now < token.commit_by - margin else Step.EXPIRE
        case "redeemed":
            return Step.REPEAT
        case "frozen" | "expired" | "revoked":
            raise final(token.state)
        case _:
            raise Refused("FL-JOIN-REFUSED", "the join was refused")


def expired(token: TokenRecord) -> TokenRecord:
    """The token after its deadline."""
    return replace(token, state="expired")


def final(state: State) -> Refused:
    """The refusal of a token that is spent in *state*."""
    code, text = {
        "frozen": ("FL-JOIN-FROZEN", "somebody else has used this bundle: two machines proved its token"),
        "expired": ("FL-JOIN-EXPIRED", "this bundle has expired"),
        "revoked": ("FL-JOIN-REVOKED", "this bundle was revoked"),
    }[state]
    return Refused(code, text, "export a new bundle on the leader")


def used(fingerprint: str = "", when: str = "") -> Refused:
    """The refusal of a token that another machine, or this one long ago, has used."""
    by = f" by the machine with host key {fingerprint} at {when}" if fingerprint else ""
    return Refused("FL-JOIN-USED", f"this bundle was used already{by}",
                   "export a new bundle on the leader; if that machine is not yours, remove the node")


def conflict(fingerprint: str, when: str) -> Refused:
    """The refusal of a second machine inside the ten minutes."""
    return Refused("FL-JOIN-CONFLICT", "somebody else has used this bundle: it belongs to the machine with host key "
                   f"{fingerprint} since {when}", "compare that fingerprint with the machine's own; a container that "
                   "lost its state folder looks the same: give it a volume, export a new bundle")
