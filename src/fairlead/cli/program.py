"""How this program starts itself again."""

import sys

FAIRLEAD = (sys.executable, "-m", "fairlead.cli.main")
"""`fairlead`, of the very source and environment that run now."""
