"""One listener for every HTTP socket of ours: portal, API, control socket. uvicorn's HTTP/1.1 on connections we accept.

Rules, and the attack each stops:

1. A connection is counted against its source before its TLS handshake begins, and until its last byte is gone:
   half-open handshakes are as bounded as everything else.
2. Whoever owes us bytes has a deadline: 5 s for the handshake, 10 s for a whole request, 10 s for each bit of an answer
   that he does not read, for a connection that he does not close. Dripping bytes does not extend it.
3. A body over the limit is answered 413 from its header, or where the count runs over; the rest is not read.
4. TLS 1.3 only, no tickets, no early data, no client certificates. Plain HTTP on a TLS port gets no byte in answer.
5. A certificate is replaced by a whole new context for new connections. ``load_cert_chain`` on a live context leaves
   a broken listener behind when the new pair does not match. Each connection knows the certificate that it presented.
6. Strangers learn nothing and write nothing: no server header, no traceback, no line in the log per connection or
   malformed request.
7. Where all places are taken, who owes us bytes makes room for newcomers, as the Admission says; a request that is
   whole gets its answer.

Private keys pass to OpenSSL through memory that has no name on any disk.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import ssl
import stat
import struct
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h11
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog import get_logger
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fairlead.base.descriptors import accepting
from fairlead.base.errors import OperatorError
from fairlead.base.sockets import holder

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_HEADER_BYTES = 16 * 1024
RECOGNISED_FOR = 60.0
"""Seconds for which a certificate that was swapped out is still taken for ours."""
BACKLOG = 1024
_PROGRESS = 16 * 1024
"""Bytes of an answer that a reader must take within each request deadline."""
_LINGER = 1.0
"""Seconds that a peer gets to hang up when all is said: TLS reads on, into nothing, until it does."""
_ABANDONED = 1.0
"""Seconds that cancelled handlers get to end."""
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # for an API that allows TLS 1.2; 1.3 has its own list
_CLOSE = (b"connection", b"close")


class Place(Protocol):
    """That a connection was counted in."""

    def leave(self) -> None:
        """Count it out, unless that was done."""
        ...

    def served(self) -> None:
        """The same, of one that belonged here and has got its answer."""
        ...


class Admission(Protocol):
    """How many connections there may be at once, in all and from one source."""

    def enter(self, source: str, yields: Callable[[], bool]) -> Place | None:
        """Count a connection in, or say no; *yields* ends it in favour of another, or says no."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener grants to a connection. How many there may be per source is the Admission's."""

    connections: int = 512
    """Open at once on this listener, those without a source (control socket) too."""
    handshake_s: float = 5.0
    request_s: float = 10.0
    """From the connection, or the first byte of a later request, to the last byte of the body."""
    body_bytes: int = 64 * 1024
    keep_alive: bool = False
    idle_s: int = 5
    """Between two requests, with keep_alive."""


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """The certificate, and in its context the key, that a TLS listener presents."""

    context: ssl.SSLContext
    certificate_der: bytes
    above: tuple[bytes, ...] = ()
    """What is sent along with it, DER."""

    @property
    def certificate_hash(self) -> bytes:
        """SHA-256 of the leaf, 32 bytes."""
        return hashlib.sha256(self.certificate_der).digest()


class Presented:
    """The identity that new connections get, and which certificates were presented a moment ago."""

    def __init__(self, identity: Identity) -> None:
        self._current = identity
        self._before: list[tuple[bytes, float]] = []

    @property
    def current(self) -> Identity:
        """What the next connection gets."""
        return self._current

    def swap(self, identity: Identity, now: float) -> None:
        """Present *identity* from now on (monotonic seconds); connections that are open keep what they have."""
        self._before = [(seen, until) for seen, until in self._before if until > now]
        self._before.append((self._current.certificate_hash, now + RECOGNISED_FOR))
        self._current = identity

    def recognises(self, certificate_hash: bytes, now: float) -> bool:
        """Whether a peer may have been shown this certificate within the last 60 s."""
        return certificate_hash == self._current.certificate_hash or any(
            seen == certificate_hash and now <= until for seen, until in self._before)


