"""The store of a cluster: etcd, through its JSON gateway.

Rules, and the fault that each stops:

- A transaction happens once, though its answer is lost. Each is tied to a *slot*, a small key of this instance: it
  compares the revision of the slot and changes it. Whatever was sent for one revision of a slot, only one of it can
  ever take effect. When an answer is lost, a second request that compares the same revision either takes the slot, and
  the first is void however late it arrives; or finds what the first has left there. It may get lost as well: it is
  repeated until one answer is clear.
- A slot is made in a request of its own, under a name that was never used before: "the slot is not there yet" is true
  again when its lease has ended, and so would be no fence.
- Slots go with a long lease that is not prolonged: after half of it there is a new one, and new slots. So nothing has
  to run in the background, and what an instance leaves behind is tidied by etcd.
- A transaction that only compares reads something besides: etcd answers one without any operation from what the member
  remembers, which may be old.
- The end of a lease is the store's time, not etcd's: its number holds the deadline, and whoever leads revokes what has
  ended by `MARK` (`EtcdStore.sweep`). etcd's own time to live is longer and only tidies up. A put under a lease also
  compares `MARK` with the deadline: none slips in between the deadline and the revocation.
- A watch that is silent is left for another member, at the revision that it has reached: frozen members, and those
  that lost their leader, hide nothing for longer than some seconds.
- Our keys lie beside the records, under prefixes of their own; nobody sees them in a listing or a watch.

The cluster's members run with ``--max-txn-ops=512``, and with ``--experimental-watch-progress-notify-interval`` well
below *quiet_s*, or quiet watches would change members all the time.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fairlead.base.backoff import FullJitter
from fairlead.base.clock import SECOND
from fairlead.store.gateway import (
    EXHAUSTED,
    INVALID,
    NOT_FOUND,
    PRECONDITION,
    RANGE,
    Gateway,
    GatewayRefused,
    GatewayUnavailable,
    decoded,
    encoded,
)
from fairlead.store.protocol import (
    MARK,
    MOST_OPERATIONS,
    Absent,
    Below,
    Born,
    Compacted,
    Compare,
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

RECORDS = b"d/"
PAGE = 1000  # records of a listing in one answer
SLOTS = 16  # transactions under way at once
SLOT_LEASE_S = 3600
BACKSTOP_S = 60  # how much longer than its own time etcd keeps a lease
LONGEST_LEASE_S = 100 * 365 * 86_400  # beyond, numbers of leases would have too many bits
FULL = "space exceeded"  # said with EXHAUSTED, and of nothing else
ROOM = ("it is made room in; if `fairlead cluster status` goes on showing the alarm, raise store_quota_mib in "
         "fairlead.toml of every Controller and start them anew, one at a time")
OURS = 1 << 60
"""Leases with lower numbers are somebody's who uses etcd's time."""
RANDOM_BITS = 20

Body = dict[str, Any]


class SlotLost(Exception):
    """The slot is not what this instance has made of it: its lease has ended, or a backup came back."""


@dataclass(slots=True, eq=False)
class Slot:
    """A key that one transaction at a time is tied to."""

    key: bytes
    revision: int
    """Its last change: what a request has to compare."""
    until: float
    """Monotonic seconds up to which its lease is sure to last."""


class EtcdStore:
    """`Store` on a cluster; made inside the event loop. End it with `close`; the gateway is the caller's.

    *deadline_s*: how long anything is tried before StoreUnavailable. *quiet_s*: the longest silence of a watch.
    """

    def __init__(self, gateway: Gateway, *, deadline_s: float = 5.0, quiet_s: float = 4.0) -> None:
        self._gateway = gateway
        self._mine = f"t/{secrets.token_hex(8)}/".encode()
        self._deadline_s = deadline_s
        self._quiet_s = quiet_s
        self._closed = asyncio.get_running_loop().create_future()
        self._trouble = ""
        self._idle: list[Slot] = []
        self._places = asyncio.Semaphore(SLOTS)
        self._made = 0
        self._lease = (0, 0.0)
        self._leasing = asyncio.Lock()

    async def close(self) -> None:
        """Whatever is asked from now on is refused; watches end with StoreUnavailable."""
        if not self._closed.done():
            self._closed.set_result(None)

    async def get(self, key: str) -> Record | None:
        """As in `Store`."""
        async with self._patience():
            answer = await self._ask("kv/range", {"key": self._key(key)})
        return next(iter(self._found(answer)), None)

    async def list(self, prefix: str, *more: str) -> Listing:
        """As in `Store`."""
        while True:
            with contextlib.suppress(Compacted):  # else its revision was forgotten between two pages
                records: list[Record] = []
                revision = 0
                for one in sorted((prefix, *more)):
                    async for page, read_at in self._pages(one, revision):
                        records += page
                        revision = read_at
                return Listing(records, revision)

    async def now(self) -> int:
        """As in `Store`. Raises StoreUnavailable while nobody has begun to count."""
        mark = await self.get(MARK)
        if mark is None:
            raise _unavailable("no Controller has set its clock yet")
        return int(mark.value)

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """As in `Store`. A put under a lease that has ended counts as a compare that does not hold.

        Raises ValueError for more than `MOST_OPERATIONS` of either, for two operations on one key, and for more bytes
        than etcd takes in one request (1.5 MiB).
        """
        if len(compare) > MOST_OPERATIONS or len(then) > MOST_OPERATIONS:
            raise ValueError(f"a transaction has at most {MOST_OPERATIONS} compares and {MOST_OPERATIONS} operations")
        if len({operation.key for operation in then}) < len(then):
            raise ValueError("a transaction writes a key once")
        leases = {operation.lease for operation in then if isinstance(operation, Put) and operation.lease is not None}
        in_time = [Below(MARK, mark_value(_deadline(lease))) for lease in leases if lease >= OURS]
        compares = [self._compare(c) for c in (*compare, *in_time)]
        async with self._patience():
            if then:
                return await self._once(compares, [self._operation(operation) for operation in then])
            answer = await self._ask("kv/txn", {"compare": compares, "success": [_read(self._mine)]})
            return Outcome(answer.get("succeeded", False), _revision(answer))

    async def grant(self, seconds: int) -> int:
        """As in `Store`. Raises ValueError for less than a second, or more than a hundred years."""
        if seconds < 1:
            raise ValueError("a lease lasts a second at least")
        if seconds > LONGEST_LEASE_S:
            raise ValueError("a lease lasts a hundred years at most")
        ends = -(-(await self.now() + seconds * SECOND) // 1000)
        async with self._patience():
            while True:
                lease = ends << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
                with contextlib.suppress(_Taken):
                    await self._new_lease(lease, seconds + BACKSTOP_S)
                    return lease

    async def sweep(self) -> None:
        """Revoke the leases that have ended, with their keys. Called each second by the Controller that leads."""
        now = await self.now()
        async with self._patience():
            answer = await self._ask("lease/leases", {})
        leases = sorted(int(lease["ID"]) for lease in answer.get("leases", ()))
        for lease in leases:
            if lease >= OURS and _deadline(lease) <= now:
                async with self._patience():
                    with contextlib.suppress(_Gone):
                        await self._revoke(lease)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Event]]:
        """As in `Store`. Raises StoreUnavailable when the store is closed."""
        first, beyond = self._span(prefix)
        delays = FullJitter(0.05, 1.0)
        while True:
            asked = {"key": encoded(first), "range_end": encoded(beyond), "start_revision": str(after + 1),
                     "progress_notify": True, "fragment": True}
            pieces: list[Mapping[str, Any]] = []
            try:
                async with contextlib.aclosing(self._gateway.stream(
                        "watch", {"create_request": asked}, quiet_s=self._quiet_s)) as answers:
                    while True:
                        answer = await self._or_closed(answers)
                        if "compact_revision" in answer:
                            raise Compacted(f"revision {after + 1} was asked for, {answer['compact_revision']} is the "
                                            "oldest")
                        if answer.get("canceled"):
                            break
                        pieces += answer.get("events", ())
                        if answer.get("fragment"):
                            continue  # the rest of these revisions is in the next one
                        for revision, batch in groupby(map(self._event, pieces), lambda event: event.revision):
                            after = revision
                            yield list(batch)
                        if not pieces and not answer.get("created"):  # of all others the header may be ahead
                            after = max(after, _revision(answer))
                        delays.reset()
                        pieces = []
            except (GatewayUnavailable, GatewayRefused):
                pass
            await asyncio.wait((self._closed,), timeout=delays.next())

    # -- asking -------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """What is done inside ends within the deadline; its failures are those of `Store`."""
        if self._closed.done():
            raise StoreUnavailable("the store is closed")
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError as error:
            raise _unavailable(self._trouble or "too much is asked at once") from error
        except GatewayRefused as error:
            if error.code == INVALID:
                raise ValueError(f"etcd does not take it: {error.message}") from error
            if error.code == EXHAUSTED and FULL in error.message:
                raise StoreUnavailable("etcd has reached its quota", ROOM, "FL-ETCD-SPACE") from None
            raise _unavailable(error.message) from error

    async def _ask(self, path: str, body: Body) -> Body:
        """The answer to something that may be asked twice, from whichever member gives one."""
        delays = FullJitter(0.02, 0.25)
        while True:
            try:
                return await self._gateway.call(path, body)
            except GatewayUnavailable as error:
                self._trouble = str(error)
            await asyncio.sleep(delays.next())

    async def _or_closed(self, answers: AsyncGenerator[Body, None]) -> Body:
        """The next of a stream, unless the store is closed before."""
        step = asyncio.ensure_future(anext(answers))
        try:
            await asyncio.wait((step, self._closed), return_when=asyncio.FIRST_COMPLETED)
            if self._closed.done():
                raise StoreUnavailable("the store is closed")
            return step.result()
        finally:
            if not step.done():
                step.cancel()
                await asyncio.wait((step,))

    async def _pages(self, prefix: str, revision: int) -> AsyncIterator[tuple[Sequence[Record], int]]:
        """Records under a prefix, and the revision at which all pages are read; 0: that of now. Raises Compacted."""
        first, beyond = self._span(prefix)
        limit = PAGE
        while True:
            async with self._patience():
                try:
                    answer = await self._ask("kv/range", {"key": encoded(first), "range_end": encoded(beyond),
                                                          "limit": str(limit), "revision": str(revision)})
                except GatewayRefused as error:
                    if error.code == RANGE:
                        raise Compacted from error
                    if error.code != EXHAUSTED or limit == 1:
                        raise
                    limit //= 2  # long values
                    continue
            revision = revision or _revision(answer)
            records = self._found(answer)
            yield records, revision
            if not answer.get("more"):
                return
            first = RECORDS + records[-1].key.encode() + b"\0"

    async def _new_lease(self, lease: int, seconds: int) -> None:
        """Raises _Taken, also when it was this very call that took it and its answer was lost."""
        try:
            await self._ask("lease/grant", {"ID": str(lease), "TTL": str(seconds)})
        except GatewayRefused as error:
            if error.code == PRECONDITION:
                raise _Taken from error
            raise

    async def _revoke(self, lease: int) -> None:
        try:
            await self._ask("lease/revoke", {"ID": str(lease)})
        except GatewayRefused as error:
            if error.code == NOT_FOUND:
                raise _Gone from error
            raise

    # -- transactions that write --------------------------------------------------------------------------------------

    async def _once(self, compare: Sequence[Body], then: Sequence[Body]) -> Outcome:
        """Do it once or not at all. A slot of which we are not sure, because we were stopped, is not used again."""
        async with self._places:
            while True:
                slot = self._idle_slot() or await self._new_slot()
                try:
                    outcome = await self._attempt(slot, compare, then)
                except SlotLost:
                    self._lease = (0, 0.0)  # gone with the rest
                    continue
                self._idle.append(slot)
                if outcome is not None:
                    return outcome

    async def _attempt(self, slot: Slot, compare: Sequence[Body], then: Sequence[Body]) -> Outcome | None:
        """One request; None: it did not happen and never will, so that there may be another.

        Raises SlotLost: it did not happen, and needs another slot.
        """
        nonce = secrets.token_bytes(16)
        try:
            answer = await self._gateway.call("kv/txn", {
                "compare": [_at(slot), *compare], "success": [*then, _mark(slot, nonce)], "failure": [_read(slot.key)]})
        except GatewayRefused as error:
            if error.code != NOT_FOUND:
                self._idle.append(slot)  # it was refused before it came to the slot
                raise
            answer = await self._ask("kv/txn", {"success": [_read(slot.key)]})  # for the revision
            return Outcome(False, _revision(answer))  # a lease that there is none of
        except GatewayUnavailable as error:
            self._trouble = str(error)
            return await self._resolve(slot, nonce)
        if answer.get("succeeded"):
            slot.revision = _revision(answer)
            return Outcome(True, slot.revision)
        held = _kvs(answer)
        if not held or int(held[0]["mod_revision"]) != slot.revision:
            raise SlotLost
        return Outcome(False, _revision(answer))

    async def _resolve(self, slot: Slot, nonce: bytes) -> Outcome | None:
        """What became of the request that would leave *nonce* in *slot*; None: it is void."""
        void = secrets.token_bytes(16)
        answer = await self._ask("kv/txn", {
            "compare": [_at(slot)], "success": [_mark(slot, void)], "failure": [_read(slot.key)]})
        if answer.get("succeeded"):
            slot.revision = _revision(answer)
            return None
        held = _kvs(answer)
        left = decoded(held[0].get("value", "")) if held else None
        if left not in (nonce, void):
            raise _unavailable("what tells whether the transaction happened is gone")
        slot.revision = int(held[0]["mod_revision"])
        return Outcome(True, slot.revision) if left == nonce else None  # void: put by a try whose answer was lost

    def _idle_slot(self) -> Slot | None:
        while self._idle:
            slot = self._idle.pop()
            if slot.until > time.monotonic():
                return slot
        return None

    async def _new_slot(self) -> Slot:
        while True:
            lease, until = await self._slot_lease()
            self._made += 1
            key = self._mine + b"%d" % self._made
            put = {"key": encoded(key), "value": encoded(secrets.token_bytes(16)), "lease": str(lease)}
            try:
                answer = await self._ask("kv/txn", {
                    "compare": [_compare(key, "CREATE", "EQUAL", create_revision="0")],
                    "success": [{"request_put": put}], "failure": [_read(key)]})
            except GatewayRefused as error:
                if error.code != NOT_FOUND:
                    raise
                self._lease = (0, 0.0)
                continue
            if answer.get("succeeded"):
                return Slot(key, _revision(answer), until)
            return Slot(key, int(_kvs(answer)[0]["mod_revision"]), until)  # an earlier try's, whose answer was lost

    async def _slot_lease(self) -> tuple[int, float]:
        async with self._leasing:
            while self._lease[1] <= time.monotonic():
                until = time.monotonic() + SLOT_LEASE_S / 2
                lease = 1 + secrets.randbelow(OURS - 1)
                with contextlib.suppress(_Taken):
                    await self._new_lease(lease, SLOT_LEASE_S)
                    self._lease = (lease, until)
            return self._lease

    # -- words --------------------------------------------------------------------------------------------------------

    def _key(self, key: str) -> str:
        return encoded(RECORDS + key.encode())

    def _span(self, prefix: str) -> tuple[bytes, bytes]:
        """First key of a prefix, and the first beyond it. Exact: no UTF-8 text has a byte 0xff."""
        first = RECORDS + prefix.encode()
        return first, first + b"\xff"

    def _name(self, key: str) -> str:
        return decoded(key)[len(RECORDS):].decode()

    def _found(self, answer: Body) -> Sequence[Record]:
        return [Record(self._name(kv["key"]), decoded(kv.get("value", "")), int(kv["create_revision"]),
                       int(kv["mod_revision"])) for kv in answer.get("kvs", ())]

    def _event(self, event: Mapping[str, Any]) -> Event:
        kv = event["kv"]
        value = None if event.get("type") == "DELETE" else decoded(kv.get("value", ""))
        return Event(self._name(kv["key"]), value, int(kv["mod_revision"]))

    def _compare(self, compare: Compare) -> Body:
        """Revisions are 1 and up here: to etcd, what is not there is of revision 0."""
        key = RECORDS + compare.key.encode()
        match compare:
            case Absent():
                return _compare(key, "CREATE", "EQUAL", create_revision="0")
            case Exists():
                return _compare(key, "CREATE", "GREATER", create_revision="0")
            case Unchanged(revision=revision):
                return _compare(key, "MOD", "EQUAL", mod_revision=str(revision or -1))
            case Born(created=created):
                return _compare(key, "CREATE", "EQUAL", create_revision=str(created or -1))
            case Equal(value=value):
                return _compare(key, "VALUE", "EQUAL", value=encoded(value))
            case Below(value=value):
                return _compare(key, "VALUE", "LESS", value=encoded(value))

    def _operation(self, operation: Operation) -> Body:
        if isinstance(operation, Put):
            return {"request_put": {"key": self._key(operation.key), "value": encoded(operation.value),
                                    "lease": str(operation.lease or 0)}}
        return {"request_delete_range": {"key": self._key(operation.key)}}


class _Taken(Exception):
    """There is a lease of this number."""


class _Gone(Exception):
    """There is no lease of this number."""


def _unavailable(reason: str) -> StoreUnavailable:
    return StoreUnavailable(reason, "see that most of the Controllers run and reach each other, then try again")


def _deadline(lease: int) -> int:
    """Store time (microseconds) at which a lease of ours ends."""
    return (lease >> RANDOM_BITS) * 1000


def _revision(answer: Body) -> int:
    return int(answer["header"]["revision"])


def _kvs(answer: Body) -> Sequence[Mapping[str, Any]]:
    """What the one reading of a transaction has found."""
    kvs: Iterable[Mapping[str, Any]] = answer["responses"][0]["response_range"].get("kvs", ())
    return list(kvs)


def _compare(key: bytes, target: str, result: str, **value: str) -> Body:
    return {"key": encoded(key), "target": target, "result": result, **value}


def _at(slot: Slot) -> Body:
    return _compare(slot.key, "MOD", "EQUAL", mod_revision=str(slot.revision))


def _mark(slot: Slot, value: bytes) -> Body:
    return {"request_put": {"key": encoded(slot.key), "value": encoded(value), "ignore_lease": True}}


def _read(key: bytes) -> Body:
    return {"request_range": {"key": encoded(key)}}
