"""``fairlead config`` and ``fairlead logs``: what engines are told to run, who does, and what they say."""

import contextlib
import json as encoding
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.cli import output
from fairlead.cli.options import Json, State, client, read, seconds

COLUMNS = ("kind", "name", "target", "revision", "stage", "engines", "applied", "refused", "behind", "put_at",
           "put_by")
ROW_COLUMNS = ("engine", "state", "document", "wanted", "running", "since", "verdict", "words")
MOST_BYTES = 4 * 1024 * 1024
LOOK_AGAIN_S = 0.25


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    group = typer.Typer(no_args_is_help=True, help="Configuration documents of engines.")
    for name, function in {"put": put, "get": get, "list": every, "status": status, "delete": delete}.items():
        group.command(name)(cast("Callable[..., None]", function))
    app.add_typer(group, name="config")
    group = typer.Typer(no_args_is_help=True, help="Logs of engines.")
    group.command("pull")(pull)
    app.add_typer(group, name="logs")


def put(context: typer.Context, kind: str, name: str,
        file: Annotated[str, typer.Argument(help="The document's body, JSON, or -.")],
        target: Annotated[str, typer.Option(help="engines, a label KEY=VALUE, or an engine's name.")] = "engines",
        at_once: Annotated[bool, typer.Option("--at-once", help="To all engines, without stages.")] = False,
        most_failures: Annotated[int, typer.Option(
            min=0, max=100, help="Percent of a stage's engines that may refuse it before it is halted.")] = 10,
        revision: Annotated[int | None, typer.Option(
            min=0, help="Only in place of this revision; 0: only if there is none.")] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Return when all engines have it.")] = False,
        timeout: Annotated[str, typer.Option(help="So long --wait waits.")] = "60s",
        state: State = None, json: Json = False) -> None:
    """Put a document: it goes to one engine, to a tenth of them, then to all, unless too many refuse it."""
    try:
        body = encoding.loads(read(file, "document", MOST_BYTES))
    except ValueError as error:
        raise Refused("FL-DOCUMENT", f"the file is not JSON: {error}", "mend it") from None
    patience = seconds(timeout)
    api = client(context, state)
    found = api.put(_path(kind, name), {"target": target, "body": body, "at_once": at_once,
                                        "most_failures": most_failures, "revision": revision})
    if wait:
        found = _wait(api, kind, name, found["revision"], patience)
    if json:
        output.as_json(found)
    else:
        output.say(f"{kind}/{name} has revision {found['revision']}, for {found['engines']} engines; "
                   f"{found['applied']} have it")


def _wait(api: Any, kind: str, name: str, revision: int, patience: float) -> dict[str, Any]:
    """Follow a roll-out, saying how far it is. Raises FairleadError when it does not reach everybody."""
    end = time.monotonic() + patience
    shown = ""
    while True:
        found: dict[str, Any] = api.get(f"{_path(kind, name)}/status")
        if found["revision"] != revision:
            raise OperatorError("FL-DOCUMENT-STALE", f"{kind}/{name} has revision {found['revision']} by now",
                                "somebody else has put it meanwhile")
        progress = (f"{found['stage']}: {found['applied']} of {found['engines']} have it, {found['refused']} refused "
                    "it")
        if progress != shown:
            shown = progress
            output.say(progress)
        bad = next((row for row in found["rows"] if row["verdict"] == "refused"), None)
        if found["stage"] == "halted":
            raise Refused("FL-DOCUMENT-HALTED", f"{kind}/{name} revision {revision} was halted: {found['why']}",
                          "put a better one; engines that have it already keep it until then")
        if not found["engines"] or (found["stage"] == "done" and found["applied"] == found["engines"]):
            return found
        if found["stage"] == "done" and bad is not None:
            raise Refused("FL-DOCUMENT-REFUSED", f"{bad['engine']} refuses {kind}/{name}: {bad['words']}",
                          "`fairlead config status` shows the others")
        if time.monotonic() > end:
            behind = [row["engine"] for row in found["rows"] if row["verdict"] == "behind"]
            raise OperatorError("FL-DOCUMENT-BEHIND", f"after {patience:g} seconds, {len(behind)} engines do not have "
                                f"it: {', '.join(behind[:5])}{' …' if len(behind) > 5 else ''}",
                                "those that are down take it when they come back")
        time.sleep(LOOK_AGAIN_S)