def server_identity(certificate_chain_pem: bytes, key_pem: bytes,
                    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Identity:
    """An identity from a chain (leaf first) and its unencrypted key. Raises OperatorError, ``FL-CERT-PAIR``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_NONE
    memory = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(certificate_chain_pem.rstrip() + b"\n" + key_pem)
        # An empty password: OpenSSL would ask at the terminal for the one of an encrypted key.
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=b"")
        leaf, *above = (one.public_bytes(Encoding.DER)
                        for one in x509.load_pem_x509_certificates(certificate_chain_pem))
    except (OSError, ValueError) as error:  # SSLError is an OSError; its text names the fault and never the key
        reason = getattr(error, "reason", None)
        why = "they do not belong together" if reason == "KEY_VALUES_MISMATCH" else reason or "unreadable"
        raise OperatorError("FL-CERT-PAIR", f"the certificate and its private key cannot be used: {why}",
                            "give a PEM chain, leaf first, and the unencrypted key of its first certificate") from None
    finally:
        os.close(memory)
    return Identity(context, leaf, tuple(above))


async def serve(app: Application, sockets: Sequence[socket.socket], *, presented: Presented | None, limits: Limits,
                admission: Admission | None) -> "Listener":
    """Answer with *app* (ASGI 3) on listening *sockets*, which are the listener's to close; TLS if *presented*.

    ``scope["extensions"]["fairlead"]`` holds ``certificate`` (SHA-256 of the DER leaf that this connection was shown,
    or None), ``source`` (IP address, or None), and ``peer_uid`` (for a unix
    socket, else None); ``["fairlead.served"]["say"]`` is to be called when the peer has shown that it belongs here.
    Connections over a unix socket have no source and need no *admission*.
    """
    return Listener(app, sockets, presented, limits, admission)


class Listener:
    """Accepts, until it is closed. Made by `serve`, inside a running loop."""

    def __init__(self, app: Application, sockets: Sequence[socket.socket], presented: Presented | None, limits: Limits,
                 admission: Admission | None) -> None:
        self.app = app
        self.limits = limits
        self.state = ServerState()
        self.config = Config(_unused, http=H11Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
                             access_log=False, proxy_headers=False, server_header=False, date_header=False, workers=1,
                             forwarded_allow_ips="", timeout_keep_alive=limits.idle_s,
                             h11_max_incomplete_event_size=MOST_HEADER_BYTES)
        self.config.load()
        self.log = get_logger()
        self._presented = presented
        self._admission = admission
        self._sockets = list(sockets)
        self._open: dict[asyncio.Task[Any], _Connection] = {}
        self._yielding = 0
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._sockets]

    def __len__(self) -> int:
        """Connections that are open, half-open ones too."""
        return len(self._open)

    async def close(self, drain_s: float) -> None:
        """Accept no more; let running requests end for *drain_s* seconds; then cut what is left."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        for task, connection in self._open.items():
            if connection.established:
                connection.shutdown()
            else:
                task.cancel()
        await self._end(drain_s)
        for connection in self._open.values():
            connection.cut()
        for task in (*self._open, *self.state.tasks):
            task.cancel()
        await self._end(_ABANDONED)

    async def _end(self, within_s: float) -> None:
        running: set[asyncio.Task[Any]] = {*self._open, *self.state.tasks}
        if running:
            await asyncio.wait(running, timeout=within_s)

    async def _accept(self, listening: socket.socket) -> None:
        async for sock, address in accepting(listening, reserved=listening.family == socket.AF_UNIX):
            self._admit(sock, str(address[0]).partition("%")[0] if isinstance(address, tuple) else None)

    def _admit(self, sock: socket.socket, source: str | None) -> None:
        def yields() -> bool:
            if connection.at_work or task.done():
                return False
            if connection.established:
                connection.cut()
            else:
                task.cancel()
            self._yielding += 1
            task.add_done_callback(self._yielded)
            return True

        place = None
        if source is not None and self._admission is not None:
            place = self._admission.enter(source, yields)
            if place is None:
                sock.close()
                return
        if len(self._open) - self._yielding >= self.limits.connections:
            sock.close()
            if place is not None:
                place.leave()
            return
        identity = None if self._presented is None else self._presented.current
        connection = _Connection(self, {
            "certificate": None if identity is None else identity.certificate_hash,
            "source": source, "peer_uid": _peer_uid(sock) if sock.family == socket.AF_UNIX else None})
        if place is not None:
            connection.served = place.served
        task = asyncio.create_task(self._host(sock, identity, connection))
        self._open[task] = connection
        task.add_done_callback(lambda done: self._release(done, sock, place))

    def _yielded(self, _: asyncio.Task[None]) -> None:
        self._yielding -= 1

    def _release(self, task: asyncio.Task[None], sock: socket.socket, place: Place | None) -> None:
        """However the connection ended, before its task began to run too: exactly once for each that entered."""
        sock.close()
        del self._open[task]
        if place is not None:
            place.leave()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("listener.failed", exc_info=error)

    async def _host(self, sock: socket.socket, identity: Identity | None, connection: "_Connection") -> None:
        tls: dict[str, Any] = {} if identity is None else {
            "ssl": identity.context, "ssl_handshake_timeout": self.limits.handshake_s,
            "ssl_shutdown_timeout": self.limits.request_s}
        with contextlib.suppress(OSError):  # a handshake that failed or took too long: nobody to tell
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock, **tls)
            await connection.lost.wait()


