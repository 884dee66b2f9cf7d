"""Which engine follows which trust statement: a subject of the link.

An engine says which one it follows, and is brought those after it. What it says counts for what is waited for, and for
nothing else: whether it believes a statement is its own to judge, by the root that it knows (`pki.statement`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from fairlead.fleet.together import Together
from fairlead.keys.wire import sha256
from fairlead.link.frames import encode
from fairlead.link.messages import (
    FOLLOWS_TRUST,
    AnyFromController,
    AnyFromEngine,
    Trusting,
    TrustOffered,
    TrustStatements,
)
from fairlead.link.trust import MOST_CHAIN
from fairlead.pki import statement as statements

TOGETHER = 64
"""Engines that are told at once, before others get a turn."""
TOO_OLD = "its software does not follow trust statements"


class Engines(Protocol):
    """Those that are connected here."""

    def linked(self, ability: str) -> list[str]:
        """Their ids, of those with that ability; all, of an empty one."""
        ...

    async def tell(self, node_id: str, message: AnyFromController) -> None:
        """Say it to one, if it is there."""
        ...

    async def send(self, node_id: str, frame: bytes) -> None:
        """The same of a message that is encoded already."""
        ...


@dataclass(slots=True)
class EngineTrust:
    """Brings statements, and counts who follows. *kept*: text by number, as the store has them."""

    kept: Mapping[str, str]
    engines: Engines
    ability: str = FOLLOWS_TRUST
    _said: dict[str, Trusting] = field(default_factory=dict)
    """By id: what each has said last."""
    _told: int = 0
    _together: Together = field(default_factory=Together)

    @property
    def newest(self) -> int:
        """The number of the newest statement; 0: there is none."""
        return max(map(int, self.kept), default=0)

    def after(self, number: int) -> Sequence[str]:
        """The texts of the statements after *number*, in order."""
        return [text for key, text in sorted(self.kept.items()) if int(key) > number][:MOST_CHAIN]

    def asked(self, root: str, number: int) -> Sequence[str] | None:
        """The same for somebody who knows the root of that hash (hex); None where it never was the cluster's."""
        known = any(root in _roots(text) for text in self.kept.values())
        return self.after(number) if known else None

    def behind(self, number: int) -> Mapping[str, str]:
        """By id: the engines that are connected here and do not follow *number* yet, and why."""
        found: dict[str, str] = {}
        for node_id in self.engines.linked(""):
            said = self._said.get(node_id)
            if said is None or not number <= said.number <= max(self.newest, number):
                found[node_id] = _why(said, number)
        return found

    def too_old(self) -> frozenset[str]:
        """Ids of the engines that are connected here and follow no statements."""
        return frozenset(self.engines.linked("")) - frozenset(self.engines.linked(self.ability))

    async def greeted(self, node_id: str) -> None:
        """An engine has come: it is to say what it follows."""
        self._said.pop(node_id, None)
        await self.engines.tell(node_id, TrustOffered(number=self.newest))

    async def heard(self, node_id: str, message: AnyFromEngine) -> None:
        """It says so."""
        if not isinstance(message, Trusting):
            return
        self._said[node_id] = message
        if not message.code and (texts := self.after(message.number)):
            await self.engines.tell(node_id, TrustStatements(texts=list(texts)))

    def left(self, node_id: str) -> None:
        """It is waited for no longer: it follows when it comes back."""
        self._said.pop(node_id, None)

    async def bring(self) -> None:
        """There may be a new statement: bring it to all that are connected."""
        newest = self.newest
        if newest == self._told:
            return
        self._told = newest
        frames = dict[int, bytes]()
        behind = [(node_id, said.number) for node_id in self.engines.linked(self.ability)
                  if (said := self._said.get(node_id)) is not None and said.number < newest]
        for start in range(0, len(behind), TOGETHER):
            some = behind[start:start + TOGETHER]
            frames |= {number: encode(TrustStatements(texts=list(self.after(number))).model_dump())
                       for number in {number for _, number in some} - frames.keys()}
            await self._together.do(self.engines.send(node_id, frames[number]) for node_id, number in some)

    async def again(self) -> None:
        """Those that refused may have found room on their disk since."""
        for node_id in self.engines.linked(self.ability):
            said = self._said.get(node_id)
            if said is not None and said.code:
                await self.engines.tell(node_id, TrustOffered(number=self.newest))


def _why(said: Trusting | None, number: int) -> str:
    if said is not None and said.code:
        return f"it refuses: {said.words or said.code}"
    if said is not None and said.number > number:
        return f"it follows the trust statement {said.number}, of another life of this store"
    return "it has not acknowledged the trust statement"


@lru_cache(maxsize=128)
def _roots(text: str) -> frozenset[str]:
    """The hashes, hex, of a statement's roots."""
    return frozenset(sha256(der).hex() for der in statements.read(text).statement.content.roots)
