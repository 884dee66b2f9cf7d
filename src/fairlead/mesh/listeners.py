"""The planned listeners: bound when the plan arrives, each stream handed to whoever carries it.

Rules, and what each stops:

1. A listener that another process holds is a problem with that process's name: on a shared host a squatter would be in
   the middle, so the node is not healthy until it is gone (it is tried again meanwhile).
2. Streams have a limit, in all and for each listener: local users cannot take the daemon's memory and descriptors, and
   whoever fills one listener leaves room at the others. Those that are open go on; new ones are reset.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import Protocol

import structlog

from fairlead.base.descriptors import Acceptor
from fairlead.base.errors import FairleadError, Refused
from fairlead.base.sockets import holder
from fairlead.mesh.plan import Listener
from fairlead.transport.admission import Admission, Place
from fairlead.transport.carried import Carried
from fairlead.transport.connection import Carrying
from fairlead.transport.forwarder import bridge, carry, forward
from fairlead.transport.peer import Target
from fairlead.transport.resets import reset
from fairlead.transport.tunnel import Tunnel

BACKLOG = 1024
REPAIR_S = 1.0
MOST_STREAMS = 4096
MOST_PER_LISTENER = 512
"""Half of what one connection carries: see MOST_CHANNELS in transport."""
SAID_FOR_S = 60.0

log = structlog.get_logger("fairlead.mesh")


class Carriers(Protocol):
    """Who has a tunnel to the owner of a service."""

    def ready(self, owner: str, address: str, port: int) -> Tunnel | None:
        """The tunnel that carries a stream to *owner*'s *address*, *port*, if there is one already."""
        ...

    async def carrier(self, owner: str, address: str, port: int) -> Tunnel:
        """A tunnel that carries a stream to *owner*'s *address*, *port*. Raises Refused when there is none in time."""
        ...


