"""Options that many commands share."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlead.base.errors import OperatorError, Refused

if TYPE_CHECKING:
    from fairlead.client.api import Api
    from fairlead.client.control import ControlClient

STATE_VARIABLE = "FAIRLEAD_STATE"
DEFAULT_STATE = Path("/var/lib/fairlead")

State = Annotated[Path | None, typer.Option(
    "--state", help=f"The node's state folder; else ${STATE_VARIABLE}, else {DEFAULT_STATE}.")]
Outside = Annotated[str, typer.Option(hidden=True, help=(
    "For commands that begin again in namespaces of their own: the network namespace from which they come."))]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def folder(context: typer.Context, state: Path | None) -> Path:
    """The state folder that a command means: its own option, else the one before the command, else the default."""
    root = context.find_root().obj
    if not (root is None or isinstance(root, Path)):
        raise Refused("FL-SSH-COMMAND", "files of this machine are not for who comes in over SSH",
                      "use the Controller's own console")
    return (state or root or DEFAULT_STATE).absolute()


def client(context: typer.Context, state: Path | None) -> "Api":
    """The way to the daemon in that folder; where none is named and none runs, to the one of `fairlead login`.

    For a visitor over SSH, his own and no other.
    """
    from fairlead.client.api import Api
    root = context.find_root().obj
    if isinstance(root, Api):
        return root
    where = folder(context, state)
    if state is None and root is None and not _runs(where):
        from fairlead.client import afar
        if found := afar.load(afar.place()):
            return afar.Afar(found, lambda followed: followed.save(afar.place()))
    return control(where)


def _runs(where: Path) -> bool:
    from fairlead.client.control import SOCKET
    try:
        return (where / SOCKET).exists()
    except OSError:  # not for us to see
        return False


def control(state: Path) -> "ControlClient":
    """The client of the daemon in *state*; imported only by commands that talk to one."""
    from fairlead.client.control import ControlClient
    return ControlClient(state)


def read(path: str, what: str, most: int) -> bytes:
    """The content of a file, or of standard input for ``-``. Raises OperatorError FL-FILE."""
    try:
        if path == "-":
            return typer.get_binary_stream("stdin").read(most + 1)
        with Path(path).open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise OperatorError("FL-FILE", f"the {what} {path} cannot be read: {error.strerror}",
                            "check the path and its permissions") from None


def password(path: str) -> str:
    """The password in a file, or on standard input for ``-``. Raises OperatorError FL-FILE."""
    if path == "-" and sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, err=True))
    return read(path, "password file", 4096).decode(errors="replace").rstrip("\r\n")


def seconds(text: str) -> int:
    """Seconds of ``90``, ``90s``, ``10m``. Raises OperatorError FL-DURATION."""
    number, unit = (text[:-1], text[-1]) if text and text[-1] in "sm" else (text, "s")
    if not (number.isascii() and number.isdigit()) or len(number) > 6:
        raise OperatorError("FL-DURATION", f"{text!r} is no duration", "use seconds or minutes: 90s, 10m")
    return int(number) * (60 if unit == "m" else 1)
