"""The marked block of fairlead names in the system's hosts file."""

import os
from pathlib import Path

from fairlead.base.errors import OperatorError

SYSTEM = Path("/etc/hosts")


def install(lines: str, node: str, path: Path = SYSTEM) -> None:
    """Put *lines* between this node's markers in *path*; everything else stays. Raises OperatorError FL-HOSTS.

    Written in place, not renamed over: in containers the file is a mount.
    """
    begin, end = f"# fairlead {node}: begin (written by `fairlead hosts --install`)", f"# fairlead {node}: end"
    try:
        old = path.read_text()
        kept, inside = [], False
        for line in old.splitlines():
            if line == begin:
                inside = True
            elif line == end:
                inside = False
            elif not inside:
                kept.append(line)
        if inside:
            raise OperatorError("FL-HOSTS", f"{path} has the line {begin!r} without its end", "mend it by hand")
        new = "\n".join([*kept, begin, lines.rstrip("\n"), end, ""])
        with path.open("r+") as file:
            file.write(new)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OperatorError("FL-HOSTS", f"{path} cannot be changed: {error.strerror}",
                            "run this command as root") from error
