"""The link emulator does what it is told, or no test over it proves anything.

Delay, jitter, loss, rate and cuts are measured with sockets, for each way alone, and while a transfer goes on. What a
link without settings carries is its own ceiling: a test must not ask for a rate near it.
"""

import contextlib
import select
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from fairlead.cli.netns.network import Host, Network, Way
from tests.netns.network import network
from tests.processes import DEADLINE_S, until

MIB = 1 << 20


@pytest.fixture
def net() -> Iterator[Network]:
    with network("a", "b") as net:
        yield net


@contextlib.contextmanager
def datagrams(host: Host) -> Iterator[socket.socket]:
    with host.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((host.address, 0))
        sock.settimeout(DEADLINE_S)
        yield sock


@contextlib.contextmanager
def stream(source: Host, target: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the end in *source*, which opened it, and the one in *target*."""
    with target.inside():
        listener = socket.create_server((target.address, 0))
    with listener:
        with source.inside():
            near = socket.create_connection(listener.getsockname(), timeout=DEADLINE_S)
        with near, listener.accept()[0] as far:
            far.settimeout(DEADLINE_S)
            yield near, far


@contextlib.contextmanager
def pouring(source: socket.socket) -> Iterator[None]:
    """As much as is taken goes into *source*, until the end of the block."""
    def pour() -> None:
        with contextlib.suppress(OSError):
            while True:
                source.sendall(bytes(65536))

    thread = Thread(target=pour)
    thread.start()
    try:
        yield
    finally:
        source.shutdown(socket.SHUT_RDWR)
        thread.join()


def mbit(target: socket.socket, size: int) -> float:
    """The rate at which the next *size* bytes come, after those that are here already."""
    began = time.monotonic()
    target.recv(8 * MIB)  # more than the kernel keeps for a socket
    got = 0
    while got < size:
        got += len(target.recv(65536))
    return got * 8e-6 / (time.monotonic() - began)


def send(source: socket.socket, target: socket.socket, words: bytes) -> float:
    """How many seconds they take."""
    began = time.monotonic()
    source.sendto(words, target.getsockname())
    assert target.recv(2000) == words
    return time.monotonic() - began


def entered(way: Way, packets: int) -> None:
    until(lambda: way.now().packets == packets, f"{packets} packets have entered the link")


def say(text: str) -> None:
    sys.stdout.write(f"\nlink: {text}\n")


def test_each_way_has_its_own_delay_and_jitter_and_nothing_overtakes(net: Network) -> None:
    net.ways["a", "b"].set(delay_ms=50)
    with datagrams(net.hosts["a"]) as a, datagrams(net.hosts["b"]) as b:
        there, back = zip(*((send(a, b, b"ping"), send(b, a, b"pong")) for _ in range(7)), strict=True)
        say(f"50 ms there, 0 back: {statistics.median(there) * 1e3:.2f} and {statistics.median(back) * 1e3:.2f} ms")
        assert min(there) >= 0.05
        assert statistics.median(there) <= 0.25
        assert statistics.median(back) < 0.05

        net.ways["b", "a"].set(delay_ms=5, jitter_ms=20)
        times = [send(b, a, b"pong") for _ in range(20)]
        say(f"5 ms and up to 20 of jitter: {min(times) * 1e3:.2f} to {max(times) * 1e3:.2f} ms")
        assert min(times) >= 0.005
        assert max(times) - min(times) >= 0.005
        for n in range(200):
            b.sendto(b"%d" % n, a.getsockname())
        assert [int(a.recv(100)) for _ in range(200)] == list(range(200))


def test_a_delay_that_shrinks_lets_nothing_overtake(net: Network) -> None:
    with datagrams(net.hosts["a"]) as a, datagrams(net.hosts["b"]) as b:
        net.ways["a", "b"].set(delay_ms=200)
        a.sendto(b"first", b.getsockname())
        entered(net.ways["a", "b"], 1)
        net.ways["a", "b"].set(delay_ms=0)
        a.sendto(b"second", b.getsockname())
        assert [b.recv(100), b.recv(100)] == [b"first", b"second"]


def test_the_share_that_is_set_is_lost_in_that_way_and_the_same_packets_every_time() -> None:
    came: list[list[int]] = []
    for _ in range(2):
        with network("a", "b", seed=7) as net, datagrams(net.hosts["a"]) as a, datagrams(net.hosts["b"]) as b:
            way, back = net.ways["a", "b"], net.ways["b", "a"]
            way.set(loss=0.1)
            got: list[int] = []
            for sent in range(0, 2000, 100):  # as many as the queues of the kernel hold
                for n in range(sent, sent + 100):
                    a.sendto(b"%d" % n, b.getsockname())
                entered(way, sent + 100)
                while len(got) < way.now().arrived:
                    got.append(int(b.recv(100)))
            assert len(got) + way.now().lost == 2000
            for _ in range(100):
                send(b, a, b"nothing is lost here")
            assert back.now().lost == 0
        came.append(got)
    say(f"10 % of 2000 lost: {2000 - len(got)}")
    assert abs(2000 - len(got) - 200) <= 6 * (2000 * 0.1 * 0.9) ** 0.5
    assert came[0] == came[1]


def test_a_cut_stops_everything_and_a_connection_goes_on_when_it_heals(net: Network) -> None:
    link, there, back = net.links["b", "a"], net.ways["a", "b"], net.ways["b", "a"]
    with stream(net.hosts["a"], net.hosts["b"]) as (near, far):
        near.sendall(b"before")
        assert far.recv(100) == b"before"
        link.cut()
        near.sendall(b"during")
        far.sendall(b"as well")
        until(lambda: there.now().cut and back.now().cut, "packets were lost to the cut")
        assert select.select([near, far], [], [], 0)[0] == []
        there.heal()
        assert far.recv(100) == b"during"
        assert select.select([near], [], [], 0)[0] == []
        back.heal()
        assert near.recv(100) == b"as well"


def test_what_is_under_way_when_the_link_is_cut_never_arrives(net: Network) -> None:
    way = net.ways["a", "b"]
    with datagrams(net.hosts["a"]) as a, datagrams(net.hosts["b"]) as b:
        way.set(delay_ms=60_000)
        a.sendto(b"first", b.getsockname())
        entered(way, 1)
        way.cut()
        assert way.now().cut == 1
        way.set(cut=False, delay_ms=0)
        assert send(a, b, b"second") < DEADLINE_S


def test_a_full_queue_drops_what_comes_last(net: Network) -> None:
    way = net.ways["a", "b"]
    with datagrams(net.hosts["a"]) as a, datagrams(net.hosts["b"]) as b:
        way.set(rate_mbit=0.2, queue_ms=400)  # ten packets of 1000 bytes, each 40 ms on the wire
        for n in range(100):
            a.sendto(b"%03d" % n + bytes(1000 - 28 - 3), b.getsockname())
        entered(way, 100)
        dropped = way.now().overflowed
        assert dropped >= 50
        way.set(rate_mbit=0)  # what waits goes at once
        came = [int(b.recv(2000)[:3]) for _ in range(100 - dropped)]
        assert came[:10] == list(range(10))
        assert way.now().arrived == len(came)


def test_hosts_reach_only_those_to_whom_they_are_joined_and_vanish_at_the_end() -> None:
    with network("hub", "x", "y", joined=[("hub", "x"), ("hub", "y")]) as net:
        for name in ("x", "y"):
            with stream(net.hosts[name], net.hosts["hub"]) as (near, far):
                near.sendall(b"hello")
                assert far.recv(100) == b"hello"
                assert far.getpeername()[0] == net.hosts[name].address
        net.links["hub", "x"].cut()
        with datagrams(net.hosts["x"]) as x, datagrams(net.hosts["y"]) as y, datagrams(net.hosts["hub"]) as hub:
            send(hub, y, b"the other link is whole")
            with pytest.raises(OSError, match="unreachable"):
                x.sendto(b"hello", y.getsockname())
    assert not net.folder.exists()
    assert str(net.folder) not in Path("/proc/self/mounts").read_text()
    assert all(way.process.poll() is not None for way in net.ways.values())


@pytest.mark.whole
def test_a_rate_is_a_ceiling_and_changes_while_a_transfer_goes_on(net: Network) -> None:
    way = net.ways["a", "b"]
    way.set(rate_mbit=50)
    with stream(net.hosts["a"], net.hosts["b"]) as (near, far), pouring(near):
        rates = {50: mbit(far, 6 * MIB)}
        way.set(rate_mbit=10)
        mbit(far, MIB)  # what the queues hold is gone
        rates[10] = mbit(far, 2 * MIB)
        say(f"rates set and found: {rates}, {way.now()}")
        for limit, found in rates.items():
            assert limit / 5 <= found <= limit * 1.1
        way.set(rate_mbit=0)
        assert until(lambda: mbit(far, MIB) > 20, "it is faster than before")


@pytest.mark.whole
def test_a_link_without_settings_carries_what_tests_need(net: Network) -> None:
    with stream(net.hosts["a"], net.hosts["b"]) as (near, far), pouring(near):
        ceiling = max(mbit(far, 32 * MIB) for _ in range(3))
    say(f"the ceiling: {ceiling:.0f} Mbit/s, {net.ways['a', 'b'].now()}")
    assert ceiling > 100
