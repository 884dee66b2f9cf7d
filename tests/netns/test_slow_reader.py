"""A gigabyte for a reader who takes his time: the source waits, both daemons stay small, other streams go on."""

import select
import socket
from collections.abc import Iterator
from threading import Event

import pytest

from tests.netns.ground import private_mib
from tests.processes import DEADLINE_S, Daemon, Site, ask, connect, echo, free_port, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

GIB = 1 << 30
ROOM_MIB = 64
"""For a daemon, while the stream goes on. A window, a connection's buffer and two sockets' are a tenth of it."""
MOST_UNREAD = 64 << 20
"""Bytes that may be under way: mostly in buffers of the kernel's, of four sockets."""


class Source:
    """Sends a gigabyte, as fast as it is taken, and knows when it is not."""

    def __init__(self) -> None:
        self.sent = 0
        self.waits = Event()

    def __call__(self, sock: socket.socket) -> None:
        chunk = bytes(range(256)) * 1024
        while self.sent < GIB:
            _, ready, _ = select.select([], [sock], [], 1.0)
            if not ready:
                self.waits.set()
                continue
            self.sent += sock.send(chunk[self.sent % 256:][:GIB - self.sent])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        controller = site.controller()
        yield controller, site.engine(controller, "se-1")


def serve(controller: Daemon, owner: Daemon, target: int, allow: str) -> int:
    port = free_port()
    controller.cli("service", "add", f"s-{port}", "--node", owner.name, "--port", port, "--target",
                   f"127.0.0.1:{target}", "--allow", allow).done()
    return port


@pytest.mark.parametrize("owner", ["ctl", "se-1"])
def test_a_slow_reader_stops_the_source_and_nobody_else(nodes: tuple[Daemon, Daemon], owner: str) -> None:
    controller, engine = nodes
    at, reading, allow = (controller, engine, "engines") if owner == "ctl" else (engine, controller, "controllers")
    host = reading.see(str(controller.node(owner)["internal_address"]))
    source = Source()
    with serving(source) as bulk, serving(echo) as small:
        stream, other = serve(controller, at, bulk, allow), serve(controller, at, small, allow)
        until(lambda: ask(host, other, b"hello") == b"hello", "the plan has arrived")
        calm = {node.name: private_mib(node) for node in nodes}
        with connect(host, stream) as reader:
            assert reader.recv(1)
            assert source.waits.wait(DEADLINE_S)
            for number in range(10):
                assert ask(host, other, b"%d" % number * 10_000) == b"%d" % number * 10_000
            assert source.sent < MOST_UNREAD
            for node in nodes:
                assert private_mib(node) - calm[node.name] < ROOM_MIB
            read, wrong, most = 1, 0, dict(calm)
            while data := reader.recv(1 << 20):
                wrong += data[0] != read % 256
                if read // (64 << 20) != (read + len(data)) // (64 << 20):
                    most = {node.name: max(most[node.name], private_mib(node)) for node in nodes}
                read += len(data)
        assert (read, wrong) == (GIB, 0)
        assert all(most[node.name] - calm[node.name] < ROOM_MIB for node in nodes), (calm, most)
