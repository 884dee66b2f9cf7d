"""What people may type over SSH. Pure.

Rules, and the attack each stops:

1. Commands that ask the API and print are named here, with each of their options; nothing else exists. A command or an
   option that comes later is refused until somebody decides on it.
2. No file of the Controller is named: what a command reads comes by standard input, ``-``, what it makes goes to
   standard output. There is no way to read, write or probe its disk as the daemon's user.
3. Text becomes words as in a shell, and that is all: no variables, patterns, substitutions, pipes or second commands.
   Characters that move a terminal's cursor, end a line or end a string are refused.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairlead.base.errors import Refused, printable


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may follow the words of a command."""

    options: frozenset[str] = frozenset()
    """With a value."""
    flags: frozenset[str] = frozenset()
    piped: frozenset[str] = frozenset()
    """Options that name a file elsewhere, and can be ``-`` here only."""
    piped_at: int | None = None
    """Likewise the argument at this place, counted from 0."""


def _of(*options: str, flags: Sequence[str] = (), piped: Sequence[str] = (), piped_at: int | None = None) -> Allowed:
    return Allowed(frozenset(options), frozenset(("--help", *flags)), frozenset(piped), piped_at)


_PLAIN = _of()
_SHOWN = _of(flags=["--json"])
_PASSWORD = _of(piped=["--password-file"])
COMMANDS: Mapping[tuple[str, ...], Allowed] = {
    ("status",): _SHOWN,
    ("version",): _SHOWN,
    ("hosts",): _of(flags=["--json", "--known-hosts"]),
    ("bundle", "export"): _of("--role", "--node", "--source", "--ttl", piped=["--for"]),
    ("bundle", "show"): _of(flags=["--json"], piped_at=0),
    ("token", "list"): _SHOWN,
    ("token", "show"): _SHOWN,
    ("token", "revoke"): _PLAIN,
    ("node", "list"): _SHOWN,
    ("node", "show"): _SHOWN,
    ("node", "events"): _SHOWN,
    ("node", "remove"): _PLAIN,
    ("node", "release"): _of("--fingerprint"),
    ("node", "label"): _PLAIN,
    ("node", "drain"): _of("--timeout", flags=["--undo", "--wait"]),
    ("node", "command"): _of("--timeout"),
    ("cluster", "status"): _SHOWN,
    ("cluster", "ca"): _PLAIN,
    ("service", "add"): _of("--port", "--allow", "--node", "--role", "--target", "--scrape"),
    ("service", "list"): _SHOWN,
    ("service", "remove"): _PLAIN,
    ("logs", "pull"): _of("--place", "--timeout", flags=["--stored", "--partial"]),
    ("config", "put"): _of("--target", "--most-failures", "--revision", "--timeout",
                          flags=["--at-once", "--wait", "--json"], piped_at=2),
    ("config", "get"): _SHOWN,
    ("config", "list"): _SHOWN,
    ("config", "status"): _SHOWN,
    ("config", "delete"): _PLAIN,
    ("policy", "explain"): _SHOWN,
    ("tunnel", "list"): _SHOWN,
    ("audit", "list"): _of("--limit", flags=["--json"]),
    ("audit", "verify"): _PLAIN,
    ("user", "add"): _of("--role", piped=["--password-file"]),
    ("user", "list"): _SHOWN,
    ("user", "password"): _PASSWORD,
    ("user", "role"): _of("--role"),
    ("user", "remove"): _PLAIN,
    ("cert", "list"): _SHOWN,
    ("cert", "show"): _SHOWN,
    ("cert", "renew"): _PLAIN,
    ("cert", "delete"): _PLAIN,
    ("cert", "use"): _PLAIN,
    ("upgrade", "trust"): _of(piped_at=0),
    ("rotate", "plan"): _of("--to", flags=["--json"]),
    ("rotate", "start"): _of("--to", "--at", "--patience", flags=["--wait", "--force", "--revoke-tokens", "--json"]),
    ("rotate", "status"): _SHOWN,
    ("rotate", "abort"): _PLAIN,
    ("upgrade", "apply"): _of("--image", "--label", "--batch", "--pause", "--budget", "--patience",
                             flags=["--wait", "--json"], piped_at=0),
    ("upgrade", "rollback"): _of("--label", "--batch", "--pause", "--budget", "--patience", flags=["--wait", "--json"]),
    ("upgrade", "status"): _SHOWN,
    ("upgrade", "abort"): _PLAIN,
    ("user", "token", "add"): _of("--scope", "--days", "--comment"),
    ("user", "token", "list"): _of(flags=["--all", "--json"]),
    ("user", "token", "revoke"): _of(flags=["--all"]),
    ("user", "key", "add"): _of("--comment", piped_at=1),
    ("user", "key", "list"): _SHOWN,
    ("user", "key", "remove"): _PLAIN,
}


def words(text: str) -> list[str]:
    """The words of a command. Raises Refused FL-SSH-COMMAND."""
    if not text.isprintable():
        raise Refused("FL-SSH-COMMAND", "a command is one line of printable characters", "leave out all others")
    try:
        return shlex.split(text)
    except ValueError as reason:
        raise Refused("FL-SSH-COMMAND", f"the command cannot be read: {reason}", "see to its quotes") from None


def check(arguments: Sequence[str]) -> None:
    """Refuse what is no command of the list, or says more than is allowed with it. Raises Refused FL-SSH-COMMAND."""
    command = next((tuple(arguments[:n]) for n in (3, 2, 1) if tuple(arguments[:n]) in COMMANDS), None)
    if command is None:
        raise _refused(f"{' '.join(arguments[:2]) or 'nothing'} is no command over SSH",
                       "`help` names them; all others are for the Controller's own console")
    allowed, rest = COMMANDS[command], list(arguments[len(command):])
    place = 0
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if word in allowed.flags:
            continue
        if name in allowed.options | allowed.piped:
            if not given:
                value = rest.pop(0) if rest else ""
            if name in allowed.piped and value != "-":
                raise _refused(f"{name} names a file", f"give {name} - and what is in it on standard input")
        elif word.startswith("-") and word != "-":
            raise _refused(f"{name} is not for {' '.join(command)} over SSH", "see its --help; files stay out of it")
        else:
            if place == allowed.piped_at and word != "-":
                raise _refused(f"{word} names a file", "give - and what is in it on standard input")
            place += 1


def _refused(message: str, remedy: str) -> Refused:
    return Refused("FL-SSH-COMMAND", printable(message, 200), remedy)
