"""Versions of fairlead side by side on a node's disk, and which of them runs.

Rules, and what each stops:

1. A version's folder is made under another name, synced, and renamed: a power cut or a full disk leaves no half of one
   under its name, and what has no name is never started.
2. What stands (``standing.json``: current, previous, trial, history) is one file, replaced as a whole: at every instant
   it names a version that is complete. The version that the operator installed, the base, is always one.
3. Only a trial brings a new version in, and only `confirm` ends it well. Back from a trial goes always: the version
   before it ran until a moment ago. Back from a confirmed one goes once, and never below the security counter.
   Neither does what runs where files are lost or damaged (`standby`).
4. What was seen (``seen.json``) only rises. The counter of a version counts once it is confirmed: a version that never
   worked forbids nothing.
5. Names of versions are numbers: one that leads elsewhere on the disk, or to a folder that others may write, is nothing
   that runs here. Whoever may write the state folder is this node already.
6. Who reads what stands, or what was seen, ignores fields that he does not know: a newer version writes them, the base
   reads them. Those of what was seen stay when it is written.

    versions/standing.json  seen.json  root.json
    versions/1.2.3/manifest.json, lib/ (wheels unpacked), files/

One process writes: the daemon, or while it is on trial and dead its guard, or a command when neither runs.
"""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fairlead.base import files, strict
from fairlead.base.clock import rfc3339
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.upgrade import manifest
from fairlead.upgrade.manifest import Manifest
from fairlead.upgrade.seen import Seen

