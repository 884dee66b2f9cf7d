"""Hosts of the demo's own: network namespaces, joined by a bridge, of which the machine itself sees nothing.

The demo begins again in a network and a mount namespace of its own (unshare(1)), and makes the others from there. What
it makes there, devices, bridge, mounts, the kernel removes with the demo's last process, however that ends. Root needs
no more; anybody else gets a user namespace in which the demo may do that, where the machine allows it.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from fairlead.base.errors import OperatorError
from fairlead.cli.demo.processes import FAIRLEAD, Failed

TOOLS = ("ip", "nsenter", "setpriv", "unshare")
BRIDGE = "bridge0"
UPLINK = "uplink0"
NETWORK = "10.78.0"
_OWN = Path("/proc/self/ns/net")


def here() -> str:
    """The name that the kernel gives this process's network namespace."""
    return str(_OWN.readlink())


def enter(*arguments: str) -> NoReturn:
    """Begin again as `fairlead` with *arguments*, in namespaces of our own. Raises OperatorError FL-DEMO-NAMESPACES."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise _not_here(f"not installed: {', '.join(missing)}", "install iproute2 and util-linux")
    # everybody keeps their own user number: PostgreSQL does not run as root, and files are ours outside, too
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user", "--keep-caps")
    unshare = ("unshare", *user, "--net", "--mount", "--")
    tried = subprocess.run([*unshare, "ip", "link", "add", BRIDGE, "type", "bridge"], capture_output=True, text=True,
                           stdin=subprocess.DEVNULL, check=False)
    if tried.returncode != 0:
        raise _not_here((tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1],
                        "run it as root, or where users may make namespaces" if user else
                        "run it where root may make namespaces; a container needs CAP_SYS_ADMIN for it")
    os.execvp(unshare[0], [*unshare, *FAIRLEAD, *arguments])  # noqa: S606 - the same program, elsewhere


def _not_here(why: str, what_to_do: str) -> OperatorError:
    return OperatorError("FL-DEMO-NAMESPACES", f"the demo of a cluster needs network namespaces: {why}", what_to_do)


@dataclass(frozen=True, slots=True)
class Host:
    """One network namespace on the bridge."""

    address: str
    within: tuple[str, ...]
    """Before a command, it runs the command there."""


@dataclass(slots=True)
class Network:
    """The hosts by name. The process that makes it is in a namespace of its own (`enter`)."""

    folder: Path
    """Where the namespaces have their names; seen by our processes only."""
    hosts: dict[str, Host] = field(default_factory=dict)

    def open(self) -> None:
        """Lay the bridge. Raises Failed."""
        self.folder.mkdir(mode=0o700)
        _ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} addrgenmode none up")

    def add(self, name: str) -> Host:
        """A host, joined to all others. Raises Failed."""
        place = self.folder / name
        place.touch(mode=0o600)
        _done(["unshare", f"--net={place}", "true"])
        host = Host(f"{NETWORK}.{len(self.hosts) + 1}", ("nsenter", f"--net={place}"))
        self.hosts[name] = host
        _ip("link set lo up", f"link add {UPLINK} type veth peer name {name} netns {os.getpid()}",
            f"address add {host.address}/24 dev {UPLINK}", f"link set {UPLINK} addrgenmode none up", within=host.within)
        _ip(f"link set {name} master {BRIDGE} addrgenmode none up")
        return host

    def cut(self, name: str) -> None:
        """Nothing reaches this host or comes from it, and nobody is told. Raises Failed."""
        _ip(f"link set {name} nomaster")

    def heal(self, name: str) -> None:
        """The end of a cut. Raises Failed."""
        _ip(f"link set {name} master {BRIDGE}")

    def reach_only(self, name: str, other: str) -> None:
        """From *name*, of the hosts only *other* is reached. Raises Failed."""
        _ip(*(f"route replace blackhole {host.address}/32" for one, host in self.hosts.items()
              if one not in (name, other)), within=self.hosts[name].within)
        with suppress(Failed):  # it was never closed
            _ip(f"route del blackhole {self.hosts[other].address}/32", within=self.hosts[name].within)

    def close(self) -> None:
        """Take the names away, so that the folder can be deleted; the rest goes with our processes."""
        for name in self.hosts:
            subprocess.run(["umount", "--lazy", str(self.folder / name)], capture_output=True, check=False)


def _ip(*lines: str, within: Sequence[str] = ()) -> None:
    _done([*within, "ip", "-batch", "-"], "".join(f"{line}\n" for line in lines))


def _done(command: Sequence[str], given: str = "") -> None:
    done = subprocess.run(command, input=given, text=True, capture_output=True, check=False, timeout=30)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise Failed(f"`{' '.join(command)}` ended with exit code {done.returncode}: {said}")