def get(context: typer.Context, kind: str, name: str, state: State = None, json: Json = False) -> None:
    """The body of a document; with --json, all that is known of it."""
    found = client(context, state).get(_path(kind, name))
    output.as_json(found if json else found["body"])


def every(context: typer.Context, state: State = None, json: Json = False) -> None:
    """All documents, and how many engines have each."""
    found = client(context, state).get("/api/config")["results"]
    output.as_json(found) if json else output.table(found, COLUMNS, "no documents")


def status(context: typer.Context, kind: Annotated[str | None, typer.Argument()] = None,
           name: Annotated[str | None, typer.Argument()] = None, state: State = None, json: Json = False) -> None:
    """Which engine runs what, since when, and what it said; exit code 1 when one was halted or refused."""
    api = client(context, state)
    if kind is not None and name is None:
        raise typer.BadParameter("give a kind and a name, or neither", param_hint="NAME")
    wanted = [(kind, name)] if kind and name else [
        (one["kind"], one["name"]) for one in api.get("/api/config")["results"]]
    found = [api.get(f"{_path(of, one)}/status") for of, one in wanted]
    if json:
        output.as_json(found)
    else:
        output.table([row for one in found for row in one["rows"]], ROW_COLUMNS, "no engine has a document")
    for one in found:
        if one["stage"] == "halted" or one["refused"]:
            raise Refused("FL-DOCUMENT-HALTED" if one["stage"] == "halted" else "FL-DOCUMENT-REFUSED",
                          f"{one['kind']}/{one['name']} revision {one['revision']} did not reach everybody: "
                          f"{one['why'] or str(one['refused']) + ' engines refuse it'}", "put a better one")


def delete(context: typer.Context, kind: str, name: str, state: State = None) -> None:
    """Take a document back: its engines undo it."""
    client(context, state).delete(_path(kind, name))
    output.say(f"{kind}/{name} is no more")


def pull(context: typer.Context, engine: str,
         out: Annotated[Path | None, typer.Option("--output", help="File to append to, mode 0600; else standard "
                                                                   "output.")] = None,
         place: Annotated[str, typer.Option(help="Begin where an earlier pull has ended.")] = "",
         stored: Annotated[bool, typer.Option("--stored", help="Only what is at the Controllers already.")] = False,
         partial: Annotated[bool, typer.Option("--partial", help="Also when a Controller that may have a part does not "
                                                                 "answer; says where.")] = False,
         timeout: Annotated[str, typer.Option(help="For the engine to bring the rest.")] = "30s",
         state: State = None) -> None:
    """An engine's logs, the oldest first, one JSON object a line; says at the end where the next ones begin."""
    from fairlead.nodes.name import check_name
    api, path = client(context, state), f"/api/node/{check_name(engine)}"
    if not stored:
        api.post(f"{path}/command", {"command": "rotate-logs", "deadline_s": seconds(timeout)})
    with _written(out) as write:
        try:
            for page in _pages(api, f"{path}/logs", place, partial=partial):
                write(page["text"])
                place = page["place"]
        except FairleadError:
            if place:
                output.say(f"it goes on at {place}")
            raise
    output.say(f"the next lines begin at {place}" if place else f"{engine} has brought no logs yet")


def _pages(api: Any, path: str, place: str, *, partial: bool) -> Iterator[dict[str, Any]]:
    """All that is there, saying where something may be missing."""
    wanted = {"partial": "true"} if partial else {}
    while True:
        page = api.get(path, place=place, **wanted)
        if page["unheard"]:
            where = f"after {place}" if place else "before these lines" if page["text"] else "of its logs"
            output.say(f"{where} something may be missing: {', '.join(page['unheard'])} does not answer")
        if not page["text"]:
            return
        yield page
        place = page["place"]


@contextlib.contextmanager
def _written(out: Path | None) -> Iterator[Callable[[str], None]]:
    """Where lines go: to a file as they are, to a terminal without what would move its cursor."""
    if out is None:
        yield output.text
        return
    try:
        handle = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperatorError("FL-FILE", f"{out} cannot be written: {error.strerror}", "choose another file") from None
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        yield lambda text: print(text, end="", file=file)


def _path(kind: str, name: str) -> str:
    from fairlead.fleet.documents import check_name
    from fairlead.link.documents import BODIES
    if kind not in BODIES:
        raise Refused("FL-DOCUMENT-KIND", f"there is no such kind of documents: {printable(kind, 24)}",
                      f"use one of {', '.join(sorted(BODIES))}")
    return f"/api/config/{kind}/{check_name(name)}"
