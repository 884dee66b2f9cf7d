"""The commit of a join over SSH: one frame in, one frame out, then the connection ends (join protocol, section 7)."""

from typing import Any, Protocol

import structlog

from fairlead.base.errors import FairleadError, Refused
from fairlead.link import frames
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer

log = structlog.get_logger("fairlead.enrol")


class Committing(Protocol):
    """Who commits."""

    async def commit(self, fingerprint: str, message: dict[str, Any]) -> int:
        """The number of the trust statement that the node holds. Raises Refused."""
        ...


async def answer(enrolment: Committing, peer: Peer, channel: Channel) -> None:
    """Read the commit message of *peer* and answer it; the answer leaves only when the commit is durable."""
    reply: dict[str, Any]
    try:
        message = await _one(channel)
        if message.get("v") != 1 or message.get("op") != "commit":
            raise Refused("FL-JOIN-FORMAT", "not a commit message")
        revision = await enrolment.commit(peer.fingerprint, message)
        reply = {"v": 1, "result": "committed", "trust_revision": revision}
        log.info("join.committed", peer=peer.node)
    except StoreUnavailable as reason:
        log.warning("store.unavailable", reason=str(reason))
        reply = {"v": 1, "error": "FL-JOIN-UNAVAILABLE", "message": "the store did not answer"}
    except FairleadError as refusal:
        log.warning("join.refused", peer=peer.node, code=refusal.code, reason=refusal.message)
        reply = {"v": 1, "error": refusal.code, "message": refusal.message, "remedy": refusal.remedy}
    await channel.send(frames.encode(reply))
    channel.close()


async def _one(channel: Channel) -> dict[str, Any]:
    decoder = frames.Decoder(frames.MOST_COMMIT_BYTES)
    while chunk := await channel.receive():
        for message in decoder.feed(chunk):
            return message
    raise Refused("FL-JOIN-FORMAT", "the connection ended before the commit message")
