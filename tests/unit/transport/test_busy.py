"""A door without a place for one more says when to come again, and that is believed for a minute at most."""

import asyncio
import socket
from contextlib import closing

import pytest

from fairlead.base.errors import OperatorError
from fairlead.transport.admission import Admission
from fairlead.transport.busy import MOST_BYTES, MOST_S, come_again_s, no_place
from fairlead.transport.dialler import Busy
from tests.unit.transport.world import bound, listen_at, until, world


def test_the_line_says_when() -> None:
    assert come_again_s(no_place(7)) == 7
    assert len(no_place(9999)) <= MOST_BYTES


def test_attack_nobody_is_kept_away_for_longer_than_a_minute() -> None:
    assert come_again_s(no_place(9999)) == MOST_S


@pytest.mark.parametrize("said", [
    b"", b"SSH-2.0-fairlead\r\n", no_place(5) + b"SSH", b"x" + no_place(5), no_place(5)[:-1], no_place(-5),
    "Fairlead has no place now, come again within ٣ s\r\n".encode()])
def test_anything_else_says_nothing(said: bytes) -> None:
    assert come_again_s(said) is None


async def test_who_finds_no_place_is_told_and_comes_in_when_there_is_one() -> None:
    async with world(admission=Admission(1, 1), waiting=lambda: 5) as w:
        reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
        assert (await reader.readline()).startswith(b"SSH-2.0-fairlead")
        with pytest.raises(Busy) as refusal:
            await w.dial()
        assert (refusal.value.code, refusal.value.after_s) == ("FL-SSH-PLACE", w.admission.come_again_s(5))
        writer.close()
        await until(lambda: not w.admission.inside)
        await w.dial()


@pytest.mark.parametrize("word", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_who_hangs_up_or_speaks_otherwise_is_not_reached(word: bytes) -> None:
    async with world() as w:
        with closing(bound()) as listening:
            port = listen_at(listening)

            async def answer() -> None:
                sock, _ = await asyncio.get_running_loop().sock_accept(listening)
                with sock:
                    if word:
                        await asyncio.get_running_loop().sock_sendall(sock, word)
                    sock.shutdown(socket.SHUT_WR)
                    await asyncio.get_running_loop().sock_recv(sock, 1)

            answering = asyncio.create_task(answer())
            with pytest.raises(OperatorError) as refusal:
                await w.dial(port=port)
            assert refusal.value.code == "FL-SSH-UNREACHABLE"
            await answering
