"""Programs that the engine's settings name: run without a shell, with a deadline, their words kept within bounds."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from fairlead.base.errors import Refused, printable

DEADLINE_S = 30.0
"""Less than a roll-out's patience."""
MOST_BYTES = 64 * 1024
"""Of what a program says; the rest is thrown away."""
MOST_WORDS = 600


async def run(program: Sequence[str], *, deadline_s: float = DEADLINE_S,
              essence: Callable[[str], str] = lambda words: words) -> str:
    """The words of *program* (its path or name, and its arguments), which has ended well.

    It has PATH and the locale in its environment and nothing else, and no standard input. When this is cancelled, or
    the deadline passes, it is killed with everything it has started. Raises Refused FL-DRIVER-PROGRAM with the
    *essence* of its words.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *program, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env=environment(), start_new_session=True)
    except OSError as error:
        raise Refused("FL-DRIVER-PROGRAM", f"{program[0]} cannot be started: {error.strerror}",
                      "install it on the engine, or mend the engine's settings") from None
    try:
        async with asyncio.timeout(deadline_s):
            said = await _words(child)
            status = await child.wait()
    except TimeoutError:
        raise Refused("FL-DRIVER-PROGRAM", f"{program[0]} did not end within {deadline_s:g} seconds",
                      "see what it waits for") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(asyncio.CancelledError):
            await child.wait()
    if status:
        words = last(essence(said)) or f"nothing, and ends with {status}"
        raise Refused("FL-DRIVER-PROGRAM", f"{program[0]} says: {words}", "mend the document")
    return said


def environment() -> dict[str, str]:
    """What a program has of the daemon's environment."""
    return {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}


def last(words: str) -> str:
    """The end of what a program said, on one line."""
    lines = [printable(line.strip(), MOST_WORDS) for line in words.splitlines() if line.strip()]
    text = "; ".join(lines)
    return text if len(text) <= MOST_WORDS else f"…{text[-MOST_WORDS:]}"


async def _words(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    kept = bytearray()
    while block := await child.stdout.read(65536):
        kept += block
        del kept[:-MOST_BYTES]
    return kept.decode(errors="replace")
