"""A living connection proves another user key of its node, and is that key's from then on.

Rules, and the attack each stops:

1. A connection is worth what the key is worth that it has proven last. When that key is revoked the connection is cut,
   whatever runs through it: who has stolen a key, and connected with it, has nothing once the key is retired, for he
   cannot prove the new one.
2. The proof is one of this connection: over its session id as this end has it, over this Controller's id and the
   node's, and over a nonce that was made for this question alone (`enrol.next_key`). Nobody answers with what he had
   signed elsewhere, nor passes a question on to somebody who can answer it.
3. Only an active user key of the node that the connection belongs to counts, as the directory has it at that moment: a
   connection changes its key, never its node.
4. A question has a deadline, and a connection that answers wrongly a few times is hung up on.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol
from uuid import UUID
from weakref import WeakKeyDictionary

import structlog

from fairlead.base.errors import Refused
from fairlead.enrol.next_key import NONCE_BYTES, proven
from fairlead.keys.ssh import KeyRefused, PublicKey
from fairlead.keys.wire import b64
from fairlead.link import frames
from fairlead.link.rekey import Challenge, Proof, Verdict, parse
from fairlead.nodes.records import KeyEntry
from fairlead.transport.channel import Channel
from fairlead.transport.tunnel import Tunnel

ANSWER_S = 10.0
MOST_WRONG = 3

log = structlog.get_logger("fairlead.fleet")


class Keys(Protocol):
    """The directory."""

    @property
    def keys(self) -> Mapping[str, KeyEntry]:
        """By fingerprint."""
        ...


class Rekeying:
    """Serves the subsystem ``fairlead-rekey`` on this Controller's side."""

    def __init__(self, directory: Keys, cluster: UUID, me: str) -> None:
        self._directory = directory
        self._cluster = cluster
        self._me = me
        self._wrong: WeakKeyDictionary[Tunnel, int] = WeakKeyDictionary()
        self.proofs = Counter[str]()
        """How often it was asked for, by the code of the answer."""

    async def serve(self, tunnel: Tunnel, channel: Channel) -> None:
        """Ask *tunnel* which key it is of. Raises FairleadError when it does not answer as it must."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            async with asyncio.timeout(ANSWER_S):
                await channel.send(frames.encode(Challenge(nonce=b64(nonce)).model_dump()))
                verdict = self._judge(tunnel, await _answer(channel), nonce)
                await channel.send(frames.encode(verdict.model_dump()))
        except TimeoutError:
            return
        self.proofs[verdict.code] += 1
        if verdict.code == "FL-KEY-PROOF":
            self._wrong[tunnel] = self._wrong.get(tunnel, 0) + 1
            log.warning("key.unproven", peer=tunnel.peer.node, address=tunnel.address, code=verdict.code)
            if self._wrong[tunnel] >= MOST_WRONG:
                tunnel.close("the node proves no key of its own")

    def _judge(self, tunnel: Tunnel, answer: Proof, nonce: bytes) -> Verdict:
        peer = tunnel.peer
        try:
            key = PublicKey.from_line(answer.key)
        except KeyRefused as error:
            return Verdict(code="FL-KEY-PROOF", words=str(error))
        entry = self._directory.keys.get(key.fingerprint)
        if entry is None or (entry.node_id, entry.use, entry.state) != (peer.node_id, "user", "active"):
            return Verdict(code="FL-KEY-ROTATION", words="it is no active user key of this node here")
        if not proven(key, answer.proof, self._cluster, self._me, peer.node_id, tunnel.session_id, nonce):
            return Verdict(code="FL-KEY-PROOF", words="it is not signed for this connection")
        if peer.fingerprint != key.fingerprint:
            tunnel.peer = replace(peer, fingerprint=key.fingerprint)
            log.info("ssh.rekeyed", peer=peer.node, address=tunnel.address, fingerprint=key.fingerprint)
        return Verdict()


async def _answer(channel: Channel) -> Proof:
    decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
    while chunk := await channel.receive():
        for fields in decoder.feed(chunk):
            return parse(Proof, fields)
    raise Refused("FL-STREAM-LOST", "the node ended while it was asked for a key")