class Listeners:
    """What this node listens on for others' services and its own."""

    def __init__(self, carriers: Carriers) -> None:
        self._carriers = carriers
        self._wanted: dict[tuple[str, int], Listener] = {}
        self._bound: dict[tuple[str, int], tuple[socket.socket, Acceptor]] = {}
        self._problems: dict[tuple[str, int], str] = {}
        self._streams: set[_Stream] = set()
        self._idle = asyncio.Event()
        self._admission = Admission(MOST_STREAMS, MOST_PER_LISTENER)
        self._full_said = float("-inf")
        self._refusal_said: dict[tuple[str, str, str], float] = {}
        self._turn = asyncio.Lock()

    @property
    def problems(self) -> list[str]:
        """Why planned listeners are not there, one line each."""
        return [self._problems[place] for place in sorted(self._problems)]

    async def apply(self, wanted: Sequence[Listener]) -> None:
        """Have exactly *wanted*: bind what is missing, close what is no longer planned."""
        async with self._turn:
            self._wanted = {(listener.host, listener.port): listener for listener in wanted}
            for place in [p for p in self._bound if p not in self._wanted]:
                self._unbind(place)
                log.info("listener.closed", host=place[0], port=place[1])
            for place in [p for p in self._problems if p not in self._wanted]:
                del self._problems[place]
            for place in self._wanted:
                if place not in self._bound:
                    await self._bind(place)

    async def repair(self) -> None:
        """Try again, each second, what could not be bound, until cancelled."""
        while True:
            await asyncio.sleep(REPAIR_S)
            if self._problems:
                async with self._turn:
                    for place in list(self._problems):
                        await self._bind(place)

    async def close(self, drain_s: float = 0.0) -> None:
        """Listen on nothing; streams may go on for *drain_s* seconds, then they are cut."""
        async with self._turn:
            for place in list(self._bound):
                self._unbind(place)
            self._wanted.clear()
            self._problems.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._all_over()
        for stream in list(self._streams):
            stream.abort()
        await self._all_over()

    async def _all_over(self) -> None:
        while self._streams:
            self._idle.clear()
            await self._idle.wait()

    async def _bind(self, place: tuple[str, int]) -> None:
        host, port = place
        if place not in self._wanted:
            return
        sock = None
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # every connection inherits it
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            self._say(place, error)
            return
        self._bound[place] = sock, Acceptor(sock, lambda accepted: self._accepted(place, accepted))
        if self._problems.pop(place, None) is not None:
            log.info("listener.repaired", host=host, port=port)
        log.info("listener.bound", host=host, port=port, service=self._wanted[place].service)

    def _unbind(self, place: tuple[str, int]) -> None:
        sock, acceptor = self._bound.pop(place)
        acceptor.close()
        sock.close()

    def _say(self, place: tuple[str, int], error: OSError) -> None:
        host, port = place
        service = self._wanted[place].service
        if error.errno == errno.EADDRINUSE:
            by = holder(host, port) or "another process"
            problem = f"{service}: {host}:{port} is taken by {by} [FL-LISTENER-TAKEN]"
        elif error.errno in (errno.EACCES, errno.EPERM):
            problem = (f"{service}: {host}:{port} is not permitted for this user; give fairlead "
                       f"CAP_NET_BIND_SERVICE or use a higher --port [FL-LISTENER-PERMISSION]")
        else:
            problem = f"{service}: {host}:{port} cannot be bound: {error.strerror} [FL-LISTENER]"
        if self._problems.get(place) != problem:
            log.error("listener.problem", problem=problem)
        self._problems[place] = problem

    def _accepted(self, place: tuple[str, int], sock: socket.socket) -> None:
        listener = self._wanted.get(place)
        if listener is None:
            reset(sock)
            return
        placed = self._admission.enter(place, _stays)
        if placed is None:
            self._say_full(listener)
            reset(sock)
            return
        stream = _Stream(self, listener, placed)
        self._streams.add(stream)
        tunnel = None if listener.target else self._carriers.ready(listener.owner, listener.internal_address,
                                                                   listener.port)
        if tunnel is None:
            stream.carrying = Carried(self._carry(listener, sock), stream.over)
            return
        try:
            stream.carrying = forward(sock, tunnel, listener.internal_address, listener.port, stream.over)
        except FairleadError as refusal:
            reset(sock)
            stream.over(refusal)

    def over(self, stream: "_Stream", error: FairleadError | None) -> None:
        """For `_Stream` only: it has ended."""
        self._streams.discard(stream)
        if not self._streams:
            self._idle.set()
        if error:
            self._say_refused(stream.listener, error)

    def _say_full(self, listener: Listener) -> None:
        """Once a minute: whoever fills a listener does not fill the log."""
        now = asyncio.get_running_loop().time()
        if now - self._full_said > SAID_FOR_S:
            self._full_said = now
            log.warning("listener.full", code="FL-LISTENER-FULL", service=listener.service, host=listener.host,
                        port=listener.port, streams=self._admission.inside)

    def _say_refused(self, listener: Listener, refusal: FairleadError) -> None:
        """Once a minute for each kind: a client that tries again and again does not fill the log."""
        kind, now = (listener.service, listener.owner, refusal.code), asyncio.get_running_loop().time()
        if now - self._refusal_said.get(kind, float("-inf")) > SAID_FOR_S:
            self._refusal_said[kind] = now
            log.info("stream.refused", service=listener.service, owner=listener.owner, code=refusal.code,
                     reason=refusal.message)

    async def _carry(self, listener: Listener, sock: socket.socket) -> None:
        if listener.target is not None:
            await bridge(sock, Target(*listener.target, listener.service))
            return
        try:
            tunnel = await self._carriers.carrier(listener.owner, listener.internal_address, listener.port)
        except BaseException:
            reset(sock)
            raise
        await carry(sock, tunnel, listener.internal_address, listener.port)


class _Stream:
    """A connection to a listener, until it is over."""

    __slots__ = ("_aborted", "_listeners", "_placed", "carrying", "listener")

    def __init__(self, listeners: Listeners, listener: Listener, placed: Place) -> None:
        self._listeners = listeners
        self._placed = placed
        self._aborted = False
        self.listener = listener
        self.carrying: Carrying | None = None

    def abort(self) -> None:
        """Reset it: an end of our own making, of which nothing is to be said."""
        self._aborted = True
        if self.carrying:
            self.carrying.abort()

    def over(self, error: FairleadError | None) -> None:
        """It has ended."""
        self._placed.leave()
        self._listeners.over(self, None if self._aborted else error)


def _stays() -> bool:
    return False


def no_carrier(owner: str) -> Refused:
    """The refusal of a stream to a node that no tunnel reaches."""
    return Refused("FL-STREAM-DOWN", f"no tunnel reaches {owner}", f"see `fairlead status` and `node show {owner}`")
