"""Dialling another node: to a pinned host key, with one key of ours, and with no way round either.

Rules, and the attack each stops:

1. The host key is compared, byte by byte, with the pinned ones during the key exchange, before anything of ours is
   sent. There is no first use, no file, no certificate, no question.
2. Our one key is the only thing offered. A server that lets us in without it is refused.
3. Whoever answers may hand us connections only to what we asked for, and each is checked again when it comes
   (`Tunnel.request_reverse`). It can open nothing else here (CVE-2023-46445, CVE-2023-46446: rogue sessions).
4. Proxy settings, ssh-agent and configuration files are not read (`options`).
"""

import asyncio
import errno
import os
import socket
from collections.abc import Collection
from dataclasses import replace

import asyncssh
from asyncssh.auth import ClientAuth
from asyncssh.packet import Boolean, SSHPacket, String

from fairlead.base.clock import Clock
from fairlead.base.descriptors import readable
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.keys.ssh import PrivateKey, PublicKey, fingerprint
from fairlead.transport.admission import plain_address
from fairlead.transport.busy import MOST_BYTES, come_again_s
from fairlead.transport.connection import Guarded, Wanted, host_and_port, refusal
from fairlead.transport.options import Keepalive, client_options
from fairlead.transport.peer import Peer
from fairlead.transport.reach import reached
from fairlead.transport.tunnel import Tunnel
from fairlead.transport.way import Way


async def dial(address: str, port: int, *, peer: Peer, key: PrivateKey, host_keys: Collection[PublicKey],
               keepalive: Keepalive, clock: Clock, way: Way, timeout: float = 10.0) -> Tunnel:  # noqa: ASYNC109
    """Connect to *address*:*port*, where *peer* should be, and log in as ``peer.user`` with *key*.

    *host_keys* are those that may answer; the tunnel's peer names the one that did. *timeout* is for everything
    together, seconds. Raises Refused FL-SSH-HOSTKEY (somebody else answers), FL-SSH-REFUSED (our key is not accepted),
    FL-SSH-WEAK (no common strong algorithm); OperatorError FL-SSH-UNREACHABLE; Busy when there is no place for one
    more.
    """
    loop = asyncio.get_running_loop()
    pinned = frozenset(host_key.blob for host_key in host_keys)
    waiter: asyncio.Future[None] = loop.create_future()
    connection: ClientConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            sock = await reached(address, port)
            await _greeted(loop, sock, f"{address}:{port}")
            options = client_options(_Caller, peer.user, key, host_keys, keepalive)
            options.waiter = waiter
            connection = ClientConnection(loop, options, pinned)
            await way.take(sock, connection)
            await waiter
        if connection.gone:
            raise asyncssh.ConnectionLost("it closed the connection")
        proven = replace(peer, fingerprint=fingerprint(connection.shown))
        tunnel = Tunnel(connection, proven, "out", _shown(connection), clock.now())
        tunnel.proven = key.public.fingerprint
        connection.tunnel = tunnel
    except Busy:
        raise
    except Exception as error:  # whatever the other side makes asyncssh stumble over
        if connection:
            connection.abort()
        raise _translated(error, address, port, peer.user, connection) from error
    except BaseException:
        if connection:
            connection.abort()
        raise
    finally:
        waiter.cancel()
    return tunnel


class Busy(OperatorError):
    """There is no place for one more at the moment."""

    def __init__(self, where: str, after_s: int) -> None:
        super().__init__("FL-SSH-PLACE", f"{where} has no place for one more now, within {after_s} s it has",
                         "nothing: it is tried again then")
        self.after_s = after_s


async def _greeted(loop: asyncio.AbstractEventLoop, sock: socket.socket, where: str) -> None:
    """Return when the other side has begun to speak, which a server does at once (RFC 4253, section 4.2).

    One that has no place for us hangs up: that is noticed before a connection is made of it, which takes a hundred
    times as long. Raises Busy and ConnectionResetError, and closes *sock* whatever is raised.
    """
    try:
        await readable(loop, sock)
        said = sock.recv(MOST_BYTES, socket.MSG_PEEK)
        if (seconds := come_again_s(said)) is not None:
            raise Busy(where, seconds)
        if not said:
            raise ConnectionResetError(errno.ECONNRESET, "it hung up")
    except BaseException:
        sock.close()
        raise


