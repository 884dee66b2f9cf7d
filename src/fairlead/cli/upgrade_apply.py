"""Commands that change the version of all nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.base.errors import Refused
from fairlead.cli import output
from fairlead.cli.awaited import awaited
from fairlead.cli.images import upload
from fairlead.cli.options import Json, State, client, seconds

PATH = "/api/upgrade"
COLUMNS = ("node", "role", "version", "state", "why", "since", "seconds", "bytes")

Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help=(
    "Engines with this label go first; more than once: in that order, then all others."))]
Batch = Annotated[str, typer.Option("--batch", metavar="N|P%", help=(
    "Engines at once; the first one goes alone."))]
Pause = Annotated[str, typer.Option("--pause", metavar="T", help="Between two batches, such as 5m.")]
Budget = Annotated[str, typer.Option("--budget", metavar="N|P%", help=(
    "Engines that may fail before it halts; the first one may not."))]
Patience = Annotated[str, typer.Option("--patience", metavar="T", help=(
    "A node, or a batch, has failed when it takes longer."))]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is over; exit code 1 if it halted.")]


def attach(upgrade: typer.Typer) -> None:
    """Add the commands to the group *upgrade*."""
    commands: dict[str, Callable[..., None]] = {
        "apply": apply, "status": status, "rollback": rollback, "abort": abort}
    for name, function in commands.items():
        upgrade.command(name)(function)


def apply(context: typer.Context,
          bundle: Annotated[str, typer.Argument(metavar="[F]", help="The bundle, a file.")] = "",
          image: Annotated[str, typer.Option("--image", metavar="IMAGE", help=(
              "The uuid or the version of a bundle that was brought up already."))] = "",
          label: Labels = None, batch: Batch = "10%", pause: Pause = "0s", budget: Budget = "0",
          patience: Patience = "10m", wait: Wait = False, state: State = None, json: Json = False) -> None:
    """Have all nodes run the version of a bundle: Controllers one at a time, then engines in batches."""
    if bool(bundle) == bool(image):
        raise typer.BadParameter("give a bundle, or --image")
    api = client(context, state)
    going = _going(label, batch, pause, budget, patience)
    found = api.post(PATH, {"image": image or upload(api, Path(bundle))["uuid"], **going})
    _follow(api, found, wait=wait, json=json, what=f"the upgrade {found['id']} to {found['version']} begins")


def rollback(context: typer.Context, label: Labels = None, batch: Batch = "10%", pause: Pause = "0s",
             budget: Budget = "0", patience: Patience = "10m", wait: Wait = False, state: State = None,
             json: Json = False) -> None:
    """Have all nodes go back to the version of before: engines in batches, then Controllers one at a time."""
    api = client(context, state)
    found = api.post(f"{PATH}/rollback", _going(label, batch, pause, budget, patience))
    _follow(api, found, wait=wait, json=json, what=f"the way back to {found['version']} begins")


def status(context: typer.Context, state: State = None, json: Json = False) -> None:
    """How the upgrade goes, every node, and how past ones ended."""
    found = client(context, state).get(PATH)
    if json:
        output.as_json(found)
        return
    if (now := found["current"]) is not None:
        output.facts({"id": now["id"], "to": now["version"], "from": now["before"], "phase": now["phase"],
                      "since": now["since"], "by": now["by"], "batches of engines": now["batches"] or None,
                      "why": now["why"] or None})
    output.table(found["nodes"], COLUMNS, "there are no nodes")
    output.table([one | {"failed": ", ".join(one["failed"]), "away": _away(one)} for one in found["past"]],
                 ("id", "version", "before", "outcome", "by", "asked_at", "failed", "away", "why"),
                 "no upgrade has ended yet")


def abort(context: typer.Context, state: State = None) -> None:
    """Have nobody new begin; who is under way comes to an end, and stays at what it runs then."""
    found = client(context, state).post(f"{PATH}/abort")
    output.say(f"the upgrade {found['id']} to {found['version']} ends; `fairlead upgrade rollback` goes back")


def _going(labels: list[str] | None, batch: str, pause: str, budget: str, patience: str) -> dict[str, Any]:
    return {"labels": labels or [], "batch": batch, "budget": budget, "pause_s": round(seconds(pause)),
            "patience_s": round(seconds(patience))}


def _away(one: dict[str, Any]) -> str:
    more = one["missing"] - len(one["away"])
    return ", ".join(one["away"]) + (f" and {more} more" if more else "")


def _follow(api: Any, found: dict[str, Any], *, wait: bool, json: bool, what: str) -> None:
    if wait:
        found = _wait(api, found)
    if json:
        output.as_json(found)
    elif not wait:
        output.say(f"{what}; `fairlead upgrade status`")
    if wait and found["outcome"] != "done":
        raise Refused("FL-UPGRADE-HALTED", f"the upgrade was {found['outcome']}: {found['why']}",
                      "mend that and apply it again, or `fairlead upgrade rollback`")
    if wait and not json:
        left = [*found["failed"], *found["away"]]
        output.say(f"every node runs {found['version']}" if not left and not found["missing"] else
                   f"the nodes run {found['version']}, but for {', '.join(left)}: `fairlead upgrade status`")


def _wait(api: Any, begun: dict[str, Any]) -> dict[str, Any]:
    """Say what changes; the upgrade when it is over. Controllers go away meanwhile, also the one that is asked."""
    said: dict[str, str] = {}
    phase, one = "", begun
    for found, one in awaited(api, PATH, begun):
        if phase != (phase := one["phase"]):
            output.say(phase if phase != "over" else f"over: {one['outcome']}")
        for row in found["nodes"]:
            line = f"{row['node']}: {row['state']}" + (f", {row['why']}" if row["why"] else "")
            if row["state"] and said.get(row["node"]) != line:
                said[row["node"]] = line
                if row["state"] not in ("waiting", "offline"):
                    output.say(line)
    return one
