"""Next user keys in the store: registered, put to use, retired, taken back. The leader's work.

Rules, and what each stops:

1. A key is registered by one transaction with its audit record, after its proofs were verified (`enrol.next_key`), for
   a rotation that wants one and a node that is to bring one: who has changed already, or joined since, fills no store
   with keys. A key that is known, in whatever state, is refused: nobody brings a revoked key back, or another node's.
2. Every change of a node's keys rewrites the node: a removal at the same moment is done with all keys, or not at all.
3. A retired or dropped key stays revoked for ever. The key that a node has in use is never revoked here.
4. A node that lost its next key shows another one, a few times; each is on record. It has to prove its host key for
   it, and the one before is revoked.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.enrol import next_key
from fairlead.enrol.next_key import Offer
from fairlead.keys.ssh import PublicKey
from fairlead.nodes import user_keys
from fairlead.nodes.directory import Directory
from fairlead.nodes.node import Node
from fairlead.nodes.records import KEYS, NODES, KeyEntry, encode, key_from, node_from
from fairlead.nodes.user_keys import FORWARD, WANTED, Due, Keys, Step, Wanted, due, encode_wanted, wanted_from
from fairlead.store.fence import Fence, unfenced
from fairlead.store.protocol import Absent, Compare, Operation, Outcome, Put, Record, StoreUnavailable, Unchanged
from fairlead.users.keys import USER_KEYS

TRIES = 3
MOST_REPLACED = 4
TOGETHER = 24
"""Nodes in one transaction: each takes two compares, two operations and a record."""
EVENTS: dict[Due, str] = {"use": "key.cut-over", "retire": "key.retired", "back": "key.cut-back", "drop": "key.dropped"}


class Records(Protocol):
    """What is needed of the store."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


