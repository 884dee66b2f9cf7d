"""The door for SSH: who may come in, other nodes and people, and the little that they may do.

Rules, and the attack each stops:

1. Who it is follows from the key proven, and from nothing before it: a key that is offered and a name that is given
   and exchanged on the way count for nothing (CVE-2024-45337; asyncssh before 2.24.1). `ServerConnection` records the
   pair at the place where the signature was verified, and it is forgotten at the next request.
2. Every user name is offered the same, and refused alike: public keys, and where there is a `Reception` for people also
   passwords, which cost the same for every name. Only ed25519 keys are parsed, by our own parser: no certificate and no
   other key of a stranger reaches a decoder.
3. Nothing is bound, and no destination comes from the peer: `Door` says whether a named service exists for this peer
   and where it really is. Session channels carry granted subsystems only. All else does not exist (`connection`).
4. A pending node may open one session channel, once, and is cut after fifteen seconds.
5. Places for those who have not proven a key are counted (`admission`) and end after fifteen seconds; after a minute
   where people log in and somebody has begun to.
6. What waits, such as the comparison of a password, counts for the request that it was made for: the next request makes
   it void, whatever comes of it, and all requests are counted when they come. A password that is being compared is
   compared to its end, so that nobody guesses uncounted by asking again at once.
7. A person (`visit`) gets what rule 3 refuses: commands. And nothing of what a node gets.
8. People's programs are told all host keys, and each is proven over the session of who asks: they know the next one
   before it is in use (OpenSSH's PROTOCOL, 2.5). Only those that were told are proven: the keys sign nothing else.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import asyncssh
from asyncssh.constants import MSG_USERAUTH_REQUEST, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import SSHPacket, String

from fairlead.base.clock import Clock
from fairlead.base.descriptors import accepting
from fairlead.keys.ssh import KEY_TYPE, KeyRefused, PrivateKey, PublicKey
from fairlead.keys.wire import string
from fairlead.transport.admission import Admission, Place, plain_address
from fairlead.transport.busy import no_place
from fairlead.transport.channel import Channel, GuardedServerChannel, Session
from fairlead.transport.connection import Guarded, Wanted, host_and_port, refusal
from fairlead.transport.options import (
    MOST_ATTEMPTS,
    MOST_PACKET,
    MOST_PASSWORDS,
    MOST_REQUESTS,
    MOST_REVERSES,
    MOST_SESSIONS,
    PENDING_LIFETIME,
    TYPING_TIMEOUT,
    Algorithms,
    Keepalive,
    check_asyncssh,
    server_options,
)
from fairlead.transport.peer import Peer, Target
from fairlead.transport.rules import SshRules
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.visit import MOST_CALLS, Call, Reception, Visit, VisitChannel, Visitor, VisitSession
from fairlead.transport.way import Way

HOST_KEYS, PROVE_HOST_KEYS = b"hostkeys-00@openssh.com", b"hostkeys-prove-00@openssh.com"
_BACKLOG = 1024
T = TypeVar("T")


class Door(Protocol):
    """Who may do what. Each is a look-up without waiting; a fault in one ends the connection that asked."""

    def admit(self, user: str, key: PublicKey, source: str) -> Peer | None:
        """Who logs in as *user* with *key* from the address *source*; None for nobody. The key is not proven yet."""
        ...

    def arrived(self, tunnel: Tunnel) -> None:
        """A key is proven. May close the tunnel."""
        ...

    def left(self, tunnel: Tunnel) -> None:
        """The tunnel that arrived has ended."""
        ...

    def target(self, tunnel: Tunnel, host: str, port: int) -> Target | None:
        """Where the service that the peer calls *host*:*port* is; None for whatever it may not reach."""
        ...

    def reverse(self, tunnel: Tunnel, host: str, port: int) -> bool:
        """Whether the peer serves *host*:*port* from now on. The door remembers it; nothing is bound here."""
        ...

    def reverse_ended(self, tunnel: Tunnel, host: str, port: int) -> None:
        """The peer no longer serves what `reverse` granted."""
        ...

    def subsystem(self, tunnel: Tunnel, name: str) -> Callable[[Channel], Awaitable[None]] | None:
        """What serves the subsystem *name* for the peer; None for whatever it may not have."""
        ...


@dataclass(eq=False, slots=True)
class Listener:
    """Listening sockets, and who has come in by them without proving a key yet."""

    door: Door
    admission: Admission
    clock: Clock
    reception: Reception | None = None
    sockets: dict[socket.socket, asyncio.Task[None]] = field(default_factory=dict)
    strangers: set["Guest"] = field(default_factory=set)

    async def close(self) -> None:
        """Stop accepting and send strangers away. Tunnels go on until their user closes them."""
        for task in self.sockets.values():
            task.cancel()
        await asyncio.gather(*self.sockets.values(), return_exceptions=True)
        for sock in self.sockets:
            sock.close()
        for guest in tuple(self.strangers):
            guest.dismiss()


async def listen(sockets: Sequence[socket.socket], *, host_keys: Callable[[], Sequence[PrivateKey]], door: Door,
                 admission: Admission, keepalive: Keepalive, clock: Clock, way: Way, reception: Reception | None = None,
                 waiting: Callable[[], int] = lambda: 0) -> Listener:
    """Serve SSH on *sockets*, which are bound (IPv4, IPv6); without a *reception*, to nodes only.

    *host_keys*: asked for each new connection; the first one answers it, people's programs are told of the others, too.
    *waiting*: how many more are likely to come soon; whoever finds no place is told when to come again.
    Raises OperatorError for an asyncssh that does not fit.
    """
    check_asyncssh()
    loop = asyncio.get_running_loop()
    listener = Listener(door, admission, clock, reception)

    @lru_cache(maxsize=2)  # they are seldom others, and take a while to make
    def options(algorithms: Algorithms, host_key: PrivateKey) -> asyncssh.SSHServerConnectionOptions:
        return server_options(lambda: Guest(listener), host_key, keepalive, people=reception is not None,
                              algorithms=algorithms)

    def make() -> ServerConnection:
        keys = tuple(host_keys())
        algorithms = (reception.rules() if reception else SshRules()).algorithms
        return ServerConnection(loop, options(algorithms, keys[0]), keys)

    for sock in sockets:
        sock.listen(_BACKLOG)
        listener.sockets[sock] = loop.create_task(_serve(sock, way, make, admission, waiting))
    return listener


async def _serve(listening: socket.socket, way: Way, make: Callable[[], "ServerConnection"],
                 admission: Admission, waiting: Callable[[], int]) -> None:
    async for sock, address in accepting(listening):
        if admission.turn_away(str(address[0])):
            with contextlib.suppress(OSError), sock:  # before a connection is made of it: that takes much longer
                sock.send(no_place(admission.come_again_s(waiting())))
            continue
        try:
            await way.take(sock, make())
        except OSError:  # gone already
            sock.close()


class Guest(asyncssh.SSHServer):
    """One connection from outside, from its first byte to its last."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._door = listener.door
        self._reception = listener.reception
        self._connection: ServerConnection | None = None
        self._source = ""
        self._address = ""
        self._place: Place | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tunnel: Tunnel | None = None
        self._visit: Visit | None = None
        self._greeted = False
        self._calls = 0
        self._sessions = 0

    # Coming and going.

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Somebody connected."""
        assert isinstance(conn, ServerConnection)
        conn.guest = self
        self._connection = conn
        self._deadline = asyncio.get_running_loop().time() + PENDING_LIFETIME
        name = conn.get_extra_info("peername") or ("", 0)
        self._source = plain_address(str(name[0]))
        self._address = f"[{self._source}]:{name[1]}" if ":" in self._source else f"{self._source}:{name[1]}"
        self._place = self._listener.admission.enter(self._source, self._yields)
        if self._place:
            self._listener.strangers.add(self)
        else:
            conn.abort()

    def _yields(self) -> bool:
        self.dismiss()
        return True

    def dismiss(self) -> None:
        """Send it away."""
        if self._connection:
            self._connection.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._no_stranger()
        if self._timer:
            self._timer.cancel()
        if visit := self._visit:
            assert self._reception
            visit.ended()
            with contextlib.suppress(Exception), _Surfacing():
                self._reception.left(visit)
        if tunnel := self._tunnel:
            reverses = tuple(tunnel.reverses)
            tunnel.ended(exc)
            for host, port in reverses:
                with contextlib.suppress(Exception), _Surfacing():
                    self._door.reverse_ended(tunnel, host, port)
            with contextlib.suppress(Exception), _Surfacing():
                self._door.left(tunnel)

    def _no_stranger(self, *, served: bool = False) -> None:
        self._listener.strangers.discard(self)
        if self._place:
            (self._place.served if served else self._place.leave)()
            self._place = None

    # Who it is.

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        """Every name has to prove who it is."""
        if self._reception and self._connection and not self._greeted:
            self._greeted = True
            self._connection.let_type()
            if banner := self._reception.rules().banner:
                self._connection.send_auth_banner(banner.rstrip("\n") + "\n")
        return True

    def public_key_auth_supported(self) -> bool:
        """For every name."""
        return True

    def password_auth_supported(self) -> bool:
        """For every name, where people log in."""
        return self._reception is not None

    def kbdint_auth_supported(self) -> bool:
        """Likewise."""
        return self._reception is not None

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether this key would do for this name: asked by asyncssh in the middle of its connection's method."""
        return self._connection is not None and self._connection.recognised(username, key.public_data)

    def recognise(self, user: str, key: PublicKey) -> Peer | None:
        """Whom the door knows under *user* and *key*."""
        with _Surfacing():
            return self._door.admit(user, key, self._source)

    @property
    def reception(self) -> Reception | None:
        """Who knows the people that may log in."""
        return self._reception

    @property
    def source(self) -> str:
        """The address that it comes from."""
        return self._source

    def auth_completed(self) -> None:
        """Who it is was proven: the guest has a name."""
        connection = self._connection
        assert connection
        proven = connection.who_was_proven()
        if not proven:
            raise asyncssh.PermissionDenied("nothing was proven")
        self._no_stranger(served=not isinstance(proven, Visitor))  # a person types
        if isinstance(proven, Visitor):
            assert self._reception
            self._visit = Visit(connection, proven, self._address)
            with _Surfacing():
                self._reception.arrived(self._visit)
            return
        self._tunnel = Tunnel(connection, proven, "in", self._address, self._listener.clock.now())
        if proven.standing != "active":
            self._timer = asyncio.get_running_loop().call_at(self._deadline, self._tunnel.close, "time is up")
        with _Surfacing():
            self._door.arrived(self._tunnel)

    # What it may do.

    def direct(self, host: str, port: int) -> Target:
        """Where the service *host*:*port* is. Raises ChannelOpenError."""
        with _Surfacing():
            target = self._door.target(self._active(), host, port)
        if not target:
            raise refusal()
        return target

    def reverse(self, host: str, port: int) -> bool:
        """Whether the guest serves *host*:*port* from now on."""
        tunnel = self._tunnel
        if not tunnel or tunnel.peer.standing != "active" or (host, port) in tunnel.reverses or (
                len(tunnel.reverses) >= MOST_REVERSES):
            return False
        with _Surfacing():
            granted = self._door.reverse(tunnel, host, port)
        if granted:
            tunnel.reverses[host, port] = None
        return granted

    def cancel_reverse(self, host: str, port: int) -> bool:
        """Whether the guest served *host*:*port*; it no longer does."""
        if not self._tunnel or (host, port) not in self._tunnel.reverses:
            return False
        del self._tunnel.reverses[host, port]
        with _Surfacing():
            self._door.reverse_ended(self._tunnel, host, port)
        return True

    def session(self, connection: Guarded) -> Session:
        """A session, in which a subsystem, or by a person a command, may be asked for. Raises ChannelOpenError."""
        if self._visit:
            return self._visit_session(connection, self._visit)
        tunnel = self._tunnel
        self._sessions += 1
        if not tunnel or (tunnel.peer.standing != "active" and self._sessions > 1):
            raise refusal()
        if connection.count(GuardedServerChannel) >= MOST_SESSIONS:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")

        def grant(name: str) -> Callable[[Channel], Awaitable[None]] | None:
            with _Surfacing():
                return self._door.subsystem(tunnel, name)

        return Session(connection, grant)

    def _visit_session(self, connection: Guarded, visit: Visit) -> Session:
        reception = self._reception
        assert reception
        if self._calls >= MOST_CALLS:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many commands at once")
        self._calls += 1

        def serve(call: Call) -> Awaitable[None]:
            return reception.serve(visit.visitor, call)

        return VisitSession(connection, serve, self._call_ended)

    def _call_ended(self) -> None:
        self._calls -= 1

    def _active(self) -> Tunnel:
        if not self._tunnel or self._tunnel.peer.standing != "active":
            raise refusal()
        return self._tunnel


