"""What people ask for over SSH, done by a child process each: `fairlead` for one command, or for a prompt.

Rules, and the attack each stops:

1. No shell: the text of a command goes to the child as it is, and the child takes it apart (`cli.visitor`).
2. The child has a fixed environment, no descriptor but its own three and one letter, a session and process group of its
   own, and dies with this process. Nothing that a client sends is in its arguments or its environment, but the name of
   a terminal that is one plain word.
3. In that letter it reads who it is: arguments and environment show in /proc. What it does is done through the API in
   that person's session, with his role and under his name; it has no right of its own (`api.application`).
4. `MOST_CHILDREN` run at once in all, `MOST_EACH` for one account. What a client does not read is not read from the
   child either. When the channel or the connection goes, the child's whole group is killed.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import struct
import sys
import termios
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from fairlead.base import leash
from fairlead.base.errors import OperatorError
from fairlead.transport.visit import Call, Terminal, Visitor

MOST_CHILDREN = 32
MOST_EACH = 8
"""Of one account."""
END_S = 5.0
"""What a child that has closed its output has to end."""
_PIECE = 32 * 1024
_END_OF_INPUT = b"\x04"
"""What a terminal's line discipline takes for the end (Ctrl-D)."""

log = structlog.get_logger("fairlead.people")


@dataclass(slots=True)
class _Ends:
    """Our ends of a child's descriptors, which do not block, and the child's."""

    ours: list[int]
    """Standard input, output and error; with a terminal the first only, which is all three."""
    theirs: list[int]

    def hand_over(self) -> None:
        """The child has its own."""
        for descriptor in set(self.theirs):
            os.close(descriptor)
        self.theirs = []

    def close(self) -> None:
        for descriptor in {*self.ours, *self.theirs}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.ours, self.theirs = [], []


class Commands:
    """Runs them."""

    def __init__(self, program: Sequence[str], state: Path) -> None:
        """*program*: how this product starts itself for a visitor; it gets the number of a descriptor."""
        self._program = program
        self._state = state
        self._running = Counter[str]()

    async def serve(self, visitor: Visitor, call: Call) -> None:
        """Do what is asked for, until it is done or the channel is gone."""
        if self._running.total() >= MOST_CHILDREN or self._running[visitor.name] >= MOST_EACH:
            await call.refuse(OperatorError("FL-SSH-BUSY", "too many commands run here already",
                                            "try again when others have ended"))
            return
        self._running[visitor.name] += 1
        try:
            await self._run(visitor, call)
        except OSError as error:
            log.warning("ssh.command-failed", code="FL-SSH-BUSY", reason=str(error))
            await call.refuse(OperatorError("FL-SSH-BUSY", "the command cannot be started",
                                            "see the Controller's log"))
        finally:
            self._running[visitor.name] -= 1

    async def _run(self, visitor: Visitor, call: Call) -> None:
        told = _letter({"state": str(self._state), "session": visitor.session, "csrf": visitor.csrf,
                        "user": visitor.name, "command": call.command})
        try:
            ends = _terminal(call.terminal) if call.terminal else _pipes()
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self._program, str(told),
                    stdin=ends.theirs[0], stdout=ends.theirs[1], stderr=ends.theirs[2], pass_fds=(told,), cwd="/",
                    env=environment(call.terminal), start_new_session=True)
            except BaseException:
                ends.close()
                raise
        finally:
            os.close(told)
        try:
            ends.hand_over()
            await _carry(call, ends)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
            call.exit(_status(process.returncode))
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            ends.close()
            await process.wait()


def _letter(content: dict[str, str | None]) -> int:
    """A descriptor from which *content* is read as JSON, and nothing else."""
    letter = os.memfd_create("fairlead-visitor")
    try:
        data = json.dumps(content).encode()
        if os.write(letter, data) != len(data):
            raise OSError(errno.ENOSPC, "no memory")
        os.lseek(letter, 0, os.SEEK_SET)
    except BaseException:
        os.close(letter)
        raise
    return letter


def _status(code: int | None) -> int:
    """An exit status as a shell tells it."""
    if code is None:
        return 1
    return code if code >= 0 else 128 - code


def environment(terminal: Terminal | None) -> dict[str, str]:
    """All the environment that a child gets."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8",
            "TERM": terminal.name if terminal else "dumb"}


async def _carry(call: Call, ends: _Ends) -> None:
    """Pass on what comes on either side, until the child has said everything or the channel is gone."""
    inputs, *outputs = ends.ours
    if call.terminal:
        terminal = call.terminal
        call.resized = lambda: _resize(inputs, terminal)
        call.resized()  # it may have another size by now
        outputs = [inputs]
    writers: tuple[Callable[[bytes], Awaitable[None]], ...] = (call.channel.send, call.complain)
    said = asyncio.gather(*(_pass_on(one, write) for one, write in zip(outputs, writers, strict=False)))
    heard = asyncio.ensure_future(_feed(call, inputs, ends))
    gone = asyncio.ensure_future(call.channel.wait_closed())
    try:
        await asyncio.wait((said, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        call.resized = lambda: None
        for task in (said, heard, gone):
            task.cancel()
        await asyncio.gather(said, heard, gone, return_exceptions=True)


async def _pass_on(descriptor: int, write: Callable[[bytes], Awaitable[None]]) -> None:
    """Read no faster than *write* takes it."""
    while data := await _read(descriptor):
        await write(data)


async def _feed(call: Call, descriptor: int, ends: _Ends) -> None:
    """What the client sends, and its end."""
    try:
        while data := await call.channel.receive():
            await _write(descriptor, data)
        if call.terminal:
            await _write(descriptor, _END_OF_INPUT)
    except OSError:  # the child reads no more
        while await call.channel.receive():
            pass
    if not call.terminal:
        ends.ours.remove(descriptor)
        os.close(descriptor)


async def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _PIECE)
        except BlockingIOError:
            await _ready(descriptor, asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader)
        except OSError as error:
            if error.errno == errno.EIO:  # the last who had the terminal open has closed it
                return b""
            raise


async def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest):]
        except BlockingIOError:
            await _ready(descriptor, asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer)


async def _ready(descriptor: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


def _pipes() -> _Ends:
    pairs: list[tuple[int, int]] = []
    with _closing_on_error(pairs):
        for _ in range(3):
            pairs.append(os.pipe())  # noqa: PERF401 - those that were made are closed when one is not
    (read_in, write_in), (read_out, write_out), (read_error, write_error) = pairs
    ends = _Ends([write_in, read_out, read_error], [read_in, write_out, write_error])
    for descriptor in ends.ours:
        os.set_blocking(descriptor, False)
    return ends


def _terminal(terminal: Terminal) -> _Ends:
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    _resize(ours, terminal)
    return _Ends([ours], [theirs, theirs, theirs])


def _resize(descriptor: int, terminal: Terminal) -> None:
    """The kernel tells the foreground process (SIGWINCH)."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", terminal.rows, terminal.columns, 0, 0))


@contextlib.contextmanager
def _closing_on_error(pairs: list[tuple[int, int]]) -> Iterator[None]:
    try:
        yield
    except OSError:
        for pair in pairs:
            for descriptor in pair:
                os.close(descriptor)
        raise
