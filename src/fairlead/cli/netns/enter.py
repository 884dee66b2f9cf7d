"""Begin again in a network and a mount namespace of our own (unshare(1)), and make hosts from there.

What is made there, devices, namespaces, mounts, the machine itself does not see, and the kernel removes it with the
last process, however that ends. Root needs no more; anybody else gets a user namespace in which this may be done, where
the machine allows it. Everybody keeps their own user number: PostgreSQL does not run as root, and files are ours
outside, too.
"""

import os
import shutil
import subprocess
from pathlib import Path

from fairlead.cli.netns.namespace import refusal
from fairlead.cli.program import FAIRLEAD

TOOLS = ("ip", "nsenter", "setpriv", "unshare")
_PROBE = ("ip", "tuntap", "add", "mode", "tun", "name", "probe0")
"""What the links will need."""


def enter(outside: str, *arguments: str) -> None:
    """Begin again as `fairlead` with *arguments*, unless that was done; *outside* is what ``--outside`` brought.

    Raises OperatorError FL-NAMESPACES.
    """
    here = str(Path("/proc/self/ns/net").readlink())
    if outside not in ("", here):
        return
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise refusal(f"not installed: {', '.join(missing)}", "install iproute2 and util-linux")
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
    unshare = ("unshare", *user, "--net", "--mount", "--")
    tried = subprocess.run([*unshare, *_PROBE], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if tried.returncode != 0:
        raise refusal((tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1],
                      "run it as root, or where users may make namespaces and open /dev/net/tun" if user else
                      "run it where root may make namespaces and /dev/net/tun is there; a container needs "
                      "CAP_SYS_ADMIN and that device for it")
    os.execvp(unshare[0], [*unshare, *FAIRLEAD, *arguments, "--outside", here])  # noqa: S606 - the same program, elsewhere
