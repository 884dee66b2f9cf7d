"""Which versions of the link two nodes both speak, so that neighbouring versions of fairlead work together. Pure.

A node says a range. On the link to an engine it stands beside its software, as ``link/1-2``; between Controllers in the
answer to the question for the time. Who says none is of before there was more than one version, and speaks the one that
its first message names. What both speak at best is spoken; where there is none, both are named.
"""

import re
from dataclasses import dataclass

from fairlead.base.errors import Refused

_ABILITY = re.compile(r"link/([1-9]\d{0,3})-([1-9]\d{0,3})")


@dataclass(frozen=True, slots=True)
class Spoken:
    """From *lowest* to *highest*, both too."""

    lowest: int
    highest: int

    @property
    def ability(self) -> str:
        """As it stands beside a node's software."""
        return f"link/{self.lowest}-{self.highest}"

    def __str__(self) -> str:
        return f"{self.lowest}" if self.lowest == self.highest else f"{self.lowest} to {self.highest}"


OURS = Spoken(1, 1)


def said(software: str, version: int) -> Spoken:
    """What a node speaks that names its *software*, and *version* in its first message."""
    for word in software.split():
        if (match := _ABILITY.fullmatch(word)) and int(match[1]) <= int(match[2]):
            return Spoken(int(match[1]), int(match[2]))
    return Spoken(version, version)


def told(answer: object) -> Spoken:
    """What a Controller speaks that answers ``[lowest, highest]``; one that says nothing of it speaks the first."""
    match answer:
        case [int(lowest), int(highest)] if 0 < lowest <= highest:
            return Spoken(lowest, highest)
        case _:
            return Spoken(1, 1)


def both(theirs: Spoken, who: str, ours: Spoken = OURS) -> int:
    """The highest version that both speak. Raises Refused FL-LINK-VERSION: *who*, and what each speaks."""
    best = min(theirs.highest, ours.highest)
    if best < max(theirs.lowest, ours.lowest):
        raise Refused("FL-LINK-VERSION", f"{who} speaks version {theirs} of the link, this node {ours}",
                      "upgrade the older one of them by a version that speaks both, or by hand")
    return best
