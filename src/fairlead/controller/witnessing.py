"""This Controller among the witnesses of audit logs: whom it shows where its own ends, and what it has been shown.

Rules, and what each stops:

1. A head is signed here for this Controller's own chain only, and shown to every engine and every other Controller, so
   that whoever writes the chain anew would have to make all of them forget.
2. Heads that others bring count by the signature of the Controller that they are of, whoever has kept them.
3. Witnesses are asked before the chain is read: what they were shown is in it, then, unless somebody took it out.
4. It asks some of the engines, and each has a deadline: thousands of engines, or silent ones, make no check slow.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from fairlead.audit.head import Judged, SignedHead, check, decode, judge, sign
from fairlead.audit.log import AuditLog
from fairlead.audit.record import AuditRecord, Entry
from fairlead.audit.witness import Witness
from fairlead.base.clock import Clock
from fairlead.base.errors import FairleadError, Refused
from fairlead.controller.mesh import Mesh
from fairlead.enrol.trust import Trust
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.store.protocol import StoreUnavailable

SHOW_S, SHOW_ENGINE_S = 3.0, 0.01
"""Between two heads, and longer by so much for each engine, which all keep them: what happens meanwhile is in the next
one."""
ASK_S = 60.0
"""Between two questions to the other Controllers where their logs end."""
ANSWER_S = 2.0
MOST_ENGINES = 16
"""That are asked for one check, drawn anew each time."""

log = structlog.get_logger("fairlead.audit")


class Witnessing:
    """Shows, keeps and gathers heads."""

    def __init__(self, audit: AuditLog, mesh: Mesh, trust: Trust, host_key: Callable[[], PrivateKey], witness: Witness,
                 clock: Clock) -> None:
        self._audit = audit
        self._mesh = mesh
        self._me = trust.node
        self._cluster_uuid = str(trust.cluster_uuid)
        self._host_key = host_key
        self._witness = witness
        self._clock = clock
        self._head = ""

    @property
    def head(self) -> str:
        """The text of the newest signed head of this Controller's chain; empty before there is one."""
        return self._head

    @property
    def heads(self) -> list[str]:
        """What this Controller was shown."""
        return [head.text() for head in self._witness.heads]

    async def show(self) -> None:
        """Sign where the chain ends and show it, each time that it has moved on, until cancelled."""
        while True:
            await self._audit.moved.wait()
            self._audit.moved.clear()
            try:
                head = await self._audit.head()
            except StoreUnavailable:
                self._audit.moved.set()
            else:
                if head.seq:
                    key = self._host_key()
                    self._head = sign(key, cluster_uuid=self._cluster_uuid,
                                      generation=self._mesh.generation, node=self._me, head=head,
                                      time=self._clock.now()).text()
                    await self._keep(self._me, self._head, key.public)
                    await self._mesh.sessions.show(self._head)
            await asyncio.sleep(SHOW_S + SHOW_ENGINE_S * self._mesh.sessions.count)

    async def ask(self) -> None:
        """Ask the other Controllers where their logs end, now and then, until cancelled."""
        while True:
            for name, answer in (await self._answers("audit-head")).items():
                node = self._mesh.directory.named(name)
                if node is not None and answer.get("head"):
                    await self._keep(name, str(answer["head"]), *node.host_keys)
            await asyncio.sleep(ASK_S)

    async def gather(self) -> Mapping[str, Sequence[SignedHead]]:
        """The heads that the witnesses tell, by the witness's name; only those that a Controller of now has
        signed, with whichever host key it had then."""
        engines, controllers = await asyncio.gather(
            self._mesh.sessions.witnessed(MOST_ENGINES, ANSWER_S), self._answers("audit-heads"))
        told: dict[str, list[Any]] = {self._me: self.heads, **engines}
        told |= {name: answer["heads"] for name, answer in controllers.items() if isinstance(answer.get("heads"), list)}
        return {name: found for name, each in sorted(told.items()) if (found := list(self._signed(each)))}

    def judge(self, witnessed: Mapping[str, Sequence[SignedHead]],
              chains: Mapping[str, Sequence[AuditRecord]]) -> Mapping[str, Sequence[Judged]]:
        """What the *chains*, by node, are to those heads."""
        hashes = {node: [record.previous for record in records][1:] + [record.head().hash for record in records[-1:]]
                  for node, records in chains.items()}  # a whole chain says the hash of each record in the next one

        def has(node: str, seq: int) -> str | None:
            held = hashes.get(node, [])
            return held[seq - 1] if seq <= len(held) else None

        return {name: [one for head in heads
                       for one in judge([head], lambda seq, node=head.node: has(node, seq),  # type: ignore[misc]
                                        self._mesh.generation)]
                for name, heads in witnessed.items()}

    def signed_heads(self) -> list[tuple[SignedHead, PublicKey]]:
        """The newest head of each Controller that is known here, and the key that has signed it."""
        newest: dict[str, tuple[SignedHead, PublicKey]] = {}
        for head, key in self._proven([*self.heads, self._head]):
            if head.generation == self._mesh.generation and head.seq >= newest.get(head.node, (head, key))[0].seq:
                newest[head.node] = head, key
        return [found for _, found in sorted(newest.items())]

    def _signed(self, texts: Sequence[Any]) -> Sequence[SignedHead]:
        return [head for head, _ in self._proven(texts)]

    def _proven(self, texts: Sequence[Any]) -> Sequence[tuple[SignedHead, PublicKey]]:
        keys, found = self._mesh.directory.host_keys(), list[tuple[SignedHead, PublicKey]]()
        for text in texts:
            with contextlib.suppress(Refused):
                head = decode(str(text))
                for key in keys.get(head.node, ()):
                    with contextlib.suppress(Refused):
                        check(head, key, cluster_uuid=self._cluster_uuid, node=head.node)
                        found.append((head, key))
        return found

    async def _answers(self, op: str) -> dict[str, dict[str, Any]]:
        """What the other Controllers that are connected answer in time; one of an older version does not."""
        async def ask(name: str) -> dict[str, Any]:
            with contextlib.suppress(FairleadError):
                return await self._mesh.peers.ask(name, op, timeout_s=ANSWER_S)
            return {}

        names = self._mesh.peers.connected
        return dict(zip(names, await asyncio.gather(*map(ask, names)), strict=True))

    async def _keep(self, node: str, text: str, *host_keys: PublicKey) -> None:
        try:
            news = await self._witness.take(text, node, *host_keys)
            if news == "contradiction":
                log.warning("alarm", alarm="audit.contradiction", about=node)
                await self._audit.append(Entry("audit.contradiction", node, self._me))
            elif news == "generation":
                log.warning("audit.generation", about=node)
        except FairleadError as error:
            log.warning("audit.head-refused", about=node, code=error.code, reason=error.message)
