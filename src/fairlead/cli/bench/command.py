"""`fairlead bench`: measure the product on this machine. Figures go to standard output, progress to standard error."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fairlead.base.errors import OperatorError
from fairlead.cli import output
from fairlead.cli.options import Json, Outside


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    bench = typer.Typer(no_args_is_help=True, help="Measure on this machine, with daemons of its own.")
    bench.command()(failover)
    app.add_typer(bench, name="bench")


def failover(rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help=(
                 "How often the leader is killed."))] = 5, json: Json = False, outside: Outside = "") -> None:
    """How long the loss of a leader and the coming of a follower take, and what idle Controllers use.

    Three Controllers and an engine run in network namespaces, 20 ms between Controllers and 70 ms to the engine. Needs
    etcd and /dev/net/tun, and root or user namespaces. Five rounds take some minutes.
    """
    from fairlead.cli.bench.failover import measure, town_on
    from fairlead.cli.netns.enter import enter
    from fairlead.cli.stage import interrupts
    from fairlead.cli.stage.processes import Failed
    enter(outside, "bench", "failover", "--rounds", str(rounds), *(["--json"] if json else []))
    interrupts.heed()
    folder, kept = Path(tempfile.mkdtemp(prefix="fairlead-bench-")), False
    town = town_on(folder)
    try:
        found = measure(town, rounds, output.say)
    except (Failed, TimeoutError) as reason:
        kept = True
        raise OperatorError("FL-BENCH", f"the measurement came to no end: {reason or 'something took too long'}",
                            f"the logs of what it started are kept in {folder}") from None
    finally:
        interrupts.ignore()
        town.close()
        if not kept:
            shutil.rmtree(folder)
    if json:
        output.as_json(found.as_json())
    else:
        found.show()
