"""Tokens on the server's side: issue, reserve, commit, and everything that goes wrong in between.

Rules, and the attack each stops:

1. Every step is one transaction that compares the revision of each record it was decided on, the generation, and (where
   a deadline counts) the store's clock. A failed compare means: read and decide again, three times. So at most one node
   is ever committed per token, whatever races.
2. The work is ordered by what it costs and who may cause it: a stranger's request costs one signature check and writes
   nothing; only who proves the secret moves a state, and is recorded.
3. Each transaction writes its audit record in the same step.
4. Every change of a token's state compares that this Controller still leads (`Office.fence`), and one that does not
   lead answers nothing about a token: of two Controllers that both believe they lead, one can do nothing.

Join protocol, sections 5 to 7; the state table itself is in `state`.
"""

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

import structlog

from fairlead.audit.log import RefusalCounter
from fairlead.audit.record import Entry
from fairlead.base.clock import DAY, MINUTE, SECOND, rfc3339
from fairlead.base.errors import Refused
from fairlead.enrol import state as states
from fairlead.enrol.anchor import Anchor
from fairlead.enrol.anchor import decode as decode_anchor
from fairlead.enrol.bundle import Bundle, Role
from fairlead.enrol.bundle import issue as make_bundle
from fairlead.enrol.exchange import (
    HOST_NAMESPACE,
    USER_NAMESPACE,
    Claim,
    Core,
    CoreController,
    Submission,
    answer,
)
from fairlead.enrol.exchange import keys_hash as keys_hash_of
from fairlead.enrol.state import COMMIT_GRACE, LIFETIME, Conflict, Step, TokenRecord
from fairlead.enrol.token import NAMESPACE as TOKEN_NAMESPACE
from fairlead.enrol.token import Token
from fairlead.keys.ssh import PrivateKey, PublicKey, signed_form, verifies
from fairlead.nodes.directory import REST, Directory
from fairlead.nodes.name import check_name
from fairlead.nodes.node import Node
from fairlead.nodes.records import (
    ADDRESSES,
    KEYS,
    MENTIONS,
    NAMES,
    NODES,
    AddressEntry,
    KeyEntry,
    NameEntry,
    encode,
    key_from,
    name_from,
    node_from,
)
from fairlead.store.fence import Fence, NotLeading, unfenced
from fairlead.store.protocol import (
    MARK,
    Absent,
    Below,
    Compacted,
    Compare,
    Delete,
    Equal,
    Event,
    Exists,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
    mark_value,
)
from fairlead.users.keys import USER_KEYS

TOKENS = "enrol/token/"
LIVE = "enrol/live/"
ANCHORS = "enrol/anchor/"
REFUSALS = "enrol/refusals/"
GENERATION = "enrol/generation"
MOST_OPEN = 20_000
LONGEST_MINTED = DAY
"""How long a token without a bundle lives at most."""
MOST_RECORDED_REFUSALS = 32
KEEP_TERMINAL = 30 * DAY
TRIES = 3
TRUST_REVISION = 1
Use = Literal["host", "user"]
_NOBODY = PrivateKey.from_seed(b"\x01" * 32).public.raw
"""Stands in for the public key of a token that does not exist, so that the work is the same."""

_ALARMS = frozenset(("FL-JOIN-RELAY", "FL-JOIN-BOUND", "FL-JOIN-SOURCE", "FL-JOIN-CONFLICT"))

log = structlog.get_logger("fairlead.enrol")


class EnrolStore(Protocol):
    """What redemption needs of the store."""

    async def get(self, key: str) -> Record | None:
        """The record of a key."""
        ...

    async def list(self, prefix: str) -> Listing:
        """All records under a prefix."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """Do all of *then* if all of *compare* hold."""
        ...

    async def grant(self, seconds: int) -> int:
        """A lease."""
        ...

    async def now(self) -> int:
        """Store time, microseconds."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """Changes after a revision."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


@dataclass(frozen=True, slots=True)
class Office:
    """Who issues and answers: this Controller."""

    cluster_uuid: UUID
    name: str
    host_key: Callable[[], PrivateKey]
    """The one that signs now."""
    anchor: Callable[[], Anchor]
    """The anchor as it is now."""
    margin: int = 0
    """Microseconds before a deadline at which a transaction must have taken effect; 0 with a single writer."""
    trust: Callable[[], list[str]] = list
    """The newest trust statement, if there is one."""
    fence: Fence = unfenced
    """What every change of a token's state compares besides; none with a single writer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The portal that was asked; it is the leader's own, or that of the Controller that hands the request to him."""

    presented: Callable[[bytes], bool]
    """Whether it presents, or presented within a minute, the certificate with that hash."""
    name: str
    host_key: PublicKey
    """With which its Controller will sign."""


