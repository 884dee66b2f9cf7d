"""What the command line prints: aligned tables and JSON on standard output, everything else on standard error.

Colour comes from the terminal; into a pipe there is none. No line is cut: a terminal wraps what is too long for it, and
columns that are made to fit lose names. What draws tables is imported when one is drawn.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fairlead.base.errors import FairleadError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDTH = 4096
_COLOURS = {"up": "green", "leader": "green", "redeemed": "green", "open": "green", "late": "yellow",
            "connecting": "yellow", "joining": "yellow", "reserved": "yellow", "headless": "yellow", "down": "red",
            "frozen": "red", "removed": "red", "revoked": "red"}


def _console(*, error: bool = False) -> "Console":
    from rich.console import Console
    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=True, width=_WIDTH)


def as_json(value: Any) -> None:
    """*value* as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """*rows* under *columns* (keys, shown with blanks); *empty* is said when there are none."""
    if not rows:
        say(empty)
        return
    from rich.table import Table
    made = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.replace("_", " ").upper(), no_wrap=True, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(row.get(column)) for column in columns))
    _console().print(made, overflow="ignore", no_wrap=True)


def facts(value: Mapping[str, Any]) -> None:
    """One object, a line per fact."""
    from rich.table import Table
    made = Table(box=None, show_header=False, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for key, one in value.items():
        made.add_row(key.replace("_", " "), _cell(one))
    _console().print(made)


def line(text: str) -> None:
    """A result on standard output."""
    sys.stdout.write(printable(text) + "\n")


def text(lines: str) -> None:
    """Lines of a result on standard output."""
    for one in lines.splitlines():
        line(one)


def say(text: str) -> None:
    """A remark on standard error."""
    sys.stderr.write(printable(text) + "\n")


def fail(error: FairleadError) -> None:
    """One line on standard error: what, why, what to do, code."""
    from rich.text import Text
    _console(error=True).print(Text.assemble(("error: ", "bold red"), error.line()))


def _cell(value: Any) -> "Text":
    from rich.text import Text
    if value is None or value == "" or value == [] or value == {}:
        return Text("-", style="dim")
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, Mapping):
        text = ", ".join(f"{k}={v}" for k, v in value.items())
    elif isinstance(value, list):
        text = ", ".join(str(v.get("name", v)) if isinstance(v, Mapping) else str(v) for v in value)
    elif isinstance(value, int) and abs(value) >= 10_000_000:
        text = f"{value / 1_000_000:,.1f}M"
    else:
        text = str(value)
    return Text(printable(text), style=_COLOURS.get(text, ""))
