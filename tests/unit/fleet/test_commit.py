"""The commit over SSH: one frame in, one frame out."""

from typing import Any, cast

import pytest

from fairlead.base.errors import Refused
from fairlead.fleet.commit import answer
from fairlead.link import frames
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.channel import Channel
from fairlead.transport.peer import Peer
from tests.unit.fleet.test_sessions import FakeChannel

PEER = Peer("id", "se-1", "engine", "aviseuser", "pending", "SHA256:proven")
MESSAGE = {"v": 1, "op": "commit", "token_id": "t", "node_id": "n", "keys_hash": "k"}


class Office:
    def __init__(self, outcome: Exception | None = None) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def commit(self, fingerprint: str, message: dict[str, Any]) -> int:
        self.asked.append((fingerprint, message))
        if self.outcome:
            raise self.outcome
        return 7


async def ask(office: Office, *chunks: bytes) -> dict[str, Any]:
    channel = FakeChannel()
    for chunk in (*chunks, b""):
        channel.told.put_nowait(chunk)
    await answer(office, PEER, cast("Channel", channel))
    assert channel.ended
    assert channel.said.qsize() == 1
    return channel.said.get_nowait()


async def test_the_proven_key_is_who_asks() -> None:
    office, frame = Office(), frames.encode(MESSAGE)
    assert await ask(office, frame[:3], frame[3:20], frame[20:]) == {"v": 1, "result": "committed", "trust_revision": 7}
    assert office.asked == [("SHA256:proven", MESSAGE)]


@pytest.mark.parametrize("chunk", [
    b"", b"\0\0", frames.encode({"v": 1, "op": "read"}), frames.encode(MESSAGE | {"v": 2}), frames.encode({}),
    b"\0\0\x10\x01", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2[]"])
async def test_whatever_else_is_refused_without_a_look_at_any_token(chunk: bytes) -> None:
    office = Office()
    assert (await ask(office, chunk))["error"] in ("FL-JOIN-FORMAT", "FL-LINK-FRAME")
    assert office.asked == []


async def test_a_second_message_is_not_answered() -> None:
    office = Office()
    await ask(office, frames.encode(MESSAGE) * 2)
    assert len(office.asked) == 1


@pytest.mark.parametrize(("outcome", "code"), [
    (Refused("FL-JOIN-REVOKED", "revoked"), "FL-JOIN-REVOKED"), (StoreUnavailable("disk"), "FL-JOIN-UNAVAILABLE")])
async def test_refusals_have_their_codes(outcome: Exception, code: str) -> None:
    assert (await ask(Office(outcome), frames.encode(MESSAGE)))["error"] == code
