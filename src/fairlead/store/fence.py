"""What a transaction that only the leader may do compares besides its own: that the leader is the one that decided.

A Controller that was stopped, cut off or voted out in the middle of its work still believes what it believed. Its
transactions carry the birth of its leader key, which is gone by then, so that they do nothing.
"""

from collections.abc import Callable, Sequence

from fairlead.base.errors import OperatorError
from fairlead.store.protocol import Compare, StoreUnavailable

Fence = Callable[[], Sequence[Compare]]
"""The compares of this Controller's term, asked for at each transaction. Raises NotLeading while it does not lead."""


class NotLeading(StoreUnavailable):
    """This Controller does not lead: the one that does must be asked, or there is none for the moment."""

    def __init__(self, leader: str | None = None) -> None:
        """*leader*: the name of the Controller that leads, when one is known."""
        OperatorError.__init__(
            self, "FL-NOT-LEADER", "this Controller does not lead the cluster" + (f", {leader} does" if leader else ""),
            f"ask {leader}" if leader else "try again in a few seconds, when another one leads")


def unfenced() -> Sequence[Compare]:
    """No fence: a single Controller, whose store has one writer."""
    return ()