class _Connection(H11Protocol):
    """One connection: uvicorn's HTTP/1.1, and around it our deadlines, limits and answers."""

    def __init__(self, listener: Listener, origin: dict[str, Any]) -> None:
        super().__init__(listener.config, listener.state, {}, asyncio.get_running_loop())
        self.logger = logging.Logger("silent", logging.CRITICAL + 1)  # noqa: LOG001 - strangers do not write our log
        self.access_log = False
        self.app = self._answer
        self.lost = asyncio.Event()
        self.established = False
        self.served: Callable[[], None] = _nothing
        self._listener = listener
        self._limits = listener.limits
        self._origin = origin
        self._owed: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def at_work(self) -> bool:
        """Whether a whole request waits for its answer: the peer owes us nothing."""
        return (self.cycle is not None and not self.cycle.response_complete
                and self.conn.their_state in (h11.DONE, h11.MUST_CLOSE))

    # The peer owes us a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.established = True
        super().connection_made(transport)
        self._settle()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def _settle(self) -> None:
        """Run the request's clock while a request is under way; what stands at its end is cut."""
        state = self.conn.their_state
        begun = self.cycle is None or bool(self.conn.trailing_data[0])  # the first one begins with the connection
        if state is h11.SEND_BODY or (state is h11.IDLE and begun):
            if self._owed is None:
                self._owed = self.loop.call_later(self._limits.request_s, self.cut)
        elif self._owed is not None:
            self._owed.cancel()
            self._owed = None
        if self.transport.is_closing():
            self._watch_reader()

    # The peer owes us its reading of the answer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None

    def _watch_reader(self) -> None:
        if self._unread is None:
            waiting = self.transport.get_write_buffer_size()
            patience = self._limits.request_s if waiting or not self.transport.is_closing() else _LINGER
            self._unread = self.loop.call_later(patience, self._judge_reader, waiting)

    def _judge_reader(self, before: int) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size() > before - _PROGRESS:
            self.cut()
        else:
            self._watch_reader()

    # The end

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._owed, self._unread):
            if timer is not None:
                timer.cancel()
        self.lost.set()

    def shutdown(self) -> None:
        """Close now, or after the answer that is being made."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def cut(self) -> None:
        """End the connection without another word."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.established:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is not HTTP, in our form; nothing if an answer is on its way already."""
        del msg
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.cut()
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
        body = _error("this is not an HTTP/1.1 request", "FL-HTTP-FORMAT")
        headers = [*_headers(body), _CLOSE]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body),
                      h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    # The application

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        scope["extensions"] = {"fairlead": self._origin, "fairlead.served": {"say": self.served}}
        cycle = self.cycle  # a handler that goes on after its answer must not touch the next request's
        limit, taken, started, refused = self._limits.body_bytes, 0, False, False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                keep = self._limits.keep_alive and cycle.keep_alive
                message = {**message, "headers": [*message.get("headers", ()), *(() if keep else (_CLOSE,))]}
            if not refused:
                await send(message)

        async def refuse(status: int, text: str, code: str) -> None:
            nonlocal refused
            if started:
                if not cycle.response_complete:
                    self.cut()
            else:
                body = _error(text, code)
                await send({"type": "http.response.start", "status": status, "headers": [*_headers(body), _CLOSE]})
                await send({"type": "http.response.body", "body": body})
            refused = True

        async def bounded() -> Message:
            nonlocal taken
            if refused:
                return {"type": "http.disconnect"}
            message = await receive()
            taken += len(message.get("body", b""))
            if taken <= limit:
                return message
            await refuse(413, f"the body is larger than {limit} bytes", "FL-HTTP-TOO-LARGE")
            return {"type": "http.disconnect"}

        if any(name == b"content-length" and int(value) > limit for name, value in scope["headers"]):
            await refuse(413, f"the body is larger than {limit} bytes", "FL-HTTP-TOO-LARGE")
            return
        try:
            await self._listener.app(scope, bounded, answer)
            if not started and not refused and not cycle.disconnected:
                raise RuntimeError("the application did not answer")
        except Exception as error:
            if refused or cycle.disconnected:
                return  # what a handler makes of a peer that has gone
            self._listener.log.exception("request.failed", path=scope["path"], error=type(error).__name__)
            await refuse(500, "the request failed by a fault of ours", "FL-INTERNAL")


