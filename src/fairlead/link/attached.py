"""What Controllers ask one another about engines that are connected, and trust statements. Pure."""

from typing import Annotated

from pydantic import Field

from fairlead.link.engines import Fields

STANDING = "trust-standing"
MOST_NODES = 512
"""In one question."""


class StandingAsked(Fields):
    """`STANDING`: of these nodes, by their ids, with the trust statement of that *number*."""

    number: int = Field(ge=0)
    nodes: list[str] = Field(max_length=MOST_NODES)


class Standing(Fields):
    """Of the nodes that were asked for, those that are connected here."""

    here: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    behind: dict[str, Annotated[str, Field(max_length=1100)]] = Field(default_factory=dict, max_length=MOST_NODES)
    """Those that do not follow it, and why."""
    old: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    """Those whose software follows none."""
    skews: dict[str, int] = Field(default_factory=dict, max_length=MOST_NODES)
    """Their clocks minus store time, microseconds."""