FOLDER = "versions"
STANDING, SEEN, ROOT, WHY = "standing.json", "seen.json", "root.json", "why"
LIB = "lib"
MOST_HISTORY = 50
MOST_WORDS = 300
"""Characters of a reason."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Which version runs, and how it came to that."""

    current: str
    previous: str = ""
    """Where the way back leads; empty: nowhere."""
    trial: bool = False
    """Whether *current* has yet to prove itself."""
    outcome: str = ""
    """Of the last switch: ``confirmed``, ``failed``, or nothing yet."""
    why: str = ""
    """Why it went back."""
    wanted: str = ""
    """The version of the last switch, whether or not it runs."""
    older: str = ""
    """What was *previous* before a switch that has yet to prove itself."""
    attempts: int = 0
    """Starts of the trial."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """How the node stood before the switch (`trial.Facts`)."""
    history: tuple[Mapping[str, str], ...] = ()


class Versions:
    """The versions in a state folder."""

    def __init__(self, state: Path, own: str) -> None:
        """*own*: the number of the installed package, the base."""
        self._folder = state / FOLDER
        self.own = own

    # -- what stands --------------------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Which version is to run. Raises OperatorError FL-UPGRADE-STANDING when that cannot be known any more.

        A version that is gone, and a base that was replaced by a newer one by hand, are taken into account. Where the
        file is damaged, the outcome is ``failed``, of no version.
        """
        try:
            said = _decode(files.read_private(self._folder / STANDING))
        except FileNotFoundError:
            return Standing(self.own)
        except ValueError as error:
            return Standing(self.standby(Standing("")), outcome="failed", why=f"{STANDING} is damaged: {error}")
        version = said.current
        if not self._usable(version):
            version = self.standby(said)
            return replace(said, current=version, previous=said.older if version == said.previous else "", older="",
                           trial=False)
        if version != self.own and self._older_than_base(version):
            return replace(said, current=self.own, previous=version, trial=False)
        return said

    def standby(self, said: Standing) -> str:
        """The version that runs where the current one of *said* cannot: the one before it; where that cannot either,
        the base; where that is below the counter, the highest that is here and is not.

        Raises OperatorError FL-UPGRADE-STANDING when there is none.
        """
        if self._usable(said.previous) and (said.trial or self._reaches(said.previous)):
            return said.previous
        if self._reaches(self.own):
            return self.own
        found = [name for name in os.listdir(self._folder)  # noqa: PTH208 - names
                 if name != said.current and self.complete(name) and self._reaches(name)]
        if not found:
            raise OperatorError(
                "FL-UPGRADE-STANDING", f"{self._folder / STANDING} is damaged, or what it names is not whole and ours "
                f"alone; and nothing else here has the security counter that this node has run, {self.seen().counter}",
                f"have {self._folder} and the folders in it restored, with mode 0700; or remove {STANDING} to "
                "run the installed version all the same")
        # one with a higher counter than was seen has never proven itself here: the last resort
        return min(found, key=lambda name: (self.counter(name), [-part for part in manifest.parts(name)]))

    def _usable(self, version: str) -> bool:
        return version == self.own or self.complete(version)

    def _reaches(self, version: str) -> bool:
        """Whether it is not below the security counter. Raises OperatorError: what was seen is damaged."""
        counter = self.seen().counter
        try:
            return self.counter(version) >= counter
        except FairleadError:
            return False

    def _older_than_base(self, version: str) -> bool:
        try:
            return manifest.parts(version) < manifest.parts(self.own)
        except Refused:  # the base's number may be a developer's
            return False

    def history(self) -> Sequence[Mapping[str, str]]:
        """What happened, oldest first: ``at``, ``event`` (switched, confirmed, back), ``version``, ``why``."""
        return self.standing().history

    def switch(self, version: str, *, now: int, before: Mapping[str, Any] | None = None) -> None:
        """The next start is a trial of *version*. *before*: how the node stands now (`trial.Facts.noted`).

        Raises Refused FL-UPGRADE-ABSENT, FL-UPGRADE-COUNTER; OperatorError.
        """
        if version != self.own and not self.complete(version):
            raise Refused("FL-UPGRADE-ABSENT", f"version {printable(version, 40)} is not on this node",
                          "have its bundle applied again")
        self._check_counter(version)
        said = self.standing()
        if said.current == version:
            return  # asked twice, or after a power cut
        self._write(replace(
            said, current=version, previous=said.previous if said.trial else said.current,
            older=said.older if said.trial else said.previous, trial=True, outcome="", why="", wanted=version,
            attempts=0, before=dict(before or {})), "switched", version, "", now)

    def note(self, before: Mapping[str, Any]) -> None:
        """How the node stood before the switch, to be known in its trial. Raises OperatorError."""
        said = self.standing()
        if said.trial:
            self._save(replace(said, before=dict(before)))

    def attempt(self) -> int:
        """A start of the trial: how many there were, with this one. Raises OperatorError."""
        said = self.standing()
        self._save(replace(said, attempts=said.attempts + 1))
        return said.attempts + 1

    def confirm(self, now: int) -> None:
        """The running version is good: its counter holds from now on. Raises OperatorError."""
        said = self.standing()
        if not said.trial:
            return
        # the counter first: cut off between the two, the trial goes on
        self.remember(Seen(counter=self.counter(said.current)))
        self._write(replace(said, trial=False, outcome="confirmed", why="", older="", attempts=0, before={}),
                    "confirmed", said.current, "", now)
        self.explained()

    def back(self, why: str, now: int) -> None:
        """The previous version is current again, from the next start; where it is gone, back from a trial leads to
        what stands by.

        Raises Refused FL-UPGRADE-PREVIOUS: there is none; FL-UPGRADE-COUNTER; OperatorError.
        """
        said = self.standing()
        version = self.standby(said) if said.trial else said.previous
        if not self._usable(version):
            raise Refused("FL-UPGRADE-PREVIOUS", f"there is no version to go back to from {said.current}",
                          "apply a bundle of a version that works")
        if not said.trial:
            self._check_counter(version)
        why = printable(why, MOST_WORDS)[:MOST_WORDS]
        older = said.older if said.trial and version == said.previous else ""
        self._write(replace(said, current=version, previous=older, older="", trial=False, outcome="failed", why=why,
                            attempts=0, before={}, wanted=said.current if said.trial else said.wanted),
                    "back", version, why, now)

    # -- folders ------------------------------------------------------------------------------------------------------

    def path(self, version: str) -> Path:
        """Where *version* is. Raises Refused FL-UPGRADE-VERSION for what is no number."""
        manifest.parts(version)
        return self._folder / version

    def complete(self, version: str) -> bool:
        """Whether *version* is here as a whole, ours alone."""
        try:
            path = self.path(version)
            found, inner, said = (place.lstat() for place in (path, path / LIB, path / manifest.NAME))
        except (FairleadError, OSError):
            return False
        return (stat.S_ISDIR(found.st_mode) and stat.S_ISDIR(inner.st_mode) and stat.S_ISREG(said.st_mode)
                and found.st_uid == os.geteuid() and not found.st_mode & 0o077)

    def lib(self, version: str) -> Path | None:
        """What comes first in ``sys.path`` of *version*; None for the base.

        Raises OperatorError: others may write there; Refused FL-UPGRADE-ABSENT.
        """
        if version == self.own:
            return None
        if not self.complete(version):
            raise Refused("FL-UPGRADE-ABSENT", f"version {printable(version, 40)} is not on this node, or is open "
                          "to others", "have its bundle applied again")
        files.check_private_folder(self._folder)
        return self.path(version) / LIB

    def counter(self, version: str) -> int:
        """The security counter of *version*; 0 for the base. Raises Refused FL-UPGRADE-MANIFEST, OperatorError."""
        return 0 if version == self.own else self._manifest(self.path(version), version).counter

    def _manifest(self, folder: Path, version: str) -> Manifest:
        try:
            said = manifest.decode((folder / manifest.NAME).read_bytes())
        except FileNotFoundError:
            said = None
        except OSError as error:
            raise OperatorError("FL-STATE-UNREADABLE", f"the manifest of {version} cannot be read: {error.strerror}",
                                "mend the disk or the file's owner and mode") from error

        if said is None or said.version != version:
            raise Refused("FL-UPGRADE-MANIFEST", f"version {version} has no manifest of its own",
                          "have its bundle applied again")
        return said

    def _check_counter(self, version: str) -> None:
        if self.counter(version) < self.seen().counter:
            raise Refused("FL-UPGRADE-COUNTER", f"version {version} has the security counter {self.counter(version)}, "
                          f"this node has run {self.seen().counter}", "go on to a version that has at least that")

    def install(self, version: str, fill: Callable[[Path], None]) -> None:
        """Put *version* beside the others. *fill* writes ``lib/``, ``files/`` and ``manifest.json`` into a folder.

        What runs, and what it can go back to, is left as it is. Raises Refused FL-UPGRADE-VERSION, FL-UPGRADE-MANIFEST
        when *fill* wrote none of that version, or what *fill* raises; OperatorError FL-DISK: then nothing was lost.
        """
        path = self.path(version)
        if version == self.own:
            raise Refused("FL-UPGRADE-VERSION", f"{version} is the installed version", "name another one")
        try:
            self._make_folder()
            said = self.standing()
            self._prune({said.current, said.previous, said.older, version})
            if version in (said.current, said.previous, said.older) and self.complete(version):
                return
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))  # 0700
            try:
                fill(made)
                self._manifest(made, version)
                (made / LIB).mkdir(mode=0o700, exist_ok=True)
                _sync_tree(made)
                if path.exists():
                    path.rename(made.with_name(made.name.replace("new", "old")))
                made.rename(path)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
            files.sync_folder(self._folder)
            self._prune({said.current, said.previous, said.older, version})
        except OSError as error:
            raise OperatorError("FL-DISK", f"version {version} cannot be put into {self._folder}: {error.strerror}",
                                "free some space or mend the disk, then repeat; nothing was lost") from error

    def _prune(self, kept: set[str]) -> None:
        """Remove versions that nothing leads to, and what was never finished."""
        for name in os.listdir(self._folder):  # noqa: PTH208 - names
            path = self._folder / name
            if name in kept or not (path.is_dir() and not path.is_symlink()):
                continue
            if not name.startswith("."):  # not half a version under its name
                path = path.rename(self._folder / f".old-{name}-{os.getpid()}")
            shutil.rmtree(path, ignore_errors=True)
        for left in self._folder.glob(".*.json.*"):  # a write that was cut off
            left.unlink()

    def _make_folder(self) -> None:
        files.make_private_folder(self._folder)

    # -- what was seen ------------------------------------------------------------------------------------------------

    def root(self) -> bytes | None:
        """The root metadata that is pinned here. Raises OperatorError."""
        try:
            return files.read_private(self._folder / ROOT)
        except FileNotFoundError:
            return None

    def pin(self, root: bytes, *, replace: bool = False) -> None:
        """Pin *root*, the first; *replace*: it follows from the pinned one by the chain, which the caller has verified.

        Raises Refused FL-UPGRADE-PINNED: another one is; OperatorError.
        """
        known = self.root()
        if known == root:
            return
        if known is not None and not replace:
            raise Refused("FL-UPGRADE-PINNED", "this node has pinned another root for upgrades",
                          "a new root has to be signed by the pinned one, in a bundle")
        self._make_folder()
        files.write_private(self._folder / ROOT, root)

    def seen(self) -> Seen:
        """The highest that this node has seen. Raises OperatorError FL-STATE-DAMAGED."""
        return self._kept()[0]

    def _kept(self) -> tuple[Seen, bytes]:
        """That, and the file that says it. Raises OperatorError FL-STATE-DAMAGED."""
        try:
            data = files.read_private(self._folder / SEEN)
            return Seen.decode(data), data
        except FileNotFoundError:
            return Seen(), b"{}"
        except ValueError as error:
            raise OperatorError("FL-STATE-DAMAGED", f"{self._folder / SEEN} is damaged: {error}",
                                "restore the state folder") from None

    def remember(self, seen: Seen) -> None:
        """From now on at least *seen*. Raises OperatorError."""
        known, data = self._kept()
        if (now := known.merged(seen)) != known:
            self._make_folder()
            files.write_private(self._folder / SEEN, now.encode(data))

    def forget(self) -> None:
        """A life in another cluster begins: what was pinned and seen is the old one's. Raises OperatorError.

        The versions themselves stay: what runs, runs.
        """
        for name in (SEEN, ROOT):
            if (self._folder / name).exists():
                files.remove(self._folder / name)

    # -- a reason, from the version on trial to its guard -------------------------------------------------------------

    def explain(self, line: str) -> None:
        """Leave word why the version on trial cannot work; lost when the disk refuses."""
        with contextlib.suppress(FairleadError):
            files.write_private(self._folder / WHY, printable(line, MOST_WORDS)[:MOST_WORDS].encode(), synced=False)

    def explained(self) -> str:
        """That word, once."""
        try:
            with (self._folder / WHY).open("rb") as file:
                said = printable(file.read(4 * MOST_WORDS).decode(errors="replace"))[:MOST_WORDS]
            (self._folder / WHY).unlink()
        except OSError:
            return ""
        return said

    def _write(self, standing: Standing, event: str, version: str, why: str, now: int) -> None:
        entry = {"at": rfc3339(now), "event": event, "version": version, "why": why}
        self._save(replace(standing, history=(*standing.history, entry)[-MOST_HISTORY:]))

    def _save(self, standing: Standing) -> None:
        self._make_folder()
        files.write_private(self._folder / STANDING, json.dumps({"v": 1, **asdict(standing)}).encode())


def _decode(data: bytes) -> Standing:
    """Raises ValueError."""
    said = strict.loads(data)
    if not isinstance(said, dict) or said.get("v") != 1:
        raise ValueError("not of a kind that is known here")
    texts = {name: said.get(name, "") for name in ("current", "previous", "outcome", "why", "wanted", "older")}
    trial, attempts, before, history = (said.get(name, other) for name, other in (
        ("trial", False), ("attempts", 0), ("before", {}), ("history", [])))
    if not all(isinstance(text, str) for text in texts.values()) or not texts["current"]:
        raise ValueError("a field is no text")
    if type(trial) is not bool or type(attempts) is not int or not isinstance(before, dict) or not (
            isinstance(history, list) and all(
                isinstance(row, dict) and all(isinstance(text, str) for text in row.values()) for row in history)):
        raise ValueError("a field is of another kind")
    return Standing(**texts, trial=trial, attempts=attempts, before=before, history=tuple(history))


def _sync_tree(top: Path) -> None:
    """Bring all that is below *top*, and itself, to the disk. Raises OSError."""
    for folder, _, names in os.walk(top, topdown=False):
        for name in names:
            handle = os.open(Path(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        files.sync_folder(Path(folder))
