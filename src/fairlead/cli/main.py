"""The command line: what people type, and the contract that scripts rely on.

Exit codes: 0 done; 1 refused or failed, with one line on standard error; 2 usage.
"""

import resource
import sys
from pathlib import Path
from typing import Annotated

import typer

from fairlead.base.errors import FairleadError
from fairlead.cli import certificates, daemons, fleet, operate, output, people, rotate, upgrade
from fairlead.cli.bench import command as bench
from fairlead.cli.demo import command as demo
from fairlead.cli.options import DEFAULT_STATE, STATE_VARIABLE


def application() -> typer.Typer:
    """All commands."""
    app = typer.Typer(
        name="fairlead", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        help="The secure fabric between a cluster of Controllers and a fleet of Service Engines.")

    @app.callback()
    def root(context: typer.Context, state: Annotated[Path | None, typer.Option(
            "--state", envvar=STATE_VARIABLE, help=f"The node's state folder; else {DEFAULT_STATE}.")] = None) -> None:
        context.obj = context.obj or state  # a visitor's way to the API (`visitor`) is no folder

    daemons.register(app)
    operate.register(app)
    people.register(app)
    certificates.register(app)
    rotate.register(app)
    upgrade.register(app)
    fleet.register(app)
    demo.register(app)
    bench.register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit."""
    leave_no_core()
    try:
        application()(args=arguments, prog_name="fairlead")  # usage errors: exit code 2
    except FairleadError as error:
        output.fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def leave_no_core() -> None:
    """Keys and tokens are in this process's memory: no file and no collector gets a copy of it.

    Not 0: that keeps files away, but no program that cores are piped to (core(5)). At 1 Linux starts none, for that is
    how it knows a collector that crashes itself.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


if __name__ == "__main__":
    main()
