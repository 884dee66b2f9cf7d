"""What a cluster did while it was hurt, and whether that is what a cluster may do. Pure.

Five things, each a function that gives its complaints, in words; none is the answer that is hoped for.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client on a register: a *read*, or a *write* that compares first when *expected* is given."""

    kind: str
    began: float
    ended: float | None
    """None: no answer came; it may have happened at any time since, or not at all."""
    value: str | None = None
    """What was read, or is written."""
    expected: str | None = None
    succeeded: bool = True
    """Of a write that compares."""


def lost(acknowledged: Iterable[str], found: Iterable[str]) -> list[str]:
    """Writes that were acknowledged and are not there."""
    return [f"{name} was acknowledged and is not there" for name in sorted(set(acknowledged) - set(found))]


def redeemed_twice(nodes: Mapping[str, str]) -> list[str]:
    """*nodes*: by node, the token with which it joined."""
    return [f"the token {token} was redeemed by {count} nodes" for token, count in Counter(nodes.values()).items()
            if count > 1]


def two_leaders(terms: Iterable[tuple[int, str]]) -> list[str]:
    """*terms*: each term that somebody began, and who."""
    leaders: dict[int, list[str]] = {}
    for term, leader in terms:
        leaders.setdefault(term, []).append(leader)
    return [f"term {term} was begun by {' and by '.join(sorted(who))}" for term, who in sorted(leaders.items())
            if len(who) > 1]


def shared_addresses(seen: Iterable[Mapping[str, str]]) -> list[str]:
    """*seen*: pictures of the cluster, each the internal address of each node; a node keeps its address in all."""
    complaints, known = [], dict[str, str]()
    for picture in seen:
        complaints += [f"{address} belongs to {count} nodes" for address, count in Counter(picture.values()).items()
                       if count > 1]
        for node, address in picture.items():
            if known.setdefault(node, address) != address:
                complaints.append(f"{node} had {known[node]} and has {address}")
    return complaints


def not_linearizable(calls: Sequence[Call], first: str | None = None) -> list[str]:
    """Whether *calls* on one register, which holds *first*, have an order in which each takes effect at one moment
    between its beginning and its end (Wing and Gong, with the states that were tried remembered).
    """
    if len(calls) > 64:
        raise ValueError("a search over so many calls has no end")
    latest = [float("inf") if call.ended is None else call.ended for call in calls]

    @cache
    def possible(done: int, value: str | None) -> bool:
        left = [n for n in range(len(calls)) if not done >> n & 1]
        if all(calls[n].ended is None for n in left):
            return True  # none of them has to have happened
        soonest = min(latest[n] for n in left)
        for n in left:
            call = calls[n]
            if call.began > soonest:
                continue  # another one had ended before it began
            holds = call.expected is None or value == call.expected
            if call.kind == "read":
                if value == call.value and possible(done | 1 << n, value):
                    return True
            elif call.ended is None:
                if holds and possible(done | 1 << n, call.value):
                    return True
            elif call.succeeded is holds and possible(done | 1 << n, call.value if holds else value):
                return True
        return False

    return [] if possible(0, first) else [f"no order of these {len(calls)} calls explains what they saw"]
