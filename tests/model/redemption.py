"""The redemption of tokens as a small executable model: the join protocol, section 6, and nothing else.

It shares no line with the product. Records have versions; a request is a generator that reads, yields one `Transaction`
after the other, hears of each whether it took effect, and returns its answer. Between two steps of one request anything
may happen: other requests, the clock, a restored backup, the end of the Controller that serves it. The properties that
the protocol's checked model states are asserted where they could break.
"""

from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

GRACE_S = 60
REST_S = 600
TRIES = 3
FINAL = ("expired", "revoked", "frozen")
Key = tuple[str, str]
"""Kind and name of a record: ``("token", "t0")``, ``("node", "n3")``, ``("name", "se-0")``, ``("address", "0")``,
``("keys", "k1")``, ``("live", "t0")``."""
Answer = str | tuple[str, str, int]
"""A code, or what was done; for an exchange the result, the node's name and its address."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bundle's token. Times in seconds from the beginning."""

    expires_at: int
    generation: int
    node_name: str | None = None
    bound: str | None = None
    state: Literal["open", "reserved", "redeemed", "expired", "revoked", "frozen"] = "open"
    keys: str | None = None
    node: str | None = None
    conflict: bool = False
    took_tombstone: bool = False

    @property
    def commit_by(self) -> int:
        return self.expires_at + GRACE_S

    @property
    def deadline(self) -> int | None:
        return {"open": self.expires_at, "reserved": self.commit_by}.get(self.state)


@dataclass(frozen=True, slots=True)
class Node:
    """A node, joining or joined."""

    name: str
    address: int
    keys: str
    token: str
    state: Literal["joining", "up", "frozen"] = "joining"


@dataclass(frozen=True, slots=True)
class Held:
    """A name or an address, or what is left of it. An address that rests is free from *until* on."""

    state: Literal["held", "tombstone", "resting"]
    until: int = 0


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a machine's keys are for."""

    state: Literal["pending", "active", "revoked"]
    token: str
    node: str


@dataclass(frozen=True, slots=True)
class Live:
    """The backstop; None: a store that lengthens leases."""

    until: int | None


Entry = Token | Node | Held | KeyPair | Live


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was read, and what happens if it is still so."""

    read: tuple[tuple[Key, int | None], ...]
    """Records and their versions; None: there was no such record."""
    puts: dict[Key, Entry]
    deletes: tuple[Key, ...] = ()
    before: int | None = None
    """The store's clock must be below it."""
    live: str | None = None
    """The token whose backstop must stand."""
    generation: int | None = None


Request = Generator[Transaction, bool, Answer]


