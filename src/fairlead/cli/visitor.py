"""The command line for somebody who came in over SSH: ``python -m fairlead.cli.visitor DESCRIPTOR``.

The Controller starts it (`controller.commands`). From the descriptor it reads who it is, once; what it does goes to the
API in that person's session. It does what `allowed` names: one command or, line by line, what is typed at a prompt.
"""

import contextlib
import fcntl
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fairlead.base import strict
from fairlead.base.errors import FairleadError
from fairlead.cli import output
from fairlead.cli.allowed import COMMANDS, check, words
from fairlead.cli.main import application, leave_no_core
from fairlead.client.api import Api
from fairlead.client.control import InSession

PROMPT = "fairlead> "
MOST_LINE = 8 * 1024


def main() -> None:
    """Do what this process was started for, and exit."""
    leave_no_core()
    letter = int(sys.argv[1])
    _close_all_but(letter)
    with contextlib.suppress(OSError):  # the Controller comes first: for the processor, and when memory is short
        os.nice(5)
        Path("/proc/self/oom_score_adj").write_text("500")
    fields = _read_letter(letter)
    api = InSession(Path(fields["state"]), fields["session"], fields["csrf"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a Controller in the background may ignore it: not we
    if sys.stdin.isatty():
        with contextlib.suppress(OSError):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C comes here
    command = fields["command"]
    try:
        sys.exit(run(api, command) if command is not None else converse(api, fields["user"]))
    except KeyboardInterrupt:
        sys.exit(130)


def run(api: Api, text: str) -> int:
    """Do one command; its exit code."""
    try:
        arguments = words(text)
        if arguments in (["help"], ["--help"]):
            show_help()
            return 0
        check(arguments)
        application()(args=arguments, prog_name="fairlead", obj=api)
    except FairleadError as error:
        output.fail(error)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def converse(api: Api, user: str) -> int:
    """Read commands and do them, to the end of the input or ``exit``; the exit code of the last one."""
    terminal = sys.stdin.isatty()
    if terminal:
        output.say(f"{user} at this Controller; help names the commands, exit ends")
    status = 0
    for text in _typed() if terminal else _lines():
        match text.split():
            case []:
                continue
            case ["exit" | "quit"]:
                return status
            case _:
                status = run(api, text)
                sys.stdout.flush()
    return status


def show_help() -> None:
    """Name the commands."""
    for command in COMMANDS:
        output.line(" ".join(command))
    output.say("each has --help; files are - here: standard input")


def _typed() -> Iterator[str]:
    """Lines that somebody edits on a terminal."""
    _editing()
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            output.say("")
            return
        except KeyboardInterrupt:
            output.say("")


def _lines() -> Iterator[str]:
    """Lines of a pipe. Unbuffered: what a command reads from standard input is not ours."""
    line = bytearray()
    while byte := os.read(0, 1):
        if byte != b"\n":
            line += byte
            if len(line) > MOST_LINE:
                return
            continue
        yield line.decode(errors="replace").rstrip("\r")
        line.clear()
    if line:
        yield line.decode(errors="replace")


def _editing() -> None:
    """History and editing of the line; nothing that shows the files and homes of this machine."""
    try:
        import readline
    except ImportError:
        return
    nothing: Callable[[str, int], None] = lambda _, __: None  # noqa: E731 - without one, names of files are completed
    readline.set_completer(nothing)
    readline.parse_and_bind(r'"\e&": beep')  # it would put a user's home in place of ~user


def _close_all_but(letter: int) -> None:
    """Have no other descriptors: uvloop leaves copies of the first three, and whatever may be inherited."""
    os.closerange(3, letter)
    os.closerange(letter + 1, os.sysconf("SC_OPEN_MAX"))


def _read_letter(descriptor: int) -> dict[str, Any]:
    with os.fdopen(descriptor, "rb") as letter:
        fields: dict[str, Any] = strict.loads(letter.read())
    return fields


if __name__ == "__main__":
    main()
