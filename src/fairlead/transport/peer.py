"""Who is at the other end of a tunnel, and where a declared service really is. Pure."""

from dataclasses import dataclass
from typing import Literal

Standing = Literal["active", "pending"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A node as its proven key names it."""

    node_id: str
    node: str
    """The node's name."""
    role: str
    user: str
    """The SSH user as which the dialling side logs in."""
    standing: Standing
    """``pending`` is a node that has reserved a token and may only commit (join protocol, section 7)."""
    fingerprint: str
    """Of the key that the other side proves."""


@dataclass(frozen=True, slots=True)
class Target:
    """The owner's declaration of where a service listens. It comes from the registry, never from a peer."""

    host: str
    port: int
    service: str
