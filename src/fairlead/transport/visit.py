"""People at the SSH server: what they may open, and what they may ask for on it.

Rules, and the attack each stops:

1. A person's connection is no tunnel: it has no streams, no reverse listeners, no subsystems, agent, X11 or files. It
   opens session channels, `MOST_CALLS` at a time, and on each it asks once for a command or for a prompt.
2. What a client sends of its environment is refused. Of a terminal only its size counts, and its name if that is one
   word: it ends in no path and no program's arguments.
3. What is run, and how, is its `Reception`'s to say. It gets the text of the command as it came, or is not asked: what
   is not UTF-8, or longer than `MOST_COMMAND`, is refused here.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncssh
from asyncssh.constants import DISC_BY_APPLICATION, EXTENDED_DATA_STDERR

from fairlead.base.errors import FairleadError, printable
from fairlead.base.once import Once
from fairlead.keys.ssh import PublicKey
from fairlead.transport.channel import Channel, Session
from fairlead.transport.connection import Guarded
from fairlead.transport.options import MOST_PACKET
from fairlead.transport.rules import SshRules

MOST_CALLS = 4
"""Commands and prompts at once in one connection."""
MOST_COMMAND = 8 * 1024
"""Bytes."""
MOST_SIDE = 1000
"""Columns, or rows, of a terminal."""
WINDOW = 64 * 1024
"""Bytes that a client may send to a command before it has read them."""
_REQUESTS = frozenset(("pty-req", "shell", "exec", "window-change"))
_TERM = re.compile(r"[a-z0-9][a-z0-9.+-]{0,31}")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person, as the log-in names him. What *session* and *csrf* open is done in his name: they are shown nowhere."""

    name: str
    """The account's."""
    session: str = field(repr=False)
    csrf: str = field(repr=False)
    fingerprint: str = ""
    """Of the key that was proven; empty when a password was given."""


@dataclass(slots=True)
class Terminal:
    """What a client says of its terminal."""

    name: str
    """One plain word, ``dumb`` for whatever is none."""
    columns: int
    rows: int


class Visit:
    """A person's connection, from the log-in to its end."""

    def __init__(self, connection: Guarded, visitor: Visitor, address: str) -> None:
        self.visitor = visitor
        self.address = address
        self.closed = Once()
        self._connection = connection

    def close(self, reason: str) -> None:
        """End it at once, with everything that runs in it. The client is shown *reason*."""
        if not self.closed.is_set() and not self._connection.gone:
            self._connection.disconnect(DISC_BY_APPLICATION, printable(reason, 200))

    def ended(self) -> None:
        """For this room only: the connection is no more."""
        self.closed.set()


class Call:
    """A command that somebody asked for, or a prompt, and the channel to him."""

    def __init__(self, channel: Channel, command: str | None, terminal: Terminal | None) -> None:
        self.channel = channel
        """To his standard input and output."""
        self.command = command
        """None for a prompt."""
        self.terminal = terminal
        """None when he wants none."""
        self.resized: Callable[[], None] = lambda: None
        """Called when *terminal* has another size."""

    async def complain(self, data: bytes) -> None:
        """Send *data* to his standard error; waits while he does not read. Raises Refused FL-STREAM-LOST."""
        await self.channel.send(data, EXTENDED_DATA_STDERR)

    async def refuse(self, error: FairleadError) -> None:
        """Say why nothing is done, as the command line does, and end the channel. Raises Refused FL-STREAM-LOST."""
        await self.complain(f"error: {error.line()}\n".encode())
        self.exit(1)

    def exit(self, status: int) -> None:
        """Tell him how it ended, and end the channel."""
        self.channel.exit(status)


class Reception(Protocol):
    """Who of the people comes in, and what is done for them. A fault in it ends the connection that asked."""

    def rules(self) -> SshRules:
        """What holds for a connection that begins now."""
        ...

    def questions(self, user: str) -> Sequence[tuple[str, bool]]:
        """What *user* is asked for, and whether he sees what he types."""
        ...

    async def by_answers(self, user: str, answers: Sequence[str], source: str) -> Visitor | None:
        """Who logs in as *user* from the address *source* with what he typed; None for nobody, after the same time."""
        ...

    async def by_password(self, user: str, password: str, source: str) -> Visitor | None:
        """The same for a password that he was not asked for by us."""
        ...

    async def knows(self, user: str, key: PublicKey, source: str) -> bool:
        """Whether *key* is one with which *user* may log in from there. It is not proven yet."""
        ...

    async def by_key(self, user: str, key: PublicKey, source: str) -> Visitor | None:
        """Who logs in as *user* with *key*, which he has proven."""
        ...

    def arrived(self, visit: Visit) -> None:
        """Somebody is in. May close the visit."""
        ...

    def left(self, visit: Visit) -> None:
        """The visit that arrived has ended."""
        ...

    async def serve(self, visitor: Visitor, call: Call) -> None:
        """Do what is asked for, until it is done or the channel is gone."""
        ...


class VisitSession(Session):
    """asyncssh's side of a `Call`."""

    def __init__(self, connection: Guarded, serve: Callable[[Call], Awaitable[None]],
                 ended: Callable[[], None]) -> None:
        super().__init__(connection)
        self._serving = serve
        self._ended = ended
        self._terminal: Terminal | None = None
        self._call: Call | None = None

    def pty_requested(self, term_type: str, term_size: Any, term_modes: Any) -> bool:  # noqa: ARG002 - asyncssh's
        """He has a terminal."""
        name = term_type if _TERM.fullmatch(term_type) else "dumb"
        self._terminal = Terminal(name, _side(term_size[0], 80), _side(term_size[1], 24))
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:  # noqa: ARG002
        """It has another size."""
        if self._terminal:
            self._terminal.columns, self._terminal.rows = _side(width, 80), _side(height, 24)
        if self._call:
            self._call.resized()

    def shell_requested(self) -> bool:
        """He wants a prompt."""
        return self._called(None)

    def exec_requested(self, command: str) -> bool:
        """He wants one command done."""
        return len(command.encode()) <= MOST_COMMAND and self._called(command)

    def _called(self, command: str | None) -> bool:
        self._call = call = Call(self.channel, command, self._terminal)
        self._handler = lambda _: self._serving(call)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is no more."""
        super().connection_lost(exc)
        self._ended()


class VisitChannel(asyncssh.SSHServerChannel[bytes]):
    """A session channel as a person has it: requests that are not named are refused before asyncssh sees them."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection, loop, True, False, False, 0, 0, None, "strict", WINDOW, MOST_PACKET)

    def _service_next_request(self) -> None:
        name, _, _ = self._request_queue[0]
        if name in _REQUESTS:
            super()._service_next_request()
        else:
            self._report_response(False)


def _side(said: int, usual: int) -> int:
    return min(said, MOST_SIDE) or usual