def _nothing() -> None:
    """Where nobody counts."""


async def _unused(scope: Message, receive: Receive, send: Send) -> None:
    """What uvicorn's configuration asks for; each connection brings its own."""


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
            (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def _error(text: str, code: str) -> bytes:
    return json.dumps({"error": text, "code": code, "remedy": ""}).encode()


def _peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a unix socket, by the kernel's word (unix(7), SO_PEERCRED)."""
    return _peer(sock)[1]


def _peer(sock: socket.socket) -> tuple[int, int]:
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def bind_unix(folder: Path, name: str) -> socket.socket:
    """A listening unix socket *name* in *folder*, mode 0600, however long the path.

    A socket that a dead daemon left is replaced; raises OperatorError ``FL-ALREADY-RUNNING`` when a live one has it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            # Two daemons that start at once must not both find the old socket dead and unlink each other's.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _already_running(folder, "") from error
        os.fchmod(sock.fileno(), 0o600)  # bind() gives the file the socket's mode: there is no moment with another
        path = f"/proc/self/fd/{handle}/{name}"  # the address of a unix socket holds 107 bytes, a path may be longer
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(folder, handle, name, path)
            sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(handle)
    return sock


def _remove_stale(folder: Path, handle: int, name: str, path: str) -> None:
    if not stat.S_ISSOCK(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
        raise OperatorError("FL-STATE-DAMAGED", f"{folder / name} is not a socket", "move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(name, dir_fd=handle)
        except BlockingIOError as error:  # alive, with a full backlog
            raise _already_running(folder, "") from error
        else:
            raise _already_running(folder, f" (pid {_peer(probe)[0]})")


def _already_running(folder: Path, who: str) -> OperatorError:
    return OperatorError("FL-ALREADY-RUNNING", f"another fairlead{who} runs with the state folder {folder}",
                         "stop it first, or name another folder with --state")


def bind_tcp(hosts: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    """Listening sockets at *hosts* (addresses), or at every address of this machine when there are none.

    Port 0 takes a free one, the same for all. *flag* is the option that sets the port, for the message. Raises
    OperatorError: ``FL-PORT-TAKEN``, ``FL-PORT-PERMISSION``, ``FL-LISTEN-ADDRESS``.
    """
    for last in [False] * 15 + [True]:
        try:
            return list(_bind_all(hosts, port, flag))
        except OperatorError as error:
            if last or port or error.code != "FL-PORT-TAKEN":  # the port we were given is taken at another address
                raise
    raise AssertionError("unreachable")


def _bind_all(hosts: Sequence[str], port: int, flag: str) -> Sequence[socket.socket]:
    bound: list[socket.socket] = []
    try:
        for host in hosts or ("0.0.0.0", "::"):  # noqa: S104 - public ports are public
            try:
                bound.append(_bind_one(host, port))
            except OSError as error:
                if not hosts and host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # this machine has no IPv6
                raise _bind_error(error, host, port, flag) from error
            port = port or bound[0].getsockname()[1]
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _bind_one(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                  flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)  # at once: only listening makes the port ours among sockets with SO_REUSEADDR
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_error(error: OSError, host: str, port: int, flag: str) -> OperatorError:
    if isinstance(error, socket.gaierror):
        return OperatorError("FL-LISTEN-ADDRESS", f"{host} is not an IP address", "give --listen an address")
    if error.errno == errno.EADDRINUSE:
        who = holder(host, port)
        return OperatorError("FL-PORT-TAKEN", f"port {port} at {host} is taken" + (f" by {who}" if who else ""),
                             f"stop what listens there, or choose another port with {flag}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return OperatorError("FL-PORT-PERMISSION", f"port {port} at {host} is not permitted to this user",
                             f"give the service CAP_NET_BIND_SERVICE, or choose a port above 1023 with {flag}")
    return OperatorError("FL-LISTEN-ADDRESS", f"cannot listen at {host} port {port}: {error.strerror}",
                         "give --listen an address of this machine")
