"""Who holds a listening port, as ``/proc`` tells it (proc(5)): so that "address in use" can name the process."""

import contextlib
import ipaddress
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairlead.base.errors import printable

_LISTEN = "0A"

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Listening:
    """One line of ``/proc/net/tcp`` or ``tcp6`` in the state LISTEN."""

    address: IPAddress
    port: int
    inode: int


def holder(host: str, port: int, proc: Path = Path("/proc")) -> str | None:
    """``pid 1234 (nginx)``, or None when nobody is seen: gone meanwhile, or another user's and we may not look."""
    try:
        wanted = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    text = ""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            text += (proc / "net" / name).read_text("ascii")
    inodes = {one.inode for one in listening(text) if one.port == port and _collide(one.address, wanted)}
    return _owner(inodes, proc) if inodes else None


def listening(text: str) -> Iterator[Listening]:
    """The listening sockets in the text of ``/proc/net/tcp`` or ``tcp6``. Lines of another shape are passed over."""
    for line in text.splitlines():
        columns = line.split()
        if len(columns) < 10 or columns[3] != _LISTEN:
            continue
        with contextlib.suppress(ValueError):
            address, _, port = columns[1].partition(":")
            yield Listening(_address(address), int(port, 16), int(columns[9]))


def _address(text: str) -> IPAddress:
    """The kernel prints each 32-bit word of the address as a number in the machine's own byte order."""
    words = (int(text[i:i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8))
    return ipaddress.ip_address(b"".join(words))


def _collide(held: IPAddress, wanted: IPAddress) -> bool:
    """Whether a listener at *held* can keep *wanted* from being bound."""
    if held.is_unspecified or wanted.is_unspecified:
        return held.version == wanted.version or (held.version == 6 and held.is_unspecified)  # "::" may cover IPv4
    return held == wanted


def _owner(inodes: set[int], proc: Path) -> str | None:
    links = {f"socket:[{inode}]" for inode in inodes}
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # gone, or not ours to look into
            for descriptor in (folder / "fd").iterdir():
                if str(descriptor.readlink()) in links:
                    return f"pid {folder.name} ({printable((folder / 'comm').read_text(errors='replace').strip())})"
    return None