class Succession:
    """The writing side of `nodes.user_keys`."""

    def __init__(self, store: Records, audit: Journal, directory: Directory, cluster: UUID,
                 fence: Fence = unfenced) -> None:
        self._store = store
        self._audit = audit
        self._directory = directory
        self._cluster = cluster
        self._fence = fence
        self._replaced = Counter[tuple[str, str]]()

    async def wanted(self) -> Wanted | None:
        """The newest rotation of user keys, as the store has it."""
        stored = await self._store.get(WANTED)
        return wanted_from(stored.value) if stored is not None else None

    async def want(self, rotation: str, step: Step, by: str) -> Wanted:
        """Bring *rotation* to *step*; one that is not the newest begins. Raises Refused FL-KEY-ROTATION, NotLeading."""
        for _ in range(TRIES):
            stored = await self._store.get(WANTED)
            known = wanted_from(stored.value) if stored is not None else None
            if known is not None and known.rotation == rotation:
                if known.step == step:
                    return known
                wanted = replace(known, step=step)
            elif step == "next":
                kept = known if known is not None and known.step in FORWARD else None
                wanted = Wanted(rotation, step, await self._store.now(), kept.rotation if kept else "",
                                kept.since if kept else 0)
            else:
                raise _over(rotation)
            if await self._do([_as_read(stored, WANTED)], [Put(WANTED, encode_wanted(wanted))],
                              [Entry("key.wanted", rotation, by, {"step": step})]):
                return wanted
        raise _busy()

    async def forget(self, rotation: str, by: str) -> None:
        """Nothing is left of a *rotation* that was dropped: the one before is the newest again. Raises NotLeading."""
        for _ in range(TRIES):
            stored = await self._store.get(WANTED)
            known = wanted_from(stored.value) if stored is not None else None
            if stored is None or known is None or known.rotation != rotation:
                return
            then = Wanted(known.before, "retire", known.before_since) if known.before else Wanted(
                known.rotation, "drop", known.since)
            if then == known or await self._do([_as_read(stored, WANTED)], [Put(WANTED, encode_wanted(then))],
                                               [Entry("key.wanted", then.rotation, by, {"step": then.step})]):
                return
        raise _busy()

    async def register(self, node_id: str, rotation: str, offered: Offer, by: str) -> None:
        """Take the next key of a node, which has been shown by that node. May be repeated.

        Raises Refused FL-KEY-PROOF, FL-KEY-ROTATION, FL-KEY-USED, FL-NODE-UNKNOWN; NotLeading, StoreUnavailable.
        """
        self._fence()
        for _ in range(TRIES):
            wanted, stored = await self._store.get(WANTED), await self._store.get(NODES + node_id)
            asked = wanted_from(wanted.value) if wanted is not None else None
            if stored is None:
                raise Refused("FL-NODE-UNKNOWN", "there is no such node any more", "see `fairlead node list`")
            if wanted is None or asked is None or asked.rotation != rotation or asked.step not in FORWARD:
                raise _over(rotation)
            node = node_from(stored.value)
            key = next_key.check(offered, self._cluster, node.id, rotation, node.host_key)
            known = await self._store.get(KEYS + key.fingerprint)
            if known is None and await self._store.get(USER_KEYS + key.fingerprint) is not None:  # a person's
                raise _used(key)
            if known is not None:
                entry = key_from(known.value)
                if (entry.node_id, entry.use, entry.state, entry.token_id) == (node.id, "user", "active", rotation):
                    return
                raise _used(key)
            compare, then, changed = await self._instead(node, rotation)
            if changed is node:
                keys = Keys(node, await self._brought(node.user_key))
                if due(keys, asked, used=False, settled=False) != "ask":
                    raise Refused("FL-KEY-ROTATION", f"{node.name} is not to bring a key now",
                                  "it has changed or joined since, or has to end the rotation before this one first")
                changed = user_keys.registered(node, key.line)
            else:  # it has lost the one that it had shown
                self._replaced[node.id, rotation] += 1
                if self._replaced[node.id, rotation] > MOST_REPLACED:
                    raise Refused("FL-KEY-USED", f"{node.name} shows ever other keys",
                                  "somebody else may have its keys: see `fairlead audit list`")
                changed = (replace(changed, user_key=key.line) if not changed.user_key
                           else replace(changed, next_key=key.line))
            compare += [Unchanged(wanted.key, wanted.revision), Unchanged(stored.key, stored.revision),
                        Absent(KEYS + key.fingerprint), Absent(USER_KEYS + key.fingerprint)]
            then += [Put(stored.key, encode(changed)),
                     Put(KEYS + key.fingerprint, encode(KeyEntry(node.id, "user", "active", rotation, key.line)))]
            if await self._do(compare, then, [Entry("key.next", node.name, by, {
                    "node_id": node.id, "rotation": rotation, "fingerprint": key.fingerprint})]):
                return
        raise _busy()

    async def _instead(self, node: Node, rotation: str) -> tuple[list[Compare], list[Operation], Node]:
        """Make room for another key of the same rotation; *node* itself when it has none of it yet."""
        for line, without in ((node.next_key, replace(node, next_key="")),
                              (node.user_key if node.last_key else "", replace(node, user_key=""))):
            record = await self._store.get(KEYS + PublicKey.from_line(line).fingerprint) if line else None
            if record is not None and key_from(record.value).token_id == rotation:
                return ([Unchanged(record.key, record.revision)],
                        [Put(record.key, encode(user_keys.revoked(key_from(record.value))))], without)
        return [], [], node

    async def _brought(self, line: str) -> str:
        """The rotation, or the token, that brought a key."""
        record = await self._store.get(KEYS + PublicKey.from_line(line).fingerprint)
        return key_from(record.value).token_id if record is not None else ""

    async def carry_out(self, dues: Iterable[tuple[str, Due]], by: str) -> int:
        """Do what is due for nodes, by their ids; how many were done. What has changed meanwhile is left for the next
        time. Raises NotLeading, StoreUnavailable.
        """
        self._fence()
        waiting, done = list(dues), 0
        for start in range(0, len(waiting), TOGETHER):
            batch = waiting[start:start + TOGETHER]
            if await self._together(batch, by):
                done += len(batch)
                continue
            for one in batch:  # somebody changed one of them
                done += await self._together([one], by)
        return done

    async def _together(self, batch: Sequence[tuple[str, Due]], by: str) -> bool:
        compare, then, entries = list[Compare](), list[Operation](), list[Entry]()
        for node_id, what in batch:
            stored = await self._store.get(NODES + node_id)
            node = node_from(stored.value) if stored is not None else None
            if stored is None or node is None:
                continue
            changed, gone = _changed(node, what)
            if changed == node:
                continue
            compare.append(Unchanged(stored.key, stored.revision))
            then.append(Put(stored.key, encode(changed)))
            if gone:
                record = await self._store.get(KEYS + PublicKey.from_line(gone).fingerprint)
                if record is not None:
                    compare.append(Unchanged(record.key, record.revision))
                    then.append(Put(record.key, encode(user_keys.revoked(key_from(record.value)))))
            entries.append(Entry(EVENTS[what], node.name, by, {
                "node_id": node.id, "fingerprint": PublicKey.from_line(gone or changed.user_key).fingerprint}))
        return not entries or await self._do(compare, then, entries)

    async def _do(self, compare: Sequence[Compare], then: Sequence[Operation], entries: Sequence[Entry]) -> bool:
        outcome = await self._audit.append_with([*self._fence(), *compare], then, entries)
        if outcome.succeeded:
            await self._directory.reached(outcome.revision)
        return outcome.succeeded


def _changed(node: Node, what: Due) -> tuple[Node, str]:
    """*node* afterwards, and the key that is worth nothing then."""
    match what:
        case "use" if node.next_key and not node.last_key:
            return user_keys.used(node), ""
        case "retire" if node.last_key:
            return user_keys.retired(node), node.last_key
        case "back" if node.last_key:
            return user_keys.back(node), ""
        case "drop" if node.next_key:
            return user_keys.dropped(node), node.next_key
        case _:
            return node, ""


def _used(key: PublicKey) -> Refused:
    return Refused("FL-KEY-USED", f"the key {key.fingerprint} has been used before",
                   "the node drops it and makes another")


def _as_read(record: Record | None, key: str) -> Compare:
    return Absent(key) if record is None else Unchanged(key, record.revision)


def _over(rotation: str) -> Refused:
    return Refused("FL-KEY-ROTATION", f"no rotation {rotation!r} wants user keys now", "nothing: it has ended")


def _busy() -> StoreUnavailable:
    return StoreUnavailable("the record changed three times while it was being changed")
