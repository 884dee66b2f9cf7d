"""Commands that change certificates and keys with everybody attached."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from fairlead.base.errors import OperatorError, Refused
from fairlead.cli import output
from fairlead.cli.awaited import awaited
from fairlead.cli.options import Json, State, client, seconds

PATH = "/api/rotation"
CERTIFICATES = "/api/sslkeyandcertificate"
_ENDS = ("with the old root ends what `fairlead cluster client-certificate` gave to operators, and what other programs "
         "have of `fairlead cluster ca`; log-ins with `fairlead login` follow by themselves")

Kind = Annotated[str, typer.Argument(metavar="KIND", help=(
    "secure-channel, api, root-ca, host-keys or user-keys."))]
To = Annotated[str, typer.Option("--to", metavar="CERT", help=(
    "The certificate to change to, by its name; else the cluster makes a new one."))]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    rotate = typer.Typer(no_args_is_help=True, help="Change certificates and keys while everybody stays connected.")
    commands: dict[str, Callable[..., None]] = {"plan": plan, "start": start, "status": status, "abort": abort}
    for name, function in commands.items():
        rotate.command(name)(function)
    app.add_typer(rotate, name="rotate")


def plan(context: typer.Context, kind: Kind, to: To = "", state: State = None, json: Json = False) -> None:
    """Who would be left behind, before anything changes. Exit code 1 when there is anybody."""
    api = client(context, state)
    found = _plan(api, kind, _uuid(api, to))
    if json:
        output.as_json(found)
    else:
        output.facts({"kind": found["kind"], "controllers": found["controllers"], "engines": found["engines"],
                      "asleep, and will follow": ", ".join(found["sleeping"]) or "none",
                      "do not say how their engines stand": ", ".join(found["silent"]) or None,
                      "tokens that are waited for": ", ".join(found["tokens"]) or "none"})
        output.table([{"node": name, "stranded because": why} for name, why in sorted(found["stranded"].items())],
                     ("node", "stranded because"), "nobody would be left behind")
        if kind == "root-ca":
            output.say(_ENDS)
    if found["stranded"]:
        raise typer.Exit(1)


def start(context: typer.Context, kind: Kind, to: To = "",
          wait: Annotated[bool, typer.Option("--wait", help="Return when it is over; exit code 1 if it went back.")]
          = False,
          at: Annotated[str, typer.Option("--at", metavar="T", help=(
              "Not now: a time such as 2026-12-01T03:00:00Z, or from now on such as 90m."))] = "",
          force: Annotated[bool, typer.Option("--force", help=(
              "Leave behind exactly those that `rotate plan` names; they are named again."))] = False,
          revoke_tokens: Annotated[bool, typer.Option("--revoke-tokens", help=(
              "Revoke bundles that do not know what comes, in place of waiting for their end."))] = False,
          patience: Annotated[str, typer.Option("--patience", metavar="T", help=(
              "It goes back when nobody has caught up for so long."))] = "60s",
          state: State = None, json: Json = False) -> None:
    """Begin: make what is new, bring it to everybody, change over, retire what was before."""
    api = client(context, state)
    uuid, forced = _uuid(api, to), list[str]()
    if force:
        forced = sorted(stranded := _plan(api, kind, uuid)["stranded"])
        for name in forced:
            output.say(f"{name} is left behind: {stranded[name]}")
    found = api.post(PATH, {"kind": kind, "to": uuid, "starts_at": _time(at), "force": forced,
                            "revoke_tokens": revoke_tokens, "patience_s": round(seconds(patience))})
    if wait:
        found = _wait(api, found)
    if json:
        output.as_json(found)
    elif not wait:
        output.say(f"the rotation {found['id']} of {kind} begins at {found['starts_at']}; `fairlead rotate status`")
    if wait and kind == "root-ca" and found["outcome"] == "done":
        output.say("backups of before lead no node back to the old root: make one now, `fairlead backup create`")
    if wait and found["outcome"] == "done" and found["missing"]:
        output.say(f"{found['missing']} stay behind: {found['why']}")
    if wait and found["outcome"] != "done":
        raise Refused("FL-ROTATE-BACK", f"the rotation was {found['outcome']}: {found['why']}",
                      "nothing has changed; mend that, and start again")


def status(context: typer.Context, state: State = None, json: Json = False) -> None:
    """How the rotation goes that is under way, and how past ones ended."""
    found = client(context, state).get(PATH)
    if json:
        output.as_json(found)
        return
    if (now := found["current"]) is not None:
        output.facts({name: now[name] for name in ("id", "kind", "phase", "since", "by", "starts_at")}
                     | {"goes back because": now["why"] or None, "tokens that are waited for": now["tokens"] or None,
                        "steps": " ".join(step["phase"] for step in now["steps"])})
        output.table([{"node": name, "waited for because": why} for name, why in sorted(now["behind"].items())],
                     ("node", "waited for because"), "nobody is waited for")
    if found["late"]:
        output.facts({"still with a user key of before": ", ".join(found["late"])})
    output.table([one | {"ended": one["since"]} for one in found["past"]],
                 ("id", "kind", "outcome", "by", "asked_at", "ended", "why"), "no rotation has ended yet")


def abort(context: typer.Context, state: State = None) -> None:
    """Call the rotation off: what was in use before stays, or comes back into use."""
    found = client(context, state).post(f"{PATH}/abort")
    output.say(f"the rotation {found['id']} of {found['kind']} "
               + ("is called off" if found["phase"] == "over" else "goes back"))


def _plan(api: Any, kind: str, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"{PATH}/plan", kind=kind, to=uuid)
    return found


def _uuid(api: Any, name: str) -> str:
    """Of the certificate of that name. Raises OperatorError FL-CERT-UNKNOWN."""
    if not name:
        return ""
    for one in api.get(CERTIFICATES, name=name)["results"]:
        if one.get("name") == name:
            return str(one["uuid"])
    raise OperatorError("FL-CERT-UNKNOWN", f"there is no certificate {name!r}", "`fairlead cert list`")


def _time(text: str) -> int:
    """Microseconds since the epoch; 0: now."""
    if not text:
        return 0
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return round((time.time() + seconds(text)) * 1_000_000)
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def _wait(api: Any, begun: dict[str, Any]) -> dict[str, Any]:
    """Say each phase; the rotation when it is over."""
    said, one = "", begun
    for _, one in awaited(api, PATH, begun):
        behind = f", {one['missing']} are waited for" if one["missing"] else ""
        tokens = f", {one['tokens']} bundles are waited for" if one["tokens"] else ""
        if said != (said := f"{one['phase']}{behind}{tokens}"):
            output.say(said if one["phase"] != "over" else f"over: {one['outcome']}")
    return one
