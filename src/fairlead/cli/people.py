"""Commands about people: their accounts, and logging in from afar."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.base import files
from fairlead.base.errors import OperatorError
from fairlead.cli import output
from fairlead.cli.options import Json, State, client, read
from fairlead.cli.options import password as password_in

COLUMNS = ("name", "role")
TOKEN_COLUMNS = ("id", "owner", "scope", "comment", "made", "expires")
KEY_COLUMNS = ("fingerprint", "comment", "added")
MOST_CA = 64 * 1024
MOST_KEY = 16 * 1024
MOST_TOKEN = 4096
MOST_COMMENT = 64

PasswordFile = Annotated[str | None, typer.Option(
    "--password-file", metavar="F", help="Read the password from this file (or -).")]
Role = Annotated[str, typer.Option("--role", help="admin, operator or viewer.")]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(login)
    app.command()(logout)
    users = typer.Typer(no_args_is_help=True, help="People and automation that may log in.")
    commands: dict[str, Callable[..., None]] = {"add": add, "list": show, "password": password, "role": role,
                                                "remove": remove}
    for name, function in commands.items():
        users.command(name)(function)
    keys = typer.Typer(no_args_is_help=True, help="SSH keys with which somebody proves who he is.")
    of_keys: dict[str, Callable[..., None]] = {"add": key_add, "list": key_list, "remove": key_remove}
    for name, function in of_keys.items():
        keys.command(name)(function)
    users.add_typer(keys, name="key")
    tokens = typer.Typer(no_args_is_help=True, help="Tokens for automation: your own, after `fairlead login`.")
    of_tokens: dict[str, Callable[..., None]] = {"add": token_add, "list": token_list, "revoke": token_revoke}
    for name, function in of_tokens.items():
        tokens.command(name)(function)
    users.add_typer(tokens, name="token")
    app.add_typer(users, name="user")


def login(url: Annotated[str, typer.Argument(metavar="URL", help="A Controller, such as https://ctl-1.example.com.")],
          ca: Annotated[Path, typer.Option("--ca", help=(
              "The cluster's CA certificate, PEM: `fairlead cluster ca` on a Controller prints it."))],
          user: Annotated[str | None, typer.Option("--user", help="As whom.", show_default="admin")] = None,
          password_file: PasswordFile = None,
          token_file: Annotated[str | None, typer.Option("--token-file", metavar="F", help=(
              "Use the token for automation in this file (or -) in place of a session. The file is its owner's alone."
          ))] = None) -> None:
    """Log in at a Controller: commands without a node of this machine are done there from now on."""
    from fairlead.client import afar
    from fairlead.users.apitokens import id_of
    if token_file is not None and (user is not None or password_file is not None):
        raise typer.BadParameter("a token says whose it is, and has no password",
                                 param_hint="--token-file / --user / --password-file")
    pem, where = read(str(ca), "CA certificate", MOST_CA).decode(errors="replace"), afar.origin(url)
    if token_file is not None:
        token = _token(token_file)
        context = afar.Context(where, pem, f"token {id_of(token)}", token=token)
        afar.Afar(context).try_token()
        context.save(afar.place())
        output.say(f"{context.user} is used at {where}")
        return
    made = afar.Afar(afar.Context(where, pem, user or "admin")).log_in(_password(password_file))
    made.save(afar.place())
    output.say(f"{made.user} is logged in at {made.url}")


def logout() -> None:
    """End the session of `login`, there and here; a token is forgotten here, and stays good."""
    from fairlead.client import afar
    where = afar.place()
    context = afar.load(where)
    if context is None:
        raise OperatorError("FL-CONTEXT", "nobody is logged in", "`fairlead login URL`")
    if context.token:
        files.remove(where)
        output.say(f"{context.user} is forgotten here; at {context.url} it is good until it expires, or is revoked: "
                   f"`fairlead user token revoke {context.user.removeprefix('token ')}`")
        return
    try:
        afar.Afar(context).log_out()
    finally:
        files.remove(where)
    output.say(f"{context.user} is logged out at {context.url}")


def add(context: typer.Context, name: str, role: Role, password_file: PasswordFile = None, state: State = None) -> None:
    """Let somebody log in. Without --password-file a password is made, and shown this once."""
    chosen = _chosen(password_file)
    client(context, state).post("/api/user", {"name": name, "role": role, "password": chosen})
    output.say(f"{name} may log in as {role}")
    _show_once(chosen, password_file)


def show(context: typer.Context, state: State = None, json: Json = False) -> None:
    """Who may log in."""
    rows: list[dict[str, Any]] = client(context, state).get("/api/user")["results"]
    if json:
        output.as_json(rows)
    else:
        output.table(rows, COLUMNS, "nobody may log in")


def password(context: typer.Context, name: str, password_file: PasswordFile = None, state: State = None) -> None:
    """Give somebody another password; all sessions of that name end."""
    chosen = _chosen(password_file)
    client(context, state).put(f"/api/user/{_part(name)}/password", {"password": chosen})
    output.say(f"{name} has another password; what was open under the old one is closed")
    _show_once(chosen, password_file)


def role(context: typer.Context, name: str, role: Role, state: State = None) -> None:
    """Give somebody another role; all sessions of that name end."""
    client(context, state).put(f"/api/user/{_part(name)}/role", {"role": role})
    output.say(f"{name} is {role} now")


def remove(context: typer.Context, name: str, state: State = None) -> None:
    """Let somebody log in no longer; all sessions of that name end."""
    client(context, state).delete(f"/api/user/{_part(name)}")
    output.say(f"{name} may log in no longer")


def token_add(context: typer.Context,
              scope: Annotated[list[str], typer.Option("--scope", help=(
                  "What it may, such as node:read; * for what your role permits. May be repeated."))],
              days: Annotated[int, typer.Option("--days", help="For how long, 1 to 365.")] = 90,
              comment: Annotated[str, typer.Option(help="What it is for.")] = "", state: State = None) -> None:
    """Make a token: a program sends it as `Authorization: Bearer`."""
    made = client(context, state).post("/api/apitoken", {"scope": scope, "days": days, "comment": comment})
    output.say(f"token {made['id']} of {made['owner']} is good until {made['expires']}; it is shown this once")
    output.line(made["token"])


def token_list(context: typer.Context, everybodys: Annotated[bool, typer.Option("--all", help="Everybody's.")] = False,
               state: State = None, json: Json = False) -> None:
    """Your tokens."""
    rows: list[dict[str, Any]] = client(context, state).get(
        "/api/user-apitoken" if everybodys else "/api/apitoken")["results"]
    if json:
        output.as_json(rows)
    else:
        output.table(rows, TOKEN_COLUMNS, "no tokens")


def token_revoke(context: typer.Context, token_id: str,
                 anybodys: Annotated[bool, typer.Option("--all", help="Whosever it is.")] = False,
                 state: State = None) -> None:
    """End a token."""
    client(context, state).delete(f"/api/{'user-apitoken' if anybodys else 'apitoken'}/{_part(token_id)}")
    output.say(f"token {token_id} is revoked")


def key_add(context: typer.Context, name: str,
            file: Annotated[str, typer.Argument(help="The .pub file of an ed25519 key, or - for standard input.")],
            comment: Annotated[str | None, typer.Option(help="In place of the one that the key has.")] = None,
            state: State = None) -> None:
    """Let somebody log in over SSH with a key: `ssh admin@CONTROLLER`. Other accounts than admin use `ssh cli@`."""
    from fairlead.users.keys import read_line
    key, own = read_line(read(file, "public key", MOST_KEY).decode(errors="replace"))
    made = client(context, state).post(f"/api/user/{_part(name)}/key", {
        "key": key.line, "comment": own[:MOST_COMMENT] if comment is None else comment})
    output.say(f"{name} has the key {made['fingerprint']}")
    if name != "admin":
        output.say("  over SSH only admin logs in with a key; others: ssh cli@CONTROLLER, with name and password")


def key_list(context: typer.Context, name: str, state: State = None, json: Json = False) -> None:
    """Somebody's keys."""
    rows: list[dict[str, Any]] = client(context, state).get(f"/api/user/{_part(name)}/key")["results"]
    if json:
        output.as_json(rows)
    else:
        output.table(rows, KEY_COLUMNS, "no keys")


