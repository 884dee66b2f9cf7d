"""What the kernel really says of a connection."""

import socket
import struct
from collections.abc import Iterator

import pytest

from fairlead.transport.accelerated import kernel


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            yield one, other


def test_the_shortest_round_trip_is_never_longer_than_the_usual_one(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        usual = struct.unpack_from("=I", end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 68)[0] / 1e6
        shortest = kernel.min_rtt(end)
        assert shortest is not None
        assert 0 < shortest <= usual + 0.000001


def test_what_the_peer_has_no_room_for_is_under_way(pair: tuple[socket.socket, socket.socket]) -> None:
    end = pair[0]
    end.setblocking(False)
    assert kernel.under_way(end) == 0
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += end.send(bytes(1 << 20))
    found = kernel.under_way(end)
    assert found is not None
    assert 0 < found <= sent


def test_what_has_arrived_beyond_a_hole_is_not_under_way(pair: tuple[socket.socket, socket.socket]) -> None:
    end = pair[0]
    end.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            end.send(bytes(1 << 20))
    before = kernel.under_way(end)
    info = bytearray(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192))
    assert struct.unpack_from("=I", info, 28)[0] == 0
    assert struct.unpack_from("=I", info, 16)[0] == end.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    struct.pack_into("=I", info, 28, 7)

    class Holed(socket.socket):
        def getsockopt(self, *_: int) -> bytes:  # type: ignore[override]
            return bytes(info)

    with Holed(fileno=end.detach()) as holed:
        assert before is not None
        assert kernel.under_way(holed) == before - 7 * struct.unpack_from("=I", info, 16)[0]


def test_a_limit_of_what_is_unsent_holds(pair: tuple[socket.socket, socket.socket]) -> None:
    kernel.limit_unsent(pair[0], 12345)
    assert pair[0].getsockopt(socket.IPPROTO_TCP, 25) == 12345


def test_what_is_no_tcp_has_no_figures() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert kernel.min_rtt(one) is None
        kernel.limit_unsent(one, 12345)
    assert kernel.under_way(one) is None
