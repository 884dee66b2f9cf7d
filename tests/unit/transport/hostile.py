"""An SSH client that does as it is told, right or wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncssh
from asyncssh.packet import Boolean, String
from asyncssh.public_key import load_keypairs

from fairlead.keys.ssh import PrivateKey

USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_PK_OK = 51, 52, 60
REQUEST_SUCCESS, REQUEST_FAILURE, OPEN_CONFIRMATION, OPEN_FAILURE = 81, 82, 91, 92


class _Answers:
    """Stands where asyncssh keeps its authentication handler."""

    def __init__(self, connection: "Hostile") -> None:
        self._connection = connection

    def log_received_packet(self, *_: Any) -> None: ...

    def cancel(self) -> None: ...

    def process_packet(self, kind: int, _number: int, packet: Any) -> bool:
        self._connection.answers.put_nowait((kind, packet.get_remaining_payload()))
        return True


class Hostile(asyncssh.SSHClientConnection):
    """Has exchanged keys; everything after that is the test's."""

    strict = True

    def __init__(self, loop: asyncio.AbstractEventLoop, options: asyncssh.SSHClientConnectionOptions) -> None:
        super().__init__(loop, options, error_handler=self._ended)
        self.ready: asyncio.Future[None] = loop.create_future()
        self.end: Exception | None = None
        self.answers: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def _get_extra_kex_algs(self) -> list[bytes]:
        return super()._get_extra_kex_algs() if self.strict else [b"ext-info-c"]

    def _ended(self, _: Any, error: Exception | None) -> None:
        self.end = error
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError())

    def send_service_request(self, service: bytes) -> None:
        if not self.ready.done():
            self.ready.set_result(None)  # asyncssh would go on to log in by itself
        else:
            super().send_service_request(service)

    def try_next_auth(self, *, next_method: bool = False) -> None:
        self._auth = _Answers(self)  # type: ignore[assignment]
        self.answers.put_nowait((6, b""))

    def _answered(self, kind: int, _number: int, packet: Any) -> None:
        self.answers.put_nowait((kind, packet.get_remaining_payload()))
        if kind == USERAUTH_SUCCESS:
            self._auth_complete = True
            self._auth_in_progress = False

    _packet_handlers = {  # noqa: RUF012
        **asyncssh.SSHClientConnection._packet_handlers,
        **dict.fromkeys((USERAUTH_FAILURE, USERAUTH_SUCCESS, REQUEST_SUCCESS, REQUEST_FAILURE, OPEN_CONFIRMATION,
                         OPEN_FAILURE), _answered)}

    async def answer(self) -> int:
        """The kind of the next answer; -1 when the connection ends first."""
        return (await self.answer_in_full())[0]

    async def answer_in_full(self) -> tuple[int, bytes]:
        waiting = asyncio.ensure_future(self.answers.get())
        ending = asyncio.ensure_future(self.wait_closed())
        async with asyncio.timeout(10):
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        return -1, b""

    async def begin(self) -> None:
        self.send_service_request(b"ssh-userauth")
        assert await self.answer() == 6

    def name(self, user: str) -> None:
        self._username = user

    def probe(self, key: PrivateKey) -> None:
        """Offer *key* without proving it."""
        self.send_packet(50, String(self._username), String("ssh-connection"), String("publickey"), Boolean(False),
                         String("ssh-ed25519"), String(key.public.blob))

    async def prove(self, key: PrivateKey, shown: PrivateKey | None = None) -> None:
        """Sign with *key*, as the owner of *shown*."""
        pair = load_keypairs([asyncssh.import_private_key(key.openssh())])[0]
        await self.send_userauth_request(b"publickey", Boolean(True), String("ssh-ed25519"),
                                         String((shown or key).public.blob), key=pair)

    def method(self, name: str, *args: bytes) -> None:
        self.send_packet(50, String(self._username), String("ssh-connection"), String(name), *args)

    async def login(self, key: PrivateKey, user: str = "aviseuser") -> None:
        await self.begin()
        self.name(user)
        await self.prove(key)
        assert await self.answer() == USERAUTH_SUCCESS

    def open(self, kind: str, *fields: bytes, packet: int = 32768) -> None:
        """Ask for a channel."""
        self.send_packet(90, String(kind), (7).to_bytes(4, "big"), (1 << 20).to_bytes(4, "big"),
                         packet.to_bytes(4, "big"), *fields)

    def request(self, name: str, *fields: bytes) -> None:
        """Make a global request."""
        self.send_packet(80, String(name), Boolean(True), *fields)


class Unstrict(Hostile):
    """Knows nothing of strict key exchange."""

    strict = False


@contextlib.asynccontextmanager
async def hostile(port: int, kind: type[Hostile] = Hostile, **algorithms: Any) -> AsyncIterator[Hostile]:
    """A connection to *port* with keys exchanged. Raises asyncssh's errors."""
    loop = asyncio.get_running_loop()
    options = asyncssh.SSHClientConnectionOptions(
        config=None, known_hosts=None, username="nobody", client_keys=None, agent_path=None, gss_host=None,
        x509_trusted_certs=None, **algorithms)
    _, connection = await loop.create_connection(lambda: kind(loop, options), "127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            await connection.ready
        yield connection
    finally:
        connection.abort()
        await connection.wait_closed()