@dataclass(slots=True)
class Model:
    """The store, its clock, and what outlives a restored backup only in the head of who watches (the ghosts)."""

    lengthens: bool = False
    """Whether leases last for ever, so that deadlines stand alone."""
    now: int = 0
    generation: int = 0
    records: dict[Key, Entry] = field(default_factory=dict)
    versions: dict[Key, int] = field(default_factory=dict)
    _version: int = 0
    _nodes: int = 0
    commits: Counter[str] = field(default_factory=Counter)
    dead: set[str] = field(default_factory=set)
    alarms: Counter[str] = field(default_factory=Counter)

    # -- the store ----------------------------------------------------------------------------------------------------

    def take_effect(self, transaction: Transaction) -> bool:
        """Do it, if all that was read still stands."""
        if not (all(self.versions.get(key) == version for key, version in transaction.read)
                and (transaction.before is None or self.now < transaction.before)
                and (transaction.live is None or ("live", transaction.live) in self.records)
                and (transaction.generation is None or transaction.generation == self.generation)):
            return False
        self._watch_over(transaction)
        for key in transaction.deletes:
            self.records.pop(key, None)
            self.versions.pop(key, None)
        for key, entry in transaction.puts.items():
            self._version += 1
            self.records[key], self.versions[key] = entry, self._version
        return True

    def _watch_over(self, transaction: Transaction) -> None:
        """The properties of the protocol (C1, C2, C9), at the only place where they can break."""
        for (kind, name), entry in transaction.puts.items():
            before = self.records.get((kind, name))
            if isinstance(entry, Token) and isinstance(before, Token) and entry.state != before.state:
                assert before.state not in FINAL, "what is final stays"
                if entry.state == "reserved":
                    assert name not in self.dead
                    assert not self.commits[name]
                    assert self.now < entry.expires_at
                elif entry.state == "redeemed":
                    self.commits[name] += 1
                    assert self.commits[name] == 1, "one commit for one token"
                    assert name not in self.dead
                    assert (before.state, before.keys) == ("reserved", entry.keys)
                    assert self.now < entry.commit_by
                else:
                    assert before.state in ("open", "reserved"), "a commit is not undone"
                    self.dead.add(name)
                    self.alarms[name] += entry.state == "frozen"
            if isinstance(entry, Token) and isinstance(before, Token) and entry.conflict and not before.conflict:
                self.alarms[name] += 1
            if kind == "address" and isinstance(entry, Held) and entry.state == "held":
                assert before is None or (isinstance(before, Held) and before.state == "resting"
                                          and before.until <= self.now), "an address has one node"
            if isinstance(entry, Node) and before is None:
                assert all(n.address != entry.address and n.name != entry.name for n in self.nodes().values())

    def pass_time(self, seconds: int) -> None:
        """The clock goes on; leases that have ended by then take their keys along."""
        self.now += seconds
        for key, entry in list(self.records.items()):
            if isinstance(entry, Live) and entry.until is not None and entry.until <= self.now:
                del self.records[key], self.versions[key]

    def backup(self) -> dict[Key, Entry]:
        """What a backup holds."""
        return dict(self.records)

    def restore(self, backup: dict[Key, Entry]) -> None:
        """Everything as it was, under a new generation; leases are not part of a backup."""
        self.generation += 1
        self.records, self.versions = {}, {}
        for key, entry in backup.items():
            self._version += 1
            self.records[key] = Live(None) if isinstance(entry, Live) else entry
            self.versions[key] = self._version

    def nodes(self) -> dict[str, Node]:
        """By id."""
        return {name: e for (kind, name), e in self.records.items() if kind == "node" and isinstance(e, Node)}

    def token(self, name: str) -> Token | None:
        """A token."""
        entry = self.records.get(("token", name))
        assert entry is None or isinstance(entry, Token)
        return entry

    def node(self, name: str | None) -> Node | None:
        """A node by id."""
        entry = self.records.get(("node", name or ""))
        assert entry is None or isinstance(entry, Node)
        return entry

    def _held(self, key: Key) -> Held | None:
        entry = self.records.get(key)
        assert entry is None or isinstance(entry, Held)
        return entry

    def _keys(self, keys: str) -> KeyPair | None:
        entry = self.records.get(("keys", keys))
        assert entry is None or isinstance(entry, KeyPair)
        return entry

    def _read(self, *keys: Key) -> tuple[tuple[Key, int | None], ...]:
        return tuple((key, self.versions.get(key)) for key in keys)

    # -- the operator -------------------------------------------------------------------------------------------------

    def issue(self, token: str, lifetime_s: int, node_name: str | None, bound: str | None) -> Answer:
        """A new token, in one step."""
        if node_name is not None:
            name = self._held(("name", node_name))
            if name is not None and name.state == "held":
                return "FL-JOIN-NAME"
        until = None if self.lengthens else self.now + lifetime_s + GRACE_S
        self.take_effect(Transaction((), {
            ("token", token): Token(self.now + lifetime_s, self.generation, node_name, bound),
            ("live", token): Live(until)}))
        return "issued"

    def revoke(self, name: str) -> Request:
        """The operator's change of mind."""
        for _ in range(TRIES):
            token = self.token(name)
            if token is None:
                return "FL-TOKEN-UNKNOWN"
            if token.state == "redeemed":
                return "FL-TOKEN-REDEEMED"
            if token.state in FINAL:
                return token.state
            if (yield self._end(name, token, "revoked")):
                return "revoked"
        return "FL-STORE"

    def remove(self, node_name: str) -> Request:
        """A node goes for good."""
        for _ in range(TRIES):
            found = next(((i, n) for i, n in self.nodes().items() if n.name == node_name), None)
            if found is None:
                return "FL-NODE-UNKNOWN"
            node_id, node = found
            if node.state == "joining":
                return "FL-NODE-STATE"
            address, keys = ("address", str(node.address)), ("keys", node.keys)
            if (yield Transaction(self._read(("node", node_id), address, keys), {
                    ("name", node.name): Held("tombstone"), address: Held("resting", self.now + REST_S),
                    keys: KeyPair("revoked", node.token, node_id)}, (("node", node_id),))):
                return "removed"
        return "FL-STORE"

    def release(self, node_name: str, keys: str) -> Request:
        """The operator has compared the fingerprint."""
        for _ in range(TRIES):
            found = next(((i, n) for i, n in self.nodes().items() if n.name == node_name), None)
            if found is None:
                return "FL-NODE-UNKNOWN"
            node_id, node = found
            if node.state != "frozen":
                return "FL-NODE-STATE"
            if node.keys != keys:
                return "FL-NODE-FINGERPRINT"
            if (yield Transaction(self._read(("node", node_id)), {("node", node_id): replace(node, state="up")})):
                return "released"
        return "FL-STORE"

    def label(self, node_name: str) -> None:
        """Somebody writes a node's record, in one step."""
        for node_id, node in self.nodes().items():
            if node.name == node_name:
                self.take_effect(Transaction((), {("node", node_id): node}))

    # -- the joiner ---------------------------------------------------------------------------------------------------

    def exchange(self, name: str, keys: str, node_name: str) -> Request:
        """A fully proven request."""
        for _ in range(TRIES):
            token = self.token(name)
            if token is None:
                return "FL-JOIN-REFUSED"
            if token.node_name not in (None, node_name):
                return "FL-JOIN-NAME"
            known = self._keys(keys)
            if known is not None and known.token != name:
                return "FL-JOIN-KEYS"
            answer = yield from self._exchange(name, token, keys, node_name)
            if answer is not None:
                return answer
        return "FL-STORE"

    def _exchange(self, name: str, token: Token, keys: str, node_name: str
                  ) -> Generator[Transaction, bool, Answer | None]:
        if token.bound not in (None, keys):
            return "FL-JOIN-BOUND"
        if token.state in FINAL:
            return f"FL-JOIN-{token.state.upper()}"
        if token.deadline is not None and token.deadline <= self.now:
            return "FL-JOIN-EXPIRED" if (yield self._end(name, token, "expired")) else None
        if token.state == "open":
            return (yield from self._reserve(name, token, keys, node_name))
        if token.keys == keys:
            if token.commit_by <= self.now:
                return "FL-JOIN-USED"
            node = self.node(token.node)
            if node is None:
                return "FL-JOIN-USED"
            if node.name != node_name:
                return "FL-JOIN-CHANGED"
            return "reserved" if token.state == "reserved" else "committed", node.name, node.address
        if token.state == "reserved":
            return "FL-JOIN-CONFLICT" if (yield self._end(name, token, "frozen")) else None
        if token.expires_at <= self.now:
            return "FL-JOIN-USED"
        if token.conflict:
            return "FL-JOIN-CONFLICT"
        node, node_key = self.node(token.node), ("node", token.node or "")
        puts: dict[Key, Entry] = {("token", name): replace(token, conflict=True)}
        if node is None:
            return "FL-JOIN-CONFLICT" if (yield Transaction(self._read(("token", name)), puts)) else None
        puts[node_key] = replace(node, state="frozen")
        return "FL-JOIN-CONFLICT" if (yield Transaction(self._read(("token", name), node_key), puts)) else None

    def _reserve(self, name: str, token: Token, keys: str, node_name: str
                 ) -> Generator[Transaction, bool, Answer | None]:
        place = self._held(("name", node_name))
        if place is not None and (token.node_name is None or place.state == "held"):
            return "FL-JOIN-NAME"
        if self._keys(keys) is not None:
            return "FL-JOIN-KEYS"
        address = next(a for a in range(1_000) if self._free(self._held(("address", str(a)))))
        self._nodes += 1
        node_id = f"n{self._nodes}"
        took = yield Transaction(
            self._read(("token", name), ("name", node_name), ("address", str(address)), ("keys", keys)), {
                ("token", name): replace(token, state="reserved", keys=keys, node=node_id,
                                         took_tombstone=place is not None),
                ("node", node_id): Node(node_name, address, keys, name), ("name", node_name): Held("held"),
                ("address", str(address)): Held("held"), ("keys", keys): KeyPair("pending", name, node_id),
            }, before=token.expires_at, live=name, generation=token.generation)
        return ("reserved", node_name, address) if took else None

    def _free(self, held: Held | None) -> bool:
        return held is None or (held.state == "resting" and held.until <= self.now)

    def commit(self, keys: str, name: str, claimed: str) -> Request:
        """A message for token *name* with the hash of *claimed*, over SSH with *keys*."""
        for _ in range(TRIES):
            known = self._keys(keys)
            token, node = (self.token(known.token), self.node(known.node)) if known else (None, None)
            if known is None or token is None or node is None or known.token != name or token.keys != claimed:
                return "FL-JOIN-REFUSED"
            if token.state == "redeemed":
                return "committed"
            if token.commit_by <= self.now:
                if (yield self._end(name, token, "expired")):
                    return "FL-JOIN-EXPIRED"
            elif (yield Transaction(self._read(("token", name), ("node", known.node)), {
                    ("token", name): replace(token, state="redeemed"),
                    ("node", known.node): replace(node, state="up"), ("keys", keys): replace(known, state="active"),
                    }, (("live", name),), token.commit_by, name, token.generation)):
                return "committed"
        return "FL-STORE"

    # -- time ---------------------------------------------------------------------------------------------------------

    def due(self) -> set[str]:
        """The tokens that are past their deadline."""
        return {name for (kind, name), t in self.records.items()
                if kind == "token" and isinstance(t, Token) and t.deadline is not None and t.deadline <= self.now}

    def sweep(self, due: Iterable[str]) -> Request:
        """Expire *due*, one by one."""
        now = self.now
        for name in due:
            token = self.token(name)
            if token is not None and token.deadline is not None and token.deadline <= now:
                yield self._end(name, token, "expired")
        return "swept"

    def _end(self, name: str, token: Token, state: Literal["expired", "revoked", "frozen"]) -> Transaction:
        """Bring a token to its end; a reservation is released."""
        read, puts = [("token", name)], {("token", name): replace(token, state=state)}
        deletes: list[Key] = [("live", name)]
        node = self.node(token.node)
        if token.state == "reserved" and node is not None:
            node_key = ("node", token.node or "")
            read.append(node_key)
            deletes.append(node_key)
            entries: dict[Key, Entry] = {("address", str(node.address)): Held("resting", self.now + REST_S)}
            if token.took_tombstone:
                entries["name", node.name] = Held("tombstone")
            else:
                deletes.append(("name", node.name))
            if state == "frozen":
                entries["keys", node.keys] = KeyPair("revoked", name, token.node or "")
            else:
                deletes.append(("keys", node.keys))
            return Transaction(self._read(*read), {**puts, **entries}, tuple(deletes))
        return Transaction(self._read(*read), {**puts}, tuple(deletes))
