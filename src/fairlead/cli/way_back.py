"""`upgrade back`: the version before runs again, on a node whose daemon does not run."""

import typer

from fairlead.base import files
from fairlead.base.clock import SystemClock
from fairlead.cli import output
from fairlead.cli.daemons import refuse_running
from fairlead.cli.options import State, folder


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    upgrade = typer.Typer(no_args_is_help=True, help="Upgrades of fairlead.")
    upgrade.command("back")(back)
    app.add_typer(upgrade, name="upgrade")


def back(context: typer.Context, state: State = None) -> None:
    """Have the version before run again on this machine; for a daemon that does not come up any more."""
    from fairlead.upgrade.launch import versions_of
    where = folder(context, state)
    files.check_private_folder(where)
    refuse_running(where)
    versions = versions_of(where)
    left = versions.standing().current
    versions.back(f"{left} was left by `fairlead upgrade back`", SystemClock().now())
    output.say(f"{versions.standing().current} runs from the next start, no longer {left}")
