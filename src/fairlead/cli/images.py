"""Bringing upgrade bundles, and the root by which they are verified, to a Controller; attached to ``upgrade``."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.base.errors import OperatorError
from fairlead.cli import output
from fairlead.cli.options import State, client, read

PATH = "/api/image"
ROOT = "/api/upgrade/root"
PIECE = 1024 * 1024
MOST_ROOT_BYTES = 64 * 1024
"""As in `upgrade.verify`, which takes long to load."""


def trust(context: typer.Context,
          root: Annotated[str, typer.Argument(metavar="ROOT.json", help="The root of those who sign the bundles.")],
          state: State = None) -> None:
    """Pin the root by which this cluster and its nodes verify upgrade bundles. Once: later ones come with bundles."""
    data = read(root, "root", MOST_ROOT_BYTES)
    found = client(context, state).send("POST", ROOT, data)
    output.say(f"bundles are verified by the root {found['sha256']}")


def upload(api: Any, path: Path, say: Callable[[str], None] = output.say) -> dict[str, Any]:
    """The image that *path* is at a Controller, verified there; it goes on where an earlier try stopped.

    Raises OperatorError FL-FILE, and what the Controller refuses.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            if size == 0:
                raise OperatorError("FL-FILE", f"{path} is empty", "name an upgrade bundle")
            found: dict[str, Any] = api.post(PATH, {"name": path.name[:256], "size": size, "sha256": sha256})
            uuid, said = found["uuid"], -1
            while found["state"] != "verified":
                file.seek(found["offset"])
                found = api.send("PUT", f"{PATH}/{uuid}/content", file.read(PIECE), offset=found["offset"])
                if (percent := found["offset"] * 100 // size) // 10 != said:
                    said = percent // 10
                    say(f"{percent}% of {path.name} is there")
    except OSError as error:
        raise OperatorError("FL-FILE", f"the bundle {path} cannot be read: {error.strerror}",
                            "check the path and its permissions") from None
    image: dict[str, Any] = api.get(f"{PATH}/{uuid}")
    return image
