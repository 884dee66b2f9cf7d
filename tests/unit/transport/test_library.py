"""What asyncssh makes of the limits that OpenSSH knows for a key, and that nothing of ours rests on them.

`restrict` and `permitlisten` in an authorized_keys file mean nothing to asyncssh: whoever writes them there believes in
a fence that is not there. Each behaviour is pinned, so that an upgrade that changes one is noticed and read about.
Ours are the gates of the server; no list of keys is ever given to asyncssh.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import asyncssh
import pytest

from fairlead.transport import options
from fairlead.transport.options import Keepalive
from fairlead.transport.server import ServerConnection
from tests.unit.transport.hostile import Hostile, hostile
from tests.unit.transport.world import ALICE, HOST_KEY, echo, world


class Trusting(asyncssh.SSHServer):
    """Grants whatever asyncssh asks it about: what is refused then, asyncssh refuses."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return True


@contextlib.asynccontextmanager
async def logged_in(limits: str) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Alice at a plain asyncssh server whose authorized_keys has *limits* before her key."""
    keys = asyncssh.import_authorized_keys(f"{limits} {ALICE.public.line}\n")
    async with (
        await asyncssh.listen("127.0.0.1", 0, config=None, server_factory=Trusting, authorized_client_keys=keys,
                              server_host_keys=[asyncssh.import_private_key(HOST_KEY.openssh())]) as listener,
        await asyncssh.connect("127.0.0.1", listener.get_port(), config=None, known_hosts=None, username="alice",
                               agent_path=None, client_keys=[asyncssh.import_private_key(ALICE.openssh())]) as client):
        yield client


async def opens(client: asyncssh.SSHClientConnection, host: str, port: int) -> bool:
    try:
        _, writer = await client.open_connection(host, port)
    except asyncssh.ChannelOpenError:
        return False
    writer.close()
    return True


async def binds(client: asyncssh.SSHClientConnection) -> bool:
    try:
        listener = await client.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1)
    except asyncssh.ChannelListenError:
        return False
    with socket.create_connection(("127.0.0.1", listener.get_port()), timeout=10):
        pass  # the library bound it on the server's machine
    listener.close()
    return True


@pytest.mark.parametrize(("limits", "open_", "bind"), [
    ("restrict", True, True),  # OpenSSH: neither
    ('permitlisten="127.0.0.1:1"', True, True),  # OpenSSH: no other place is bound
    ('restrict,permitlisten="none"', True, True),
    ("no-port-forwarding", False, False),
    ('permitopen="127.0.0.1:1"', False, True)])  # restrains -L; of -R it says nothing, as in OpenSSH
async def test_what_asyncssh_makes_of_the_limits_of_a_key(limits: str, open_: bool, bind: bool) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, logged_in(limits) as client:
        assert await opens(client, "127.0.0.1", server.sockets[0].getsockname()[1]) is open_
        assert await binds(client) is bind


async def test_nothing_of_ours_rests_on_them() -> None:
    """No list of keys reaches asyncssh, so there are no limits for it to keep, forget, or read otherwise one day."""
    ours = options.server_options(asyncssh.SSHServer, HOST_KEY, Keepalive())
    assert ours.authorized_client_keys is None
    async with world() as w, hostile(w.port) as client:
        await client.login(ALICE)
        (connection,) = (tunnel.connection for tunnel in w.door.tunnels)
        assert isinstance(connection, ServerConnection)
        assert connection._authorized_client_keys is None
        assert connection._key_options == {}
        assert connection._cert_options is None


async def test_what_asyncssh_would_serve_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every handler that it finds by the name of a channel or a request: none is reached through our gates."""
    reached: list[str] = []
    names = [name for name in dir(asyncssh.SSHServerConnection)
             if name.startswith("_process_") and name.endswith(("_open", "_global_request"))]
    for name in names:
        monkeypatch.setattr(asyncssh.SSHServerConnection, name, lambda *_, name=name: reached.append(name))
    assert {"_process_session_open", "_process_direct_tcpip_open", "_process_tcpip_forward_global_request",
            "_process_direct_streamlocal_at_openssh_dot_com_open"} <= set(names)
    async with world() as w, hostile(w.port) as client:
        await client.login(ALICE)
        await _ask_for_all(client, names)
    assert reached == []


async def _ask_for_all(client: Hostile, names: list[str]) -> None:
    for name in names:
        asked = name.removeprefix("_process_").replace("_at_", "@").replace("_dot_", ".").replace("_", "-")
        if asked.endswith("-open"):
            if asked == "session-open":
                continue  # that one we serve ourselves
            client.open(asked.removesuffix("-open"), b"\0\0\0\1x\0\0\0\1\0\0\0\1x\0\0\0\1")
        else:
            if asked.startswith("keepalive"):
                continue
            client.request(asked.removesuffix("-global-request"), b"\0\0\0\1x\0\0\0\1")
        assert await client.answer() in (82, 92), asked
