"""What Controllers ask one another about user keys: how the nodes that each has connected are getting on. Pure."""

from pydantic import Field

from fairlead.link.engines import Fields

NEXT, STANDING = "user-key-next", "user-keys"
MOST_NODES = 512
"""In one question."""


class NextAsked(Fields):
    """`NEXT`: register the next key that this node has shown, with its proofs."""

    node: str = Field(max_length=64)
    rotation: str = Field(min_length=1, max_length=64)
    key: str = Field(max_length=128)
    user_proof: str = Field(max_length=128)
    host_proof: str = Field(max_length=128)


class NextDone(Fields):
    """It is."""


class StandingAsked(Fields):
    """`STANDING`: of these nodes, by their ids, in so many words."""

    nodes: list[str] = Field(max_length=MOST_NODES)


class Standing(Fields):
    """Of the nodes that were asked for, those of which there is something to say here."""

    here: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    """They are connected."""
    used: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    """They have said that they use their key, on a connection of that key."""
    open: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    """A connection of theirs has not proven it."""
    old: list[str] = Field(default_factory=list, max_length=MOST_NODES)
    """Their software does not make keys."""
    troubles: dict[str, str] = Field(default_factory=dict, max_length=MOST_NODES)
    """What they cannot do, and why."""