def key_remove(context: typer.Context, name: str, fingerprint: str, state: State = None) -> None:
    """Take a key away; what is open with it ends."""
    client(context, state).delete(f"/api/user/{_part(name)}/key/{_part(fingerprint)}")
    output.say(f"{name} has that key no longer")


def _chosen(file: str | None) -> str:
    from fairlead.users.accounts import new_password
    return new_password() if file is None else password_in(file)


def _show_once(chosen: str, file: str | None) -> None:
    if file is None:
        output.say(f"  the password, shown this once: {chosen}")


def _password(file: str | None) -> str:
    if file is not None:
        return password_in(file)
    if not sys.stdin.isatty():
        raise OperatorError("FL-PASSWORD", "there is no terminal to ask for the password", "give a --password-file")
    return str(typer.prompt("Password", hide_input=True, err=True))


def _token(file: str) -> str:
    """The token in *file*, which nobody else may read, or on standard input for ``-``. Raises OperatorError."""
    if file == "-" and sys.stdin.isatty():
        return str(typer.prompt("Token", hide_input=True, err=True)).strip()
    if file == "-":
        return read(file, "token file", MOST_TOKEN).decode(errors="replace").strip()
    try:
        return files.read_private(Path(file)).decode(errors="replace").strip()
    except FileNotFoundError:
        raise OperatorError("FL-FILE", f"the token file {file} is not there", "check the path") from None


def _part(name: str) -> str:
    from urllib.parse import quote
    return quote(name, safe="")