class Enrolment:
    """The tokens of the cluster."""

    def __init__(self, store: EnrolStore, audit: Journal, directory: Directory, refusals: RefusalCounter,
                 office: Office) -> None:
        self._store = store
        self._audit = audit
        self._directory = directory
        self._refusals = refusals
        self.office = office
        """Another one takes its place when this Controller becomes one of several."""
        self._reserving = asyncio.Lock()  # addresses are handed out one at a time: the lowest free one is everybody's
        self._deadlines: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    # -- the operator's side ------------------------------------------------------------------------------------------

    async def issue(self, *, role: Role, node: str | None, source: str | None, lifetime_s: int, by: str,
                    bound_keys_hash: bytes | None = None) -> Bundle:
        """A new token in its bundle. Raises Refused, NotLeading."""
        self.office.fence()
        if not 1 <= lifetime_s <= LIFETIME // SECOND:
            raise Refused("FL-BUNDLE-TTL", f"a bundle lives 1 second to 10 minutes, not {lifetime_s} s",
                          "give --ttl at most 10m")
        if source is not None:
            try:
                source = str(ipaddress.ip_network(source))
            except ValueError as error:
                raise Refused("FL-BUNDLE-SOURCE", f"{source!r} is no network: {error}",
                              "give --source such as 192.0.2.0/24") from None
        if node is not None:
            await self._name_for_bound(check_name(node))
        anchor, token, expires_at = await self._new(lifetime_s, by, role, node=node, source=source,
                                                    bound_keys_hash=bound_keys_hash)
        return make_bundle(anchor, role, node, token, expires_at, lifetime_s)

    async def mint(self, *, lifetime_s: int, cloud: str, tenant: str, by: str) -> Token:
        """A new token for an engine, without a bundle: it names its cluster itself. Raises Refused, NotLeading.

        What lets it live for longer than a bundle is the system's configuration, which is the caller's to read.
        """
        self.office.fence()
        if not 1 <= lifetime_s <= LONGEST_MINTED // SECOND:
            raise Refused("FL-TOKEN-TTL", f"a token lives 1 second to one day, not {lifetime_s} s",
                          "set secure_channel_se_token_timeout to 1 to 1440 minutes")
        _, token, _ = await self._new(lifetime_s, by, "engine", cloud=cloud, tenant=tenant)
        return token

    async def _new(self, lifetime_s: int, by: str, role: Role, *, node: str | None = None, source: str | None = None,
                   bound_keys_hash: bytes | None = None, cloud: str = "",
                   tenant: str = "") -> tuple[Anchor, Token, int]:
        """A token, on record; its anchor, and until when it is good."""
        if len(self._deadlines) >= MOST_OPEN:
            raise Refused("FL-TOKEN-MANY", f"{MOST_OPEN} tokens are open", "revoke some, or wait ten minutes")
        anchor = self.office.anchor()
        token = Token.new(anchor.hash)
        now = await self._store.now()
        expires_at = now + lifetime_s * SECOND
        generation = await self._generation()
        record = TokenRecord(
            id=token.id.hex(), state="open", role=role, issued_by=by, issued_at=now, expires_at=expires_at,
            commit_by=expires_at + COMMIT_GRACE, token_public=token.key(self.office.cluster_uuid).public.raw.hex(),
            anchor_hash=anchor.hash.hex(), generation=generation.hex(), node=node, source=source,
            bound_keys_hash=bound_keys_hash.hex() if bound_keys_hash else None, cloud=cloud, tenant=tenant)
        lease = await self._store.grant(lifetime_s + COMMIT_GRACE // SECOND)
        outcome = await self._fenced(
            [Absent(TOKENS + record.id)],
            [Put(TOKENS + record.id, states.encode(record)), Put(LIVE + record.id, b"", lease),
             Put(ANCHORS + anchor.hash.hex(), anchor.encode())],
            [Entry("token.issued", record.id, by, {
                "role": role, "node": node or "", "source": source or "", "lifetime_s": lifetime_s,
                "bound": int(bound_keys_hash is not None)})])
        if not outcome.succeeded:
            raise StoreUnavailable("the token could not be written")
        self._deadlines[record.id] = expires_at
        return anchor, token, expires_at

    async def recognise(self, token: Token) -> TokenRecord | None:
        """The record of *token*, if it is one of ours, secret and all."""
        stored = await self._store.get(TOKENS + token.id.hex())
        record = states.decode(stored.value) if stored else None
        public = token.key(self.office.cluster_uuid).public.raw.hex()
        return record if record is not None and hmac.compare_digest(record.token_public, public) else None

    async def tokens(self) -> list[tuple[TokenRecord, int]]:
        """All tokens that are kept, newest first, and how many refusals each has seen."""
        counts = {r.key.removeprefix(REFUSALS): int(r.value) for r in (await self._store.list(REFUSALS)).records}
        tokens = [states.decode(record.value) for record in (await self._store.list(TOKENS)).records]
        return [(t, counts.get(t.id, 0)) for t in sorted(tokens, key=lambda t: t.issued_at, reverse=True)]

    async def revoke(self, token_id: str, by: str) -> TokenRecord:
        """Make an open or reserved token worthless. Raises Refused, NotLeading."""
        self.office.fence()
        for _ in range(TRIES):
            stored = await self._store.get(TOKENS + token_id)
            if stored is None:
                raise Refused("FL-TOKEN-UNKNOWN", f"there is no token {token_id}", "see `fairlead token list`")
            token = states.decode(stored.value)
            if token.state == "redeemed":
                raise Refused("FL-TOKEN-REDEEMED", "the token was redeemed: its node has joined",
                              "`fairlead node remove` takes the node out")
            if token.state not in ("open", "reserved"):
                return token
            event = "token.revoked" if token.state == "open" else "join.revoked"
            if await self._end(stored, token, "revoked", event, by):
                return replace(token, state="revoked")
        raise StoreUnavailable("the token changed three times")

    # -- the exchange -------------------------------------------------------------------------------------------------

    async def exchange(self, submission: Submission, source: str, presented: Callable[[bytes], bool]) -> bytes:
        """The reply body to a join request from *source* (an IP address). Raises Refused, StoreUnavailable, NotLeading.

        *presented*: whether this portal presents, or presented within a minute, the certificate with that hash.
        """
        asked = Asked(presented, self.office.name, self.office.host_key().public)
        return self.reply(submission, await self.decide(submission, source, asked))

    def reply(self, submission: Submission, core: bytes) -> bytes:
        """The reply body that brings *core*, signed by this Controller."""
        return answer(core, submission.transcript(self.office.cluster_uuid), self.office.name, self.office.host_key())

    async def decide(self, submission: Submission, source: str, asked: "Asked") -> bytes:
        """The core that answers a join request, for `reply` at the portal that was *asked*. Raises as `exchange`."""
        self.office.fence()
        transcript = submission.transcript(self.office.cluster_uuid)
        for _ in range(TRIES):
            stored = await self._store.get(TOKENS + submission.token_id.hex())
            token = states.decode(stored.value) if stored else None
            public = bytes.fromhex(token.token_public) if token else _NOBODY
            proven = verifies(public, signed_form(TOKEN_NAMESPACE, transcript), submission.proofs.token)
            if stored is None or token is None or not proven:
                reason = "unknown-token" if token is None else "bad-token-proof"
                self._refusals.count(source, reason, await self._store.now())
                raise Refused("FL-JOIN-REFUSED", "the join was refused")
            # below here the peer holds the token
            try:
                core = await self._as_holder(stored, token, submission, transcript, source, asked)
            except Refused as refusal:
                await self._record_refusal(token, refusal, submission, source)
                raise
            if core is not None:
                return core.encode()
        raise StoreUnavailable("the token changed three times while it was being used")

    async def _as_holder(self, stored: Record, token: TokenRecord, submission: Submission, transcript: bytes,
                         source: str, asked: "Asked") -> Core | None:
        """What the holder of the token gets; None when the transaction lost a race."""
        claim = submission.claim(self.office.cluster_uuid)
        if not (claim.host_key.verifies(HOST_NAMESPACE, transcript, submission.proofs.host)
                and claim.user_key.verifies(USER_NAMESPACE, transcript, submission.proofs.user)):
            raise Refused("FL-JOIN-PROOF", "the possession of a key is not proven")
        if not asked.presented(claim.certificate_hash):
            raise Refused("FL-JOIN-RELAY", "the connection that this machine made does not end at the portal",
                          "somebody, or a proxy that terminates TLS, is in between; connect to the portal directly")
        if claim.anchor_hash.hex() != token.anchor_hash:
            raise Refused("FL-JOIN-ANCHOR", "the bundle's anchor is not the token's", "import the bundle as exported")
        if claim.role != token.role:
            raise Refused("FL-JOIN-ROLE", f"this bundle is for the role {token.role}, not {claim.role}",
                          f"export one with --role {claim.role}")
        if token.node is not None and claim.node != token.node:
            raise Refused("FL-JOIN-NAME", f"this bundle is for the node {token.node}", f"join with --name {token.node}")
        if token.source is not None and not _within(source, token.source):
            raise Refused("FL-JOIN-SOURCE", f"this bundle is for the network {token.source}, not for {source}",
                          "join from there, or export a bundle without --source")
        for key in (claim.host_key, claim.user_key):
            record = await self._store.get(KEYS + key.fingerprint)
            if record is not None and key_from(record.value).token_id != token.id:
                raise _used_key(key)
        now = await self._store.now()
        keys_hash = claim.keys_hash.hex()
        match states.judge_exchange(token, keys_hash, now, self.office.margin):
            case Step.RESERVE:
                await self._check_in_anchor(claim.anchor_hash, asked)
                try:
                    return await self._reserve(stored, token, claim, now, source)
                except Refused:
                    current = await self._store.get(stored.key)
                    if current is not None and current.revision == stored.revision:
                        raise
                    return None  # what was in the way is this token's own reservation: decide again
            case Step.REPEAT:
                await self._check_in_anchor(claim.anchor_hash, asked)
                return await self._repeat(token, claim, now)
            case Step.EXPIRE:
                if not await self._end(stored, token, "expired", _expiry_event(token), "clock"):
                    return None
                raise states.final("expired")
            case Step.FREEZE:
                if not await self._end(stored, token, "frozen", "join.interception", claim.host_key.fingerprint,
                                       {"source": source, "first": token.used_by}):
                    return None
                raise states.conflict(token.used_by, rfc3339(token.used_at))
            case Step.CONFLICT:
                if not await self._conflict(stored, token, claim, now, source):
                    return None
                raise states.conflict(token.used_by, rfc3339(token.used_at))
            case Step.CONFLICT_KNOWN:
                raise states.conflict(token.used_by, rfc3339(token.used_at))
            case _:
                raise states.used(token.used_by, rfc3339(token.used_at))

    async def _check_in_anchor(self, digest: bytes, asked: "Asked") -> None:
        """A Controller that the bundle does not name brings no core: its signature would not be believed. One that it
        names may; where there is none any more, because their keys have changed, the bundle leads nowhere.
        """
        stored = await self.anchor(digest)
        if stored is None:
            return
        named = decode_anchor(stored, digest)
        if asked.host_key in named.host_keys(asked.name):
            return
        if not any(named.host_keys(c.name).intersection(c.host_keys) for c in self._directory.controllers()):
            raise Refused("FL-JOIN-ANCHOR", "the bundle names none of the host keys that the Controllers have by now",
                          "export another one")
        raise StoreUnavailable("the bundle does not name this Controller")

    async def _reserve(self, stored: Record, token: TokenRecord, claim: Claim, now: int, source: str) -> Core | None:
        compare: list[Compare] = [
            Unchanged(stored.key, stored.revision), Below(MARK, mark_value(token.expires_at - self.office.margin)),
            Exists(LIVE + token.id), Equal(GENERATION, bytes.fromhex(token.generation))]
        took_tombstone = False
        if token.node is not None:
            name = await self._name_for_bound(claim.node)
            took_tombstone = isinstance(name, Unchanged)
            compare.append(name)
        else:
            compare += await self._name_for_unbound(claim.node)
        for key in (claim.host_key, claim.user_key):
            if await self._store.get(KEYS + key.fingerprint) is not None or (
                    await self._store.get(USER_KEYS + key.fingerprint) is not None):  # a person's
                raise _used_key(key)
            compare += [Absent(KEYS + key.fingerprint), Absent(USER_KEYS + key.fingerprint)]
        async with self._reserving:
            return await self._allot(stored, token, claim, now, source, compare, took_tombstone=took_tombstone)

    async def _allot(self, stored: Record, token: TokenRecord, claim: Claim, now: int, source: str,
                     compare: list[Compare], *, took_tombstone: bool) -> Core | None:
        """An address for who may join, and the reservation; None when it lost a race."""
        free = self._directory.free_address(claim.role, now)
        if free is None:
            raise Refused("FL-JOIN-POOL", "no internal address is free", "remove nodes that are gone")
        address, revision = free
        compare.append(Absent(ADDRESSES + address) if revision is None else Unchanged(ADDRESSES + address, revision))
        node = Node(id=str(uuid4()), name=claim.node, role=claim.role, state="joining", internal_address=address,
                    host_key=claim.host_key.line, user_key=claim.user_key.line, joined_at=0, endpoint=claim.endpoint,
                    software=claim.software, token_id=token.id, cloud=token.cloud, tenant=token.tenant)
        reserved = replace(token, state="reserved", keys_hash=claim.keys_hash.hex(), node_id=node.id,
                           used_by=claim.host_key.fingerprint, used_at=now, took_tombstone=took_tombstone)
        outcome = await self._fenced(compare, [
            Put(stored.key, states.encode(reserved)),
            Put(NODES + node.id, encode(node)),
            Put(NAMES + node.name, encode(NameEntry(node.id, "held"))),
            Put(ADDRESSES + address, encode(AddressEntry(node.id, "held"))),
            *(Put(KEYS + key.fingerprint,
                  encode(KeyEntry(node.id, use, "pending", token.id, key.line, token.commit_by)))
              for key, use in _uses(claim.host_key, claim.user_key)),
        ], [Entry("join.reserved", token.id, claim.host_key.fingerprint, {
            "node": node.name, "node_id": node.id, "role": node.role, "address": address, "source": source,
            "user_key": claim.user_key.fingerprint})])
        if not outcome.succeeded:
            return None
        await self._directory.reached(outcome.revision)
        return self._core("reserved", reserved, node, now)

    async def _repeat(self, token: TokenRecord, claim: Claim, now: int) -> Core | None:
        stored = await self._store.get(NODES + (token.node_id or ""))
        if stored is None:
            if token.state == "redeemed":
                raise Refused("FL-JOIN-USED", "the node of this bundle was removed", "export a new bundle")
            return None
        node = node_from(stored.value)
        if (node.name, node.role) != (claim.node, claim.role) or (
                claim.endpoint is not None and token.state == "reserved" and node.endpoint != claim.endpoint):
            raise Refused("FL-JOIN-CHANGED", f"this bundle is being used for the node {node.name} already",
                          f"go on with --name {node.name} and the same addresses, or export a new bundle")
        log.info("join.repeated", token=token.id, peer=node.name, state=token.state)
        return self._core("reserved" if token.state == "reserved" else "committed", token, node, now)

    async def _conflict(self, stored: Record, token: TokenRecord, claim: Claim, now: int, source: str) -> bool:
        node_record = await self._store.get(NODES + (token.node_id or ""))
        marked = replace(token, conflict=Conflict(claim.host_key.fingerprint, source, now))
        compare: list[Compare] = [Unchanged(stored.key, stored.revision)]
        then: list[Operation] = [Put(stored.key, states.encode(marked))]
        if node_record is not None:
            node = node_from(node_record.value)
            compare.append(Unchanged(node_record.key, node_record.revision))
            if node.role == "engine" or node.state == "joining":  # a Controller that votes is not cut off by a thief
                then.append(Put(node_record.key, encode(replace(node, state="frozen"))))
        outcome = await self._fenced(compare, then, [Entry(
            "join.interception-late", token.id, claim.host_key.fingerprint,
            {"source": source, "first": token.used_by, "node_id": token.node_id or ""})])
        if outcome.succeeded:
            log.warning("alarm", alarm="join.interception-late", token=token.id, source=source, first=token.used_by,
                        second=claim.host_key.fingerprint)
        return outcome.succeeded

    async def commit(self, fingerprint: str, message: dict[str, Any]) -> int:
        """Admit the node whose user key, with *fingerprint*, an SSH connection has proven. Raises Refused.

        *message*: ``token_id``, ``node_id``, ``keys_hash`` in hexadecimal or UUID form; they must agree with the key's
        record. Returns the number of the trust statement that the node holds.
        """
        self.office.fence()
        refused = Refused("FL-JOIN-REFUSED", "the join was refused")
        for _ in range(TRIES):
            key = await self._store.get(KEYS + fingerprint)
            if key is None:
                raise refused
            entry = key_from(key.value)
            stored = await self._store.get(TOKENS + entry.token_id)
            node_record = await self._store.get(NODES + entry.node_id)
            if stored is None or node_record is None or entry.use != "user" or (
                    message.get("token_id"), message.get("node_id")) != (entry.token_id, entry.node_id):
                raise refused
            token, node = states.decode(stored.value), node_from(node_record.value)
            now = await self._store.now()
            match states.judge_commit(token, str(message.get("keys_hash")), now, self.office.margin):
                case Step.REPEAT:
                    return TRUST_REVISION
                case Step.EXPIRE:
                    if not await self._end(stored, token, "expired", _expiry_event(token), "clock"):
                        continue
                    raise states.final("expired")
                case _:
                    if await self._commit(stored, token, node_record, node, now):
                        return TRUST_REVISION
        raise StoreUnavailable("the token changed three times while it was being committed")

    async def _commit(self, stored: Record, token: TokenRecord, node_record: Record, node: Node, now: int) -> bool:
        admitted: Node = replace(node, joined_at=now, state="up" if node.role == "engine" else "joining")
        host_key, user_key = PublicKey.from_line(node.host_key), PublicKey.from_line(node.user_key)
        outcome = await self._fenced([
            Unchanged(stored.key, stored.revision), Unchanged(node_record.key, node_record.revision),
            Below(MARK, mark_value(token.commit_by - self.office.margin)), Exists(LIVE + token.id),
            Equal(GENERATION, bytes.fromhex(token.generation)),
        ], [
            Put(stored.key, states.encode(replace(token, state="redeemed"))), Put(node_record.key, encode(admitted)),
            *(Put(KEYS + key.fingerprint, encode(KeyEntry(node.id, use, "active", token.id, key.line)))
              for key, use in _uses(host_key, user_key)),
            Delete(LIVE + token.id),
        ], [Entry("join.committed", token.id, host_key.fingerprint, {
            "node": node.name, "node_id": node.id, "role": node.role})])
        if outcome.succeeded:
            await self._directory.reached(outcome.revision)
        return outcome.succeeded

    async def admit(self, node_id: str, by: str) -> Node:
        """Make a Controller whose join is committed one of the cluster, now that its member of the store has all of it.

        Raises Refused, NotLeading. May be repeated.
        """
        for _ in range(TRIES):
            stored = await self._store.get(NODES + node_id)
            if stored is None:
                raise Refused("FL-NODE-REMOVED", "this node is no longer in the cluster")
            node = node_from(stored.value)
            if node.role == "controller" and node.state == "up":
                return node
            if not node.learning:
                raise Refused("FL-NODE-STATE", f"{node.name} is {node.state} and cannot be admitted",
                              f"see `fairlead node show {node.name}`")
            admitted = replace(node, state="up")
            # who used its bundle, too, has frozen the node in the same step: its record says it all
            entry = Entry("controller.admitted", node.name, by, {"node_id": node.id, "address": node.internal_address})
            outcome = await self._fenced([Unchanged(stored.key, stored.revision)],
                                         [Put(stored.key, encode(admitted))], [entry])
            if outcome.succeeded:
                await self._directory.reached(outcome.revision)
                return admitted
        raise StoreUnavailable("the node changed three times while it was being admitted")

    # -- time ---------------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Keep the deadlines of live tokens in view until cancelled."""
        while True:
            try:
                listing = await self._store.list(TOKENS)
            except StoreUnavailable as reason:
                log.warning("store.unavailable", reason=str(reason))
                await asyncio.sleep(1.0)
                continue
            self._deadlines.clear()
            for record in listing.records:
                self._note(record.key, record.value)
            try:
                async for batch in self._store.watch(TOKENS, listing.revision):
                    for event in batch:
                        self._note(event.key, event.value)
            except Compacted:
                continue

    async def expire_due(self) -> None:
        """Expire what is past its deadline, as the leader. Called each second."""
        if not self._leads():
            return
        now = await self._store.now()
        for token_id in [t for t, deadline in self._deadlines.items() if deadline <= now]:
            stored = await self._store.get(TOKENS + token_id)
            token = states.decode(stored.value) if stored else None
            if stored is None or token is None or token.deadline is None:
                self._deadlines.pop(token_id, None)
                continue
            if token.deadline > now:  # reserved meanwhile
                self._deadlines[token_id] = token.deadline
                continue
            await self._end(stored, token, "expired", _expiry_event(token), "clock")

    async def tidy(self) -> None:
        """Forget tokens that ended long ago, and anchors that no living token names. The leader does, each minute."""
        if not self._leads():
            return
        now = await self._store.now()
        for token_id in [t for t, issued in self._ended.items() if issued + KEEP_TERMINAL <= now]:
            stored = await self._store.get(TOKENS + token_id)
            if stored is not None:
                await self._store.transact([*self.office.fence(), Unchanged(stored.key, stored.revision)],
                                           [Delete(stored.key), Delete(REFUSALS + token_id)])
        await self._drop_anchors(now)

    async def _drop_anchors(self, now: int) -> None:
        """Anchors that no living token names are of no use to anybody."""
        anchors = (await self._store.list(ANCHORS)).records
        if len(anchors) < 2:
            return
        tokens = [states.decode(r.value) for r in (await self._store.list(TOKENS)).records]
        named = {t.anchor_hash for t in tokens if now < t.commit_by + MINUTE} | {self.office.anchor().hash.hex()}
        for record in anchors:
            if record.key.removeprefix(ANCHORS) not in named:
                await self._store.transact([*self.office.fence(), Unchanged(record.key, record.revision)],
                                           [Delete(record.key)])

    async def anchor(self, digest: bytes) -> bytes | None:
        """The bytes of an anchor that a token was issued under."""
        record = await self._store.get(ANCHORS + digest.hex())
        return record.value if record else None

    async def _end(self, stored: Record, token: TokenRecord, state: states.State, event: str, by: str,
                   details: dict[str, str | int] | None = None) -> bool:
        """Bring a token to a final state and release what it held; whether the transaction held."""
        now = await self._store.now()
        compare: list[Compare] = [Unchanged(stored.key, stored.revision)]
        then: list[Operation] = [Put(stored.key, states.encode(replace(token, state=state))), Delete(LIVE + token.id)]
        node_record = await self._store.get(NODES + token.node_id) if token.node_id else None
        if token.state == "reserved" and node_record is not None:
            node = node_from(node_record.value)
            compare.append(Unchanged(node_record.key, node_record.revision))
            then += [Delete(node_record.key),
                     Put(NAMES + node.name, encode(NameEntry(node.id, "tombstone"))) if token.took_tombstone
                     else Delete(NAMES + node.name),
                     Put(ADDRESSES + node.internal_address, encode(AddressEntry(node.id, "quarantined", now + REST)))]
            uses: tuple[tuple[str, Use], ...] = ((node.host_key, "host"), (node.user_key, "user"))
            for line, use in uses:
                key = KEYS + PublicKey.from_line(line).fingerprint
                then.append(Delete(key) if state != "frozen" else Put(
                    key, encode(KeyEntry(node.id, use, "revoked", token.id, line))))
        outcome = await self._fenced(compare, then, [Entry(event, token.id, by, details or {})])
        if outcome.succeeded:
            self._deadlines.pop(token.id, None)
            await self._directory.reached(outcome.revision)
            if state == "frozen":
                log.warning("alarm", alarm=event, token=token.id, by=by, **(details or {}))
        return outcome.succeeded

    async def _fenced(self, compare: Sequence[Compare], then: Sequence[Operation], entries: Sequence[Entry]) -> Outcome:
        """A transaction of the leader. Raises NotLeading."""
        return await self._audit.append_with([*self.office.fence(), *compare], then, entries)

    def _leads(self) -> bool:
        try:
            self.office.fence()
        except NotLeading:
            return False
        return True

    def _note(self, key: str, value: bytes | None) -> None:
        token_id = key.removeprefix(TOKENS)
        token = states.decode(value) if value is not None else None
        self._deadlines.pop(token_id, None)
        self._ended.pop(token_id, None)
        if token is not None and token.deadline is not None:
            self._deadlines[token_id] = token.deadline
        elif token is not None:
            self._ended[token_id] = token.issued_at

    # -- names, refusals, answers -------------------------------------------------------------------------------------

    async def _name_for_bound(self, name: str) -> Compare:
        """A bundle for a named node may take the name of a removed one, never that of one that is there."""
        record = await self._store.get(NAMES + name)
        if record is None:
            return Absent(NAMES + name)
        if name_from(record.value).state == "held":
            raise Refused("FL-JOIN-NAME", f"the name {name} is taken", "choose another, or remove that node first")
        return Unchanged(record.key, record.revision)

    async def _name_for_unbound(self, name: str) -> list[Compare]:
        """A bundle for anybody takes no name that ever had a node or stands in a policy: it would inherit rights."""
        try:
            check_name(name)
        except Refused as refusal:
            raise Refused("FL-JOIN-NAME", refusal.message, refusal.remedy) from None
        if await self._store.get(NAMES + name) is not None:
            raise Refused("FL-JOIN-NAME", f"the name {name} is taken, or was a removed node's",
                          f"choose another, or export a bundle with --node {name}")
        mention = await self._store.get(MENTIONS + name)
        if mention is not None:
            await self._directory.reached(mention.revision)
        for service in self._directory.services.values():
            if name == service.owner or name in service.allow:
                raise Refused("FL-JOIN-NAME", f"the service {service.name} mentions the name {name}",
                              f"export a bundle with --node {name}")
        # of this name alone: a comparison with every change of a service would hold joins up where many are declared
        return [Absent(NAMES + name),
                Unchanged(mention.key, mention.revision) if mention else Absent(MENTIONS + name)]

    async def _record_refusal(self, token: TokenRecord, refusal: Refused, submission: Submission, source: str) -> None:
        """Who proves the secret and is refused is recorded one by one, a few dozen times, then in sums."""
        now = await self._store.now()
        if refusal.code in _ALARMS:
            log.warning("alarm", alarm=refusal.code, token=token.id, source=source,
                        peer=submission.fields.node)
        key = REFUSALS + token.id
        stored = await self._store.get(key)
        count = int(stored.value) if stored else 0
        if count >= MOST_RECORDED_REFUSALS:
            self._refusals.count(source, refusal.code, now)
            return
        event = {"FL-JOIN-BOUND": "join.bound", "FL-JOIN-USED": "token.late-use"}.get(refusal.code, "join.refused")
        outcome = await self._audit.append_with(
            [Unchanged(key, stored.revision) if stored else Absent(key)], [Put(key, b"%d" % (count + 1))],
            [Entry(event, token.id, source, {"code": refusal.code, "node": submission.fields.node,
                                             "host_key": submission.fields.host_key})])
        if not outcome.succeeded:  # others of this token were recorded at the same moment
            self._refusals.count(source, refusal.code, now)

    async def _generation(self) -> bytes:
        record = await self._store.get(GENERATION)
        if record is None:
            raise StoreUnavailable("the store has no generation")
        return record.value

    def core_for(self, node: Node, now: int) -> Core:
        """What a joined node is told when it reads its trust again."""
        keys = (PublicKey.from_line(node.host_key), PublicKey.from_line(node.user_key))
        return self._core_of("committed", node, keys_hash_of(node.role, *keys).hex(), 0, now)

    def _core(self, result: str, token: TokenRecord, node: Node, now: int) -> Core:
        within = max(0, (token.commit_by - now) // SECOND)
        return self._core_of(result, node, token.keys_hash or "", within, now)

    def _core_of(self, result: str, node: Node, keys_hash: str, within: int, now: int) -> Core:
        controllers = [
            CoreController(name=c.name, address=address, portal_port=portal_port,
                           ssh_port=c.endpoint.ssh_port, internal_address=c.internal_address, host_key=c.host_key,
                           user_key=c.user_key, node_id=c.id, next_host_key=c.next_host_key)
            for c in self._directory.controllers() if c.endpoint for address, portal_port in c.endpoint.places]
        return Core.model_validate({
            "v": 1, "result": result, "node": node.name, "node_id": node.id, "role": node.role, "user": node.user,
            "internal_address": node.internal_address, "keys_hash": keys_hash, "commit_within_s": within,
            "server_time": rfc3339(now), "controllers": [c.model_dump() for c in controllers[:8]],
            "trust": self.office.trust()})


def _used_key(key: PublicKey) -> Refused:
    return Refused("FL-JOIN-KEYS", f"the key {key.fingerprint} has been used before",
                   "a node makes new keys for each bundle: begin with an empty state folder")


def _uses(host_key: PublicKey, user_key: PublicKey) -> tuple[tuple[PublicKey, Use], tuple[PublicKey, Use]]:
    return (host_key, "host"), (user_key, "user")


def _expiry_event(token: TokenRecord) -> str:
    return "token.expired" if token.state == "open" else "join.expired"


def _within(source: str, network: str) -> bool:
    address = ipaddress.ip_address(source)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address) in ipaddress.ip_network(network)


def new_generation() -> bytes:
    """A generation for a new, restored or recovered store: tokens of another one never redeem."""
    return secrets.token_bytes(16)
