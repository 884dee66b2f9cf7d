"""Both ends in one loop, a door that is a table, and programs that listen and connect."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fairlead.base.clock import SystemClock
from fairlead.base.descriptors import Acceptor
from fairlead.keys.ssh import PrivateKey, PublicKey
from fairlead.transport.admission import Admission
from fairlead.transport.channel import Channel
from fairlead.transport.dialler import dial
from fairlead.transport.forwarder import carry
from fairlead.transport.options import Keepalive
from fairlead.transport.peer import Peer, Standing, Target
from fairlead.transport.server import Listener, listen
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.visit import Reception
from fairlead.transport.way import VARIABLE, Way, choose

HOST_KEY = PrivateKey.from_seed(b"h" * 32)
ALICE = PrivateKey.from_seed(b"a" * 32)
BOB = PrivateKey.from_seed(b"b" * 32)
CLOCK = SystemClock()
PATIENT = Keepalive()


def peer_of(name: str, key: PrivateKey, user: str = "aviseuser", standing: Standing = "active") -> Peer:
    """A node called *name*."""
    return Peer(f"id-{name}", name, "engine", user, standing, key.public.fingerprint)


@dataclass(eq=False)
class FakeDoor:
    """A door that looks everything up in its tables."""

    peers: dict[tuple[str, bytes], Peer] = field(default_factory=dict)
    targets: dict[tuple[str, int], Target] = field(default_factory=dict)
    reverses: set[tuple[str, int]] = field(default_factory=set)
    subsystems: dict[str, Callable[[Channel], Awaitable[None]]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    tunnels: list[Tunnel] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    gone: list[Tunnel] = field(default_factory=list)
    arrival: asyncio.Event = field(default_factory=asyncio.Event)
    departure: asyncio.Event = field(default_factory=asyncio.Event)
    on_arrival: Callable[[Tunnel], None] = lambda _: None

    def known(self, key: PrivateKey, peer: Peer) -> None:
        self.peers[peer.user, key.public.blob] = peer

    def admit(self, user: str, key: PublicKey, source: str) -> Peer | None:
        self.asked.append((user, key.fingerprint))
        assert source in ("127.0.0.1", "::1")
        return self.peers.get((user, key.blob))

    def arrived(self, tunnel: Tunnel) -> None:
        self.tunnels.append(tunnel)
        self.arrival.set()
        self.on_arrival(tunnel)

    def left(self, tunnel: Tunnel) -> None:
        self.gone.append(tunnel)
        self.departure.set()

    def target(self, tunnel: Tunnel, host: str, port: int) -> Target | None:
        return self.targets.get((host, port))

    def reverse(self, tunnel: Tunnel, host: str, port: int) -> bool:
        return (host, port) in self.reverses

    def reverse_ended(self, tunnel: Tunnel, host: str, port: int) -> None:
        self.ended.append((host, port))

    def subsystem(self, tunnel: Tunnel, name: str) -> Callable[[Channel], Awaitable[None]] | None:
        return self.subsystems.get(name)


@dataclass(eq=False)
class World:
    """A listening door and everything that was started around it."""

    door: FakeDoor
    listener: Listener
    port: int
    admission: Admission
    stack: contextlib.AsyncExitStack
    way: Way
    host_keys: list[PrivateKey]
    """The first one answers; a test that changes them changes what new connections see."""
    faults: list[dict[str, object]]
    """What went wrong behind everybody's back; a test that expects some takes it out."""

    async def dial(self, key: PrivateKey = ALICE, peer: Peer | None = None, *, keepalive: Keepalive = PATIENT,
                   port: int = 0, patience: float = 10.0,
                   host_keys: Sequence[PrivateKey] = (HOST_KEY,)) -> Tunnel:
        tunnel = await dial("127.0.0.1", port or self.port, peer=peer or peer_of("alice", key), key=key,
                            host_keys=[one.public for one in host_keys], keepalive=keepalive, clock=CLOCK, way=self.way,
                            timeout=patience)
        self.stack.callback(tunnel.close, "the test is over")
        return tunnel

    async def serve(self, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> int:
        """A program that listens; its port."""
        tasks: set[asyncio.Task[None]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.current_task())  # type: ignore[arg-type]
            try:
                await handler(reader, writer)
            except (ConnectionError, EOFError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self.stack.callback(server.close)
        self.stack.callback(lambda: [task.cancel() for task in tasks])
        return int(server.sockets[0].getsockname()[1])

    async def front(self, tunnel: Tunnel, host: str, port: int, listening: socket.socket | None = None) -> "Front":
        """What the mesh does: a listener whose connections are carried to *host*:*port*."""
        front = Front()

        def take(sock: socket.socket) -> None:
            task = asyncio.get_running_loop().create_task(carry(sock, tunnel, host, port))
            front.carried.append(task)
            self.stack.callback(task.cancel)

        front.port = self.accept(take, listening)
        return front

    def accept(self, take: Callable[[socket.socket], None], listening: socket.socket | None = None) -> int:
        """Give *take* each connection to the port that is returned."""
        listening = listening or bound()
        listening.listen(100)
        acceptor = Acceptor(listening, take)
        self.stack.callback(listening.close)
        self.stack.callback(acceptor.close)
        return int(listening.getsockname()[1])

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A program that connects."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.stack.callback(writer.close)
        return reader, writer


@dataclass(eq=False)
class Front:
    """A listener of the mesh and the streams that it took."""

    port: int = 0
    carried: list[asyncio.Task[None]] = field(default_factory=list)


def listen_at(sock: socket.socket) -> int:
    """Its port."""
    sock.listen()
    sock.setblocking(False)
    return int(sock.getsockname()[1])


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.asynccontextmanager
async def world(*, admission: Admission | None = None, keepalive: Keepalive = PATIENT,
                ways: tuple[str, str] | None = None, reception: Reception | None = None,
                waiting: Callable[[], int] = lambda: 0) -> AsyncIterator[World]:
    """*ways* are those of the end that dials and of the end that listens; else what the environment says."""
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    door = FakeDoor()
    door.known(ALICE, peer_of("alice", ALICE))
    sock = bound()
    port = int(sock.getsockname()[1])
    admission = admission or Admission(100, 100)
    here, there = (choose({VARIABLE: one} if ways else os.environ) for one in ways or ("", ""))
    host_keys = [HOST_KEY]
    listener = await listen([sock], host_keys=lambda: host_keys, door=door, admission=admission, keepalive=keepalive,
                            clock=CLOCK, way=there, reception=reception, waiting=waiting)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(listener.close)
        yield World(door, listener, port, admission, stack, here, host_keys, faults)
        for tunnel in door.tunnels:
            tunnel.close("the test is over")
            await tunnel.wait_closed()
    await until(lambda: not admission.inside)
    for way in (here, there):
        way.close()
    assert faults == [], faults  # not rewritten by pytest: it must say itself


async def until(holds: Callable[[], bool]) -> None:
    """Let everybody run until *holds*; for what no event tells."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
