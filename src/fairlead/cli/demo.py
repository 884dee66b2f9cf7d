"""`fairlead demo`: the main job on this machine, with a report."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
