"""How this program starts itself again."""

import sys

FAIRLEAD = (sys.executable, "-m", "fairlead.cli.main")
"""`fairlead`, of the very source and environment that run now."""


def visitor() -> tuple[str, ...]:
    """The same version for somebody who came in over SSH. `-I`: neither the environment nor a folder adds to it."""
    from fairlead.upgrade.launch import itself
    return itself("fairlead.cli.visitor")
