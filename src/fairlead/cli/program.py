"""How this program starts itself again."""

import sys

FAIRLEAD = (sys.executable, "-m", "fairlead.cli.main")
"""`fairlead`, of the very source and environment that run now."""
VISITOR = (sys.executable, "-I", "-m", "fairlead.cli.visitor")
"""The same for somebody who came in over SSH. `-I`: neither the environment nor a folder adds anything to it."""
