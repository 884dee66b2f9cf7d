"""What Controllers ask one another about upgrades: how the engines stand that each has. Pure."""

from pydantic import Field

from fairlead.link.engines import Fields
from fairlead.link.report import Report

STANDING = "upgrades"
MOST_NODES = 512
"""In one answer."""


class StandingAsked(Fields):
    """`STANDING`: of the engines whose ids come after this one, `MOST_NODES` at most."""

    after: str = Field(default="", max_length=64)


class Standing(Fields):
    """Those that are linked there, by id."""

    reports: dict[str, Report] = Field(default_factory=dict, max_length=MOST_NODES)
    old: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    """Those whose software knows no upgrades."""
    last: str = Field(default="", max_length=64)
    """Where to go on; empty: that was all."""
