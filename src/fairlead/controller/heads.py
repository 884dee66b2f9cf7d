"""This Controller's audit chain and its witnesses: says where the chain ends, and compares it with what they saw.

Rules, and what each stops:

1. A witness tells first what it holds. Only a head that this Controller itself has signed counts: no engine makes up a
   record that is "missing".
2. What is held must be in the chain as it is now: an older copy of the store that went on is found though it is longer.
3. Nothing is mended: the contradiction is logged, recorded and shown, and the witness keeps what it holds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from fairlead.audit.head import CUT, FORK, Held, Said, SignedHead, check, held_from
from fairlead.audit.log import AuditLog
from fairlead.audit.record import AuditRecord, Entry, Head
from fairlead.base.errors import FairleadError, Refused
from fairlead.keys.ssh import PrivateKey
from fairlead.link import frames
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer

EVERY_S = 2.0
STATED = frozenset(("cluster.restored", "cluster.recovered"))
"""The records that say why a chain went back."""

State = Literal["agrees", "none", "ahead", "differs", "earlier"]

log = structlog.get_logger("fairlead.controller")


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose chain it is."""

    cluster: str
    node_id: str
    node: str
    key: PrivateKey


class Heads:
    """Serves witnesses while `follow` runs."""

    def __init__(self, whose: Whose, audit: AuditLog, generation: Callable[[], Awaitable[str]],
                 now: Callable[[], Awaitable[int]]) -> None:
        self._whose = whose
        self._audit = audit
        self._read_generation = generation
        self._now = now
        self._latest: SignedHead | None = None
        self._moved = asyncio.Condition()
        self._held: dict[str, SignedHead | None] = {}
        """By the names of the witnesses that are connected."""
        self._wrong: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        """What witnesses saw and the chain does not have, one line each."""
        return list(self._wrong.values())

    async def follow(self) -> None:
        """Sign the end of the chain whenever it has moved, until cancelled."""
        while True:
            try:
                latest = await self._sign()
            except FairleadError as error:  # the store is away, or its head does not read: `verify` says which
                log.info("audit.unsigned", code=error.code, reason=error.message)
            else:
                if latest is not None and latest != self._latest:
                    self._latest = latest
                    async with self._moved:
                        self._moved.notify_all()
            await asyncio.sleep(EVERY_S)

    async def _sign(self) -> SignedHead | None:
        head, known = await self._audit.head(), self._latest
        generation = await self._read_generation()
        if head.seq == 0 or (known is not None and (known.seq, known.hash, known.generation) == (
                head.seq, head.hash, generation)):
            return known
        whose = self._whose
        return SignedHead(cluster=whose.cluster, node_id=whose.node_id, node=whose.node, generation=generation,
                          seq=head.seq, hash=head.hash, time=await self._now()).signed(whose.key)

    async def converse(self, peer: Peer, channel: Channel) -> None:
        """Serve one witness until it hangs up."""
        decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
        saying: asyncio.Task[None] | None = None
        try:
            while chunk := await channel.receive():
                for fields in decoder.feed(chunk):
                    await self._hear(peer.node, held_from(fields))
                    saying = saying or asyncio.get_running_loop().create_task(self._say(peer.node, channel))
        except StoreUnavailable:
            pass  # it comes again with its next connection
        except FairleadError as refusal:
            log.warning("audit.refused", peer=peer.node, code=refusal.code, reason=refusal.message)
        finally:
            self._held.pop(peer.node, None)
            if saying is not None:
                saying.cancel()

    async def _say(self, name: str, channel: Channel) -> None:
        said: SignedHead | None = None
        try:
            while True:
                async with self._moved:
                    while self._latest is None or self._latest == said:
                        await self._moved.wait()
                    said = self._latest
                state = await self._state(self._held.get(name))
                await channel.send(frames.encode(
                    Said(head=said, follows=state not in ("ahead", "differs")).model_dump()))
        except FairleadError:
            pass  # the connection ends by itself

    async def _hear(self, name: str, held: Held) -> None:
        if held.head is not None:
            check(held.head, self._whose.key.public, self._whose.cluster, self._whose.node_id)
        self._held[name] = held.head
        state = await self._state(held.head)
        if state in ("ahead", "differs") and held.head is not None and name not in self._wrong:
            refusal = contradiction(self._whose.node, [(name, held.head, state)])
            self._wrong[name] = refusal.line()
            event = CUT if state == "ahead" else FORK
            log.warning("alarm", alarm=event, about=self._whose.node, witness=name, seq=held.head.seq)
            await self._audit.append(Entry(event, self._whose.node, name, {
                "seq": held.head.seq, "hash": held.head.hash, "signature": held.head.signature}))

    async def _state(self, held: SignedHead | None) -> State:
        if held is None:
            return "none"
        if held.generation != await self._read_generation():
            return "earlier"
        if held.seq > (await self._audit.head()).seq:
            return "ahead"
        return "agrees" if await self._audit.hash_at(held.seq) == held.hash else "differs"

    async def compare(self, records: Sequence[AuditRecord]) -> list[dict[str, Any]]:
        """How what each connected witness holds goes with *records*, the verified chain of this Controller.

        Raises Refused FL-AUDIT-CUT, FL-AUDIT-FORK.
        """
        generation, found, wrong = await self._read_generation(), [], []
        for name, held in sorted(self._held.items()):
            state = state_of(held, records, generation)
            found.append({"name": name, "seq": held.seq if held else 0, "state": state})
            if held is not None and state in ("ahead", "differs"):
                wrong.append((name, held, state))
        if wrong:
            raise contradiction(self._whose.node, wrong)
        return found


def state_of(held: SignedHead | None, records: Sequence[AuditRecord], generation: str) -> State:
    """How a head that a witness holds goes with the whole chain *records* in a store of *generation*. Pure."""
    if held is None:
        return "none"
    if held.generation != generation:  # gone back on purpose: then the chain must say so
        return "earlier" if any(record.event in STATED for record in records) else "differs"
    if held.seq > len(records):
        return "ahead"
    return "agrees" if records[held.seq - 1].head() == Head(held.seq, held.hash) else "differs"


def contradiction(node: str, wrong: Sequence[tuple[str, SignedHead, State]]) -> Refused:
    """The refusal of a chain that its witnesses *wrong* have seen otherwise; the lowest record first."""
    name, held, state = min(wrong, key=lambda w: w[1].seq)
    remedy = "keep a copy of the store, find out who could write to it, and compare with a backup"
    if state == "ahead":
        return Refused("FL-AUDIT-CUT", f"the audit chain of {node} was cut off: {name} has seen record {held.seq}",
                       remedy)
    return Refused("FL-AUDIT-FORK", f"the audit chain of {node} is another one: {name} has seen another record "
                   f"{held.seq}", remedy)
