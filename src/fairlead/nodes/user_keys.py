"""What each node's user keys are to become: which rotation wants new ones, and what is due next for one node. Pure.

A node has one user key in use. A rotation gives it a next one, which the node makes itself; at cut over the two change
places, and when the node has said that it uses the new one, the last one is revoked for ever. All three may log in
until then, so that nothing that is under way breaks.

This is asked again and again, with what stands in the store, so that a crash or another leader changes nothing. A node
that was off comes back to the same questions: its last key is retired after it has changed, however late.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter

from fairlead.nodes.node import Node
from fairlead.nodes.records import KeyEntry

WANTED = "user-keys/wanted"
"""The key of the newest rotation of user keys."""
KIND = "user-keys"
"""As `Directory.keep` follows it."""

Step = Literal["next", "use", "retire", "back", "drop"]
Due = Literal["ask", "use", "retire", "back", "drop"]
FORWARD: tuple[Step, ...] = ("next", "use", "retire")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How far the newest rotation of user keys has come. It stays when that has ended: late nodes still change."""

    rotation: str
    step: Step
    """``next``: nodes make their next key. ``use``: it is their key. ``retire``: the last one goes. ``back``: the last
    one is the node's key again. ``drop``: the next one goes."""
    since: int
    """Nodes that joined later have new keys already; microseconds of store time."""
    before: str = ""
    """The rotation before this one, to which it gives way when it is dropped."""
    before_since: int = 0


_WANTED: TypeAdapter[Wanted] = TypeAdapter(Wanted)


def wanted_from(value: bytes) -> Wanted:
    """The record of a stored value. Raises ValueError."""
    return _WANTED.validate_json(value)


def encode_wanted(wanted: Wanted) -> bytes:
    """The stored value."""
    return _WANTED.dump_json(wanted)


@dataclass(frozen=True, slots=True)
class Keys:
    """The user keys of a node and which rotation, or token, brought each."""

    node: Node
    brought_current: str
    brought_next: str = ""


def due(keys: Keys, wanted: Wanted, *, used: bool, settled: bool) -> Due | None:
    """What is due for a node.

    *used*: the node has said on a connection of that key that it uses its key. *settled*: and none of its connections
    is the last one's any more, or they were waited for long enough.
    """
    node, rotation = keys.node, wanted.rotation
    if not _has_keys(node):
        return None
    is_new = keys.brought_current == rotation
    if node.last_key and is_new and wanted.step in ("back", "drop"):
        return "back"
    if node.last_key and used and settled and (wanted.step == "retire" or not is_new):
        return "retire"
    if node.next_key and keys.brought_next == rotation and wanted.step == "drop":
        return "drop"
    if node.last_key or wanted.step not in FORWARD:
        return None  # one change after the other: a node that was off ends the one before first
    if node.next_key and keys.brought_next == rotation:
        return "use" if wanted.step != "next" else None
    return "ask" if not is_new and node.joined_at < wanted.since else None


def missing(keys: Keys, wanted: Wanted, *, used: bool) -> str:
    """What this step still lacks of a node, in words; empty: nothing."""
    node, is_new = keys.node, keys.brought_current == wanted.rotation
    if not _has_keys(node):
        return ""
    if wanted.step in FORWARD:
        if node.joined_at >= wanted.since:
            return ""
        if not is_new and not (node.next_key and keys.brought_next == wanted.rotation):
            return "it has not made its next user key"
        if wanted.step != "next" and not (is_new and used):
            return "it does not use its new user key yet"
        return "its last user key is not retired yet" if wanted.step == "retire" and node.last_key else ""
    if node.last_key and is_new:
        return "its last user key is not its key again yet"
    if node.next_key and keys.brought_next == wanted.rotation:
        if wanted.step == "drop":
            return "its next user key is not dropped yet"
        return "" if used else "it does not use its last user key again yet"
    return ""


def late(keys: Keys, wanted: Wanted) -> bool:
    """Whether a rotation that has gone forward has not ended for this node: an old key of it still logs in."""
    node = keys.node
    return _has_keys(node) and wanted.step in FORWARD and (
        bool(node.last_key) or (node.joined_at < wanted.since and keys.brought_current != wanted.rotation))


def registered(node: Node, key: str) -> Node:
    """*node* with its next key."""
    return replace(node, next_key=key)


def used(node: Node) -> Node:
    """*node* after the cut over."""
    return replace(node, user_key=node.next_key, last_key=node.user_key, next_key="")


def retired(node: Node) -> Node:
    """*node* without its last key."""
    return replace(node, last_key="")


def back(node: Node) -> Node:
    """*node* with the last key as its key again, and the new one as its next, to be dropped."""
    return replace(node, user_key=node.last_key, next_key=node.user_key, last_key="")


def dropped(node: Node) -> Node:
    """*node* without its next key."""
    return replace(node, next_key="")


def revoked(entry: KeyEntry) -> KeyEntry:
    """A key that never logs in again."""
    return replace(entry, state="revoked")


def _has_keys(node: Node) -> bool:
    return node.joined_at > 0 and node.state in ("up", "frozen")  # a Controller that is still coming in is late