def _shown(connection: Guarded) -> str:
    name = connection.get_extra_info("peername") or ("", 0)
    host = plain_address(str(name[0]))
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def _translated(error: Exception, address: str, port: int, user: str,
                connection: "ClientConnection | None") -> FairleadError:
    where = f"{address}:{port}"
    if connection and connection.stranger:
        expected = " or ".join(sorted(fingerprint(blob) for blob in connection.pinned)) or "no key at all"
        return Refused("FL-SSH-HOSTKEY", f"{where} shows the host key {connection.stranger}, expected is {expected}",
                       "find out who answers there; if the node was made anew, join it again")
    if isinstance(error, asyncssh.PermissionDenied):
        return Refused("FL-SSH-REFUSED", f"{where} does not accept our key for {user}",
                       "see whether this node is still a member: it may have been removed or frozen")
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return Refused("FL-SSH-WEAK", f"{where} offers no strong enough key exchange or cipher: {_reason(error)}",
                       "it is no fairlead, or an outdated one")
    return OperatorError("FL-SSH-UNREACHABLE", f"{where} cannot be reached by SSH: {_reason(error)}",
                         "see whether the Controller runs, and whether a firewall is between")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        if error.errno and error.errno > 0:  # a resolver's are below, and asyncio's own texts name the socket only
            return os.strerror(error.errno)
        return printable(error.strerror or str(error), 300)
    return printable(getattr(error, "reason", "") or str(error) or type(error).__name__, 300)


class _Caller(asyncssh.SSHClient):
    """What asyncssh reports to when we dial."""

    _connection: "ClientConnection | None" = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """The socket is connected."""
        assert isinstance(conn, ClientConnection)
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more."""
        if self._connection and self._connection.tunnel:
            self._connection.tunnel.ended(exc)


class _Proof(ClientAuth):
    """Proves our one key at once (RFC 4252 section 7), without asking first what would do: two round trips less."""

    async def _start(self) -> None:
        pair = await self._conn.public_key_auth_requested()
        if pair:
            await self.send_request(Boolean(True), String(pair.algorithm), String(pair.public_data), key=pair,
                                    trivial=False)
        else:
            self._conn.try_next_auth()


class ClientConnection(Guarded, asyncssh.SSHClientConnection):
    """asyncssh's connection with our gates, from the dialling side."""

    _tried = False

    def __init__(self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHClientConnectionOptions,
                 pinned: frozenset[bytes]) -> None:
        super().__init__(loop, options, wait="auth")
        self.pinned = pinned
        self.shown = b""
        """The host key that has answered, one of those pinned."""
        self.stranger = ""
        """Fingerprint of the host key that was shown, where it is none of ours."""
        self.tunnel: Tunnel | None = None

    def validate_server_host_key(self, key_data: bytes) -> asyncssh.SSHKey:
        """The key, if it is pinned. Raises HostKeyNotVerifiable, before anything is decoded."""
        if key_data not in self.pinned:
            self.stranger = fingerprint(key_data)
            raise asyncssh.HostKeyNotVerifiable("not the host key that is expected here")
        self.shown = key_data
        return super().validate_server_host_key(key_data)

    def try_next_auth(self, *, next_method: bool = False) -> None:  # noqa: ARG002
        """Prove the key, once; there is nothing else that we would try."""
        if self._auth_methods and not self._tried:
            self._tried = True
            self._auth = _Proof(self, b"publickey")
        else:
            self._auth_methods = []
            super().try_next_auth()

    def channel_wanted(self, kind: bytes, packet: SSHPacket) -> Wanted:
        """forwarded-tcpip (RFC 4254 section 7.2) for what we asked for."""
        if kind != b"forwarded-tcpip":
            raise refusal()
        place = host_and_port(packet)
        packet.get_string()  # who connected there, as the peer says
        packet.get_uint32()
        packet.check_end()
        offered = self.tunnel.reverses.get(place) if self.tunnel and place else None
        target = offered() if offered else None
        if not target:
            raise refusal()
        return target
