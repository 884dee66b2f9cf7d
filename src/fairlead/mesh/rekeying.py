"""How a node proves another of its user keys on connections that live, which go on meanwhile.

It signs what this end of the connection knows of itself (`enrol.next_key`), so that a Controller that was taken over
cannot have it prove a connection to another one.
"""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from fairlead.base.errors import Refused
from fairlead.enrol import next_key
from fairlead.keys.ssh import PrivateKey
from fairlead.link import frames
from fairlead.link.rekey import SUBSYSTEM, Challenge, M, Proof, Verdict, parse
from fairlead.transport.channel import Channel
from fairlead.transport.tunnel import Tunnel

PROVE_S = 10.0
"""For one connection."""


async def prove_all(tunnels: Iterable[Tunnel], key: PrivateKey, cluster: UUID, me: str) -> None:
    """Have every one of *tunnels* proven by *key*; what is so already is left alone. Raises FairleadError."""
    for tunnel in tunnels:
        if tunnel.proven != key.public.fingerprint and not tunnel.closed.is_set():
            await prove(tunnel, key, cluster, me)


async def prove(tunnel: Tunnel, key: PrivateKey, cluster: UUID, me: str) -> None:
    """Prove *key* on a connection of the node with the id *me*. Raises FairleadError: then nothing has changed."""
    try:
        async with asyncio.timeout(PROVE_S):
            channel = await tunnel.subsystem(SUBSYSTEM)
            try:
                await _prove(channel, tunnel, key, cluster, me)
            finally:
                channel.close()
    except TimeoutError:
        raise Refused("FL-KEY-PROOF", f"{tunnel.peer.node} does not answer to a proof of a user key",
                      "it is tried again") from None
    tunnel.proven = key.public.fingerprint


async def _prove(channel: Channel, tunnel: Tunnel, key: PrivateKey, cluster: UUID, me: str) -> None:
    decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
    challenge = await _hear(channel, decoder, Challenge)
    proof = next_key.prove(key, cluster, tunnel.peer.node_id, me, tunnel.session_id, challenge.nonce)
    await channel.send(frames.encode(Proof(key=key.public.line, proof=proof).model_dump()))
    verdict = await _hear(channel, decoder, Verdict)
    if verdict.code:
        raise Refused(verdict.code, f"{tunnel.peer.node} does not take the proof of a user key: {verdict.words}",
                      "it is tried again")


async def _hear(channel: Channel, decoder: frames.Decoder, form: type[M]) -> M:
    while chunk := await channel.receive():
        for fields in decoder.feed(chunk):
            return parse(form, fields)
    raise Refused("FL-STREAM-LOST", "the other side ended while a user key was being proven", "it is tried again")