class _Surfacing:
    """asyncssh ends the connection for a fault in what it calls, which is right, and hides it, which is not."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, bug: BaseException | None, __: object) -> None:
        if isinstance(bug, Exception) and not isinstance(bug, asyncssh.Error):
            asyncio.get_running_loop().call_exception_handler({"message": "the door failed", "exception": bug})


async def _surfaced(work: Coroutine[Any, Any, T]) -> T:
    with _Surfacing():
        return await work


class ServerConnection(Guarded, asyncssh.SSHServerConnection):
    """asyncssh's connection with our gates: what it grants is asked of its `Guest`."""

    guest: Guest
    _attempts = 0
    _requests = 0
    """Which request it is that is looked at: whatever is found out for an earlier one is void."""
    _passwords = 0
    _recognised: tuple[str, bytes] | None = None
    _proven: tuple[str, Peer | Visitor] | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHServerConnectionOptions,
                 host_keys: Sequence[PrivateKey]) -> None:
        super().__init__(loop, options, wait=None)
        self._host_keys = {key.public.blob: key for key in host_keys}

    async def reload_config(self) -> None:
        """Nothing: there is no configuration. (asyncssh starts a thread here for each name that a stranger tries.)"""

    def let_type(self) -> None:
        """Give somebody who has begun to log in the time that a person needs."""
        if self._login_timer:
            self._cancel_login_timer()
            self._login_timer = self._loop.call_later(TYPING_TIMEOUT, self._login_timer_callback)

    def _gate_userauth_request(self, kind: int, number: int, packet: SSHPacket) -> Any:
        if not self.proven:
            self._begin_request()
        return super()._process_userauth_request(kind, number, packet)

    _packet_handlers = {  # noqa: RUF012 - asyncssh's name and shape
        **Guarded._packet_handlers,  # noqa: SLF001
        MSG_USERAUTH_REQUEST: _gate_userauth_request,
    }

    def _begin_request(self) -> int:
        """Forget what was found out for the request before; the number of this one."""
        self._proven = self._recognised = None
        self._requests += 1
        if self._requests > MOST_REQUESTS:
            raise asyncssh.PermissionDenied("too many requests")
        return self._requests

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Whether *username* may use this key and, where there is a *msg*, has signed it: the identity is set here.

        asyncssh calls it for the probe without signature and for the signed request. For a node nothing in it waits, so
        no other request comes between the verification, the recording and `auth_completed`. For a person it waits
        twice, and what has come of it counts only while no other request has come.
        """
        self._proven = self._recognised = None
        request = self._requests
        try:
            key = PublicKey.from_blob(key_data)
        except KeyRefused:
            return False
        peer = self.guest.recognise(username, key)
        reception = self.guest.reception
        if not peer and (not reception or not await _surfaced(
                reception.knows(username, key, self.guest.source)) or request != self._requests):
            return False
        self._recognised = username, key_data
        if not await super().validate_public_key(username, key_data, msg, signature):
            return False
        if not msg:
            return True
        if peer:
            self._proven = username, peer
            return True
        assert reception
        return await self._let_in(request, username, reception.by_key(username, key, self.guest.source))

    async def validate_password(self, username: str, password: str) -> bool:
        """Whether it is the password with which *username* logs in."""
        reception = self.guest.reception
        return reception is not None and await self._compared(
            username, reception.by_password(username, password, self.guest.source))

    async def change_password(self, username: str, old_password: str, new_password: str) -> bool:  # noqa: ARG002
        """Not here, for nobody."""
        return False

    async def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:  # noqa: ARG002
        """What *username* is asked for."""
        reception = self.guest.reception
        return ("", "", "", reception.questions(username)) if reception else False

    async def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Any:
        """Whether *username* logs in with these answers."""
        reception = self.guest.reception
        return reception is not None and await self._compared(
            username, reception.by_answers(username, responses, self.guest.source))

    async def _compared(self, user: str, work: Coroutine[Any, Any, Visitor | None]) -> bool:
        self._passwords += 1
        try:
            request = self._begin_request()
            if self._passwords > MOST_PASSWORDS:
                raise asyncssh.PermissionDenied("too many attempts")
        except asyncssh.PermissionDenied:
            work.close()
            raise
        return await self._let_in(request, user, work)

    async def _let_in(self, request: int, user: str, work: Coroutine[Any, Any, Visitor | None]) -> bool:
        """Whether *work* says who *user* is, and no other request has come meanwhile: the identity is set here.

        asyncssh drops a request when another one comes; the work is done to its end all the same.
        """
        task = self._loop.create_task(_surfaced(work))
        self.handlers.add(task)
        task.add_done_callback(self.handlers.discard)
        visitor = await asyncio.shield(task)
        if not visitor or request != self._requests:
            return False
        self._proven = user, visitor
        return True

    def recognised(self, user: str, blob: bytes) -> bool:
        """Whether the door knows this pair, which is that of the present request."""
        return self._recognised == (user, blob)

    def who_was_proven(self) -> Peer | Visitor | None:
        """Who is proven by the request that has just succeeded."""
        if not self._proven or self._proven[0] != self.get_extra_info("username"):
            return None
        return self._proven[1]

    def send_userauth_failure(self, partial_success: bool) -> None:
        """Refuse a request, and the connection after too many."""
        self._attempts += 1
        if self._attempts > MOST_ATTEMPTS:
            raise asyncssh.PermissionDenied("too many attempts")
        super().send_userauth_failure(partial_success)

    def send_server_host_keys(self) -> None:
        """Who it is was just told that it is proven: a person's program is told all host keys."""
        if isinstance(self.who_was_proven(), Visitor):
            self._send_global_request(HOST_KEYS, *map(String, self._host_keys))

    def global_requested(self, name: bytes, packet: SSHPacket) -> bool | bytes:
        """tcpip-forward and its end (RFC 4254 section 7.1); of people, the proof of host keys."""
        if name == PROVE_HOST_KEYS:
            return isinstance(self.who_was_proven(), Visitor) and self._proofs(packet)
        if name not in (b"tcpip-forward", b"cancel-tcpip-forward"):
            return False
        place = host_and_port(packet)
        packet.check_end()
        if not place:
            return False
        return self.guest.reverse(*place) if name == b"tcpip-forward" else self.guest.cancel_reverse(*place)

    def _proofs(self, packet: SSHPacket) -> bool | bytes:
        """A signature of each host key that is asked for over this session, in that order; each is asked for once."""
        left, proofs = dict(self._host_keys), b""
        while packet:
            blob = packet.get_string()
            key = left.pop(blob, None)
            if key is None:
                return False
            signed = string(PROVE_HOST_KEYS) + string(self._session_id) + string(blob)
            proofs += string(string(KEY_TYPE) + string(key.key.sign(signed)))
        return proofs

    def channel_wanted(self, kind: bytes, packet: SSHPacket) -> Wanted:
        """session (RFC 4254 section 6.1) and direct-tcpip (section 7.2)."""
        if kind == b"session":
            packet.check_end()
            session = self.guest.session(self)
            self.expect_packets(MOST_PACKET)
            channel = VisitChannel if isinstance(session, VisitSession) else GuardedServerChannel
            return channel(self, self._loop), session
        if kind == b"direct-tcpip":
            place = host_and_port(packet)
            packet.get_string()  # who connected there, as the peer says: of no use to anybody
            packet.get_uint32()
            packet.check_end()
            if not place:
                raise refusal()
            return self.guest.direct(*place)
        raise refusal()
