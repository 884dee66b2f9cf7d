"""Commands that make, check and apply upgrade bundles."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairlead.base.clock import SECOND, rfc3339
from fairlead.base.errors import OperatorError
from fairlead.cli import images, output, upgrade_apply, way_back
from fairlead.cli.options import Json, State, folder

if TYPE_CHECKING:
    from fairlead.upgrade.seen import Seen
    from fairlead.upgrade.verify import Verified

MOST_DAYS = 3650

Keys = Annotated[Path | None, typer.Option("--keys", metavar="DIR", help="The folder with the keys to sign with.")]
Demo = Annotated[Path | None, typer.Option("--demo-keys", metavar="DIR", help=(
    "Make this folder first, with throw-away keys and root.json, for others than production."))]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    upgrade = typer.Typer(no_args_is_help=True, help="Upgrade bundles: made, checked, applied.")
    commands: dict[str, Callable[..., None]] = {"build": build, "verify": verify, "rotate-keys": rotate_keys,
                                                "trust": images.trust, "back": way_back.back}
    for name, function in commands.items():
        upgrade.command(name)(function)
    upgrade_apply.attach(upgrade)
    app.add_typer(upgrade, name="upgrade")


def build(payload: Annotated[list[Path], typer.Argument(metavar="PAYLOAD...", help=(
              "Wheels and other files, or folders of them."))],
          version: Annotated[str, typer.Option("--version", metavar="V", help="The version that it brings: 1.2.3.")],
          to: Annotated[Path, typer.Option("--output", metavar="F", help="The file to write.")],
          keys: Keys = None, demo_keys: Demo = None,
          role: Annotated[list[str] | None, typer.Option("--role", help=(
              "Whom it is for: controller, engine; may be repeated; else both."))] = None,
          minimum: Annotated[str, typer.Option("--minimum", metavar="V", help=(
              "The oldest version that may go over to it."))] = "0.0.0",
          counter: Annotated[int | None, typer.Option("--counter", metavar="N", help=(
              "The security counter; else that of the last bundle. Nodes never go below one that they have seen."))]
          = None,
          expires: Annotated[int, typer.Option("--expires", metavar="DAYS", min=1, max=MOST_DAYS, help=(
              "How long it may be applied."))] = 90) -> None:
    """Make a bundle, signed. With the same keys, payload and SOURCE_DATE_EPOCH it is the same file."""
    from fairlead.upgrade import build as making
    from fairlead.upgrade import keys as holding
    now = holding.at(_epoch())
    where = keys or demo_keys
    if where is None or (keys and demo_keys):
        raise OperatorError("FL-UPGRADE-KEYS", "a bundle is signed with the keys of one folder",
                            "name it with --keys DIR, or have one made with --demo-keys DIR")
    listed = making.gather(payload)
    if demo_keys:
        holding.demo(demo_keys, now)
    plan = making.Plan(version, minimum, tuple(role or ("controller", "engine")), counter,
                       now.replace(microsecond=0) + timedelta(days=expires), listed)
    made = making.build(to, holding.Keys(where), plan)
    output.say(f"{to}: version {made.version}, {len(made.files)} files; `fairlead upgrade verify {to} --root "
               f"{where / holding.PIN}`")


def verify(file: Annotated[Path, typer.Argument(metavar="F", help="The bundle's file.")],
           root: Annotated[Path | None, typer.Option("--root", metavar="ROOT.json", help=(
               "The publisher's root, as you got it by another way; else the one that is pinned in the state folder."))]
           = None, state: State = None, json: Json = False, *, context: typer.Context) -> None:
    """Say whether a bundle may be used, and what was checked. Works without a network and without a node."""
    from fairlead.upgrade import verify as verifying
    pinned, seen = _known(root, lambda: folder(context, state))
    now = time.time_ns() // 1000
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError("FL-FILE", f"the bundle {file} cannot be read: {error.strerror}",
                            "check the path and its permissions") from None
    try:
        found = verifying.verify(fd, pinned, seen, now)
    finally:
        os.close(fd)
    told = _told(found, verifying.read_root(pinned))
    if json:
        output.as_json(told)
        return
    output.facts({name: value for name, value in told.items() if name not in {"files", "signed", "seen"}})
    output.table([{"metadata": role, **row} for role, row in told["signed"].items()],
                 ("metadata", "version", "threshold", "keys"), "")
    output.table(told["files"], ("path", "size", "sha256"), "")
    output.say("verified: the root's chain, thresholds, every signature, versions, expiry, lengths, hashes, every byte")
    if root is not None:
        output.say("not checked with --root: what a node has seen before, its role, the version that it runs")


def rotate_keys(where: Annotated[Path, typer.Argument(metavar="DIR", help="The folder with the keys.")]) -> None:
    """Make new keys for all roles, and the next root, which the old keys sign; nodes follow with the next bundle."""
    from fairlead.upgrade import keys as holding
    version = holding.Keys(where).rotate(holding.at(_epoch()))
    output.say(f"{where / holding.PIN} is version {version}; nodes that have an older one follow with the next bundle. "
               f"Keys of before are no longer used: take {where}/*-{version - 1}-*.pem away")


def _known(root: Path | None, state: Callable[[], Path]) -> "tuple[bytes, Seen]":
    """The root to believe, and what was seen by who believes it. Raises OperatorError."""
    from fairlead.base.files import read_private
    from fairlead.upgrade.seen import Seen
    if root is not None:
        try:
            with root.open("rb") as file:
                return file.read(images.MOST_ROOT_BYTES + 1), Seen()
        except OSError as error:
            raise OperatorError("FL-FILE", f"the root {root} cannot be read: {error.strerror}",
                                "check the path and its permissions") from None
    versions = state() / "versions"
    try:
        pinned = read_private(versions / "root.json")
    except FileNotFoundError:
        raise OperatorError("FL-UPGRADE-NO-ROOT", f"there is no root to believe the bundle by: none in {versions}",
                            "name the publisher's with --root ROOT.json, or the node's folder with --state") from None
    try:
        return pinned, Seen.decode(read_private(versions / "seen.json"))
    except FileNotFoundError:
        return pinned, Seen()
    except ValueError as error:
        raise OperatorError("FL-STATE-DAMAGED", f"{versions / 'seen.json'} is damaged: {error}",
                            "restore it from a backup, or name the root with --root") from None


def _told(found: "Verified", pin: str) -> dict[str, Any]:
    from dataclasses import asdict

    from fairlead.upgrade.verify import signers
    manifest = found.manifest
    seen = asdict(found.seen)
    return {
        "version": manifest.version, "minimum": manifest.minimum, "roles": list(manifest.roles),
        "counter": manifest.counter, "expires_at": rfc3339(found.expires), "size": found.size, "sha256": found.sha256,
        "root_sha256": pin,
        "signed": {name: {"version": seen[name], "threshold": threshold, "keys": [key[:16] for key in keys]}
                   for name, (threshold, keys) in signers(found.root).items()},
        "seen": seen, "files": [asdict(file) for file in manifest.files],
    }


def _epoch() -> int:
    """Seconds: now, or what SOURCE_DATE_EPOCH says (reproducible-builds.org). Raises OperatorError FL-UPGRADE-TIME."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not said:
        return time.time_ns() // 1000 // SECOND
    if not (said.isascii() and said.isdigit() and len(said) <= 10):
        raise OperatorError("FL-UPGRADE-TIME", f"SOURCE_DATE_EPOCH is {said!r}", "give seconds since 1970, or unset it")
    return int(said)
