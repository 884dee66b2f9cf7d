"""What has to change in a store that begins again with one Controller: after a restore, or when the others are lost.

Rules, and what each stops:

1. There is a new generation: no token of before ever redeems, not even one that was used after the backup and stands in
   it as open (join protocol, section 9). Those that are open or reserved are revoked in the same step.
2. The other Controllers are removed, as `node remove` does it: their keys are revoked for ever, their names are
   tombstones, their addresses rest. One that comes back, with the store of the other time, is let in by nobody.
3. So is each node that was removed meanwhile, when the operator names it; what was revoked stays so.
4. Nobody leads, and nobody else has the cluster key.
5. A rotation that was under way then is called off: it was decided on for another cluster. What Controllers said of it
   is forgotten.

Pure: records in, changes out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.cluster.tenure import LEADER
from fairlead.enrol import state as states
from fairlead.enrol.redeem import GENERATION, LIVE, TOKENS, new_generation
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.directory import REST
from fairlead.nodes.node import Node
from fairlead.nodes.records import (
    ADDRESSES,
    KEYS,
    NAMES,
    NODES,
    TOLD,
    AddressEntry,
    KeyEntry,
    NameEntry,
    encode,
    key_from,
    node_from,
    secrets_of,
)
from fairlead.rotation import phases
from fairlead.rotation.driver import NOW
from fairlead.store.protocol import Delete, Operation, Put


@dataclass(frozen=True, slots=True)
class Anew:
    """The changes, and what goes on record about them."""

    operations: Sequence[Operation]
    """The new generation first."""
    entries: Sequence[Entry]
    removed: Sequence[str]
    """Names of the nodes that are removed."""
    left: Sequence[Node]
    """The nodes that stay, for the operator to compare."""
    revoked: int
    """Tokens."""


@dataclass(slots=True)
class _Changes:
    records: Mapping[str, bytes]
    now: int
    values: dict[str, bytes | None] = field(default_factory=dict)

    def release(self, node: Node, name: NameEntry | None) -> None:
        """The node is gone; *name* is what is left of its name; its address rests."""
        self.values |= {
            NODES + node.id: None, NAMES + node.name: encode(name) if name is not None else None,
            ADDRESSES + node.internal_address: encode(AddressEntry(node.id, "quarantined", self.now + REST)),
            **dict.fromkeys(secrets_of(node.id))}

    def revoke_keys(self, node: Node) -> None:
        for line in filter(None, (node.host_key, node.next_host_key, *node.user_keys)):
            key = KEYS + PublicKey.from_line(line).fingerprint
            if key in self.records:
                entry: KeyEntry = key_from(self.records[key])
                self.values[key] = encode(replace(entry, state="revoked"))

    def forget_keys(self, node: Node) -> None:
        for line in filter(None, (node.host_key, node.next_host_key, *node.user_keys)):
            self.values[KEYS + PublicKey.from_line(line).fingerprint] = None


def begin_anew(records: Mapping[str, bytes], me: str, removed: Collection[str], *, by: str, now: int) -> Anew:
    """What to change in *records* so that the Controller with the id *me* is the only one.

    *removed*: names of nodes to take out besides. *by*: the command, for the record. *now*: microseconds of store time.
    Raises Refused FL-NODE-UNKNOWN, FL-NODE-CONTROLLER.
    """
    nodes = {node.id: node for node in (node_from(v) for k, v in records.items() if k.startswith(NODES))}
    changes, entries, revoked = _Changes(records, now), list[Entry](), 0
    for key, value in sorted(records.items()):
        token = states.decode(value) if key.startswith(TOKENS) else None
        if token is None or token.state not in ("open", "reserved"):
            continue
        revoked += 1
        changes.values |= {key: states.encode(replace(token, state="revoked")), LIVE + token.id: None}
        entries.append(Entry("token.revoked" if token.state == "open" else "join.revoked", token.id, by))
        node = nodes.pop(token.node_id or "", None) if token.state == "reserved" else None
        if node is not None:
            changes.release(node, NameEntry(node.id, "tombstone") if token.took_tombstone else None)
            changes.forget_keys(node)
    gone = _gone(nodes.values(), me, removed)
    for node in gone:
        changes.release(node, NameEntry(node.id, "tombstone"))
        changes.revoke_keys(node)
        entries.append(Entry("node.removed", node.name, by, {
            "node_id": node.id, "address": node.internal_address,
            "host_key": PublicKey.from_line(node.host_key).fingerprint}))
    changes.values |= {key: None for key in records if key.startswith(TOLD)}
    if NOW in records:
        rotation = _called_off(records[NOW], by, now)
        changes.values[NOW] = rotation
        entries.append(Entry("rotation.called-off", "rotation", by))
    there = {key: value for key, value in changes.values.items() if value is not None or key in records}
    return Anew(
        [Put(GENERATION, new_generation()), Delete(LEADER),
         *(Delete(key) if value is None else Put(key, value) for key, value in sorted(there.items()))],
        entries, [node.name for node in gone], [node for node in _sorted(nodes.values()) if node not in gone], revoked)


def _called_off(value: bytes, by: str, now: int) -> bytes | None:
    """The record of a rotation that goes back, or, where there is no way back, on; None for what nobody can read."""
    try:
        rotation = phases.decode(value)
    except ValueError:
        return None
    if rotation.phase == "retire":
        return phases.encode(phases.at(rotation, "retire", now))
    return None if rotation.phase == "scheduled" else phases.encode(phases.aborted(rotation, by, now))


def _gone(nodes: Collection[Node], me: str, removed: Collection[str]) -> Sequence[Node]:
    names = {node.name: node for node in nodes}
    for name in removed:
        if name not in names:
            raise Refused("FL-NODE-UNKNOWN", f"there is no node {name!r} in it, so it cannot come back",
                          "see that the name is right, or leave it out")
        if names[name].id == me:
            raise Refused("FL-NODE-CONTROLLER", f"{name} is the Controller that goes on", "leave it out")
    return [n for n in _sorted(nodes) if n.id != me and (n.role == "controller" or n.name in removed)]


def _sorted(nodes: Iterable[Node]) -> Sequence[Node]:
    return sorted(nodes, key=lambda node: (node.role, node.name))
