"""This node changes its own version, as a Controller asked: an engine and a Controller do it the same way.

Rules, and what each stops:

1. What a Controller says is a wish. The bundle is fetched by its hash, verified by the root that this node has pinned
   and by what it has seen, and has to fit what runs here: a Controller in wrong hands brings no other bundle, no older
   version, and no way back but to the version that this node itself ran before.
2. It is verified again by the very descriptor from which it is unpacked (`Taking.unpack`): who rewrites the file in
   between is noticed.
3. Each upgrade is tried once, whatever is said again or how often this node is started: the outcome is on the disk
   before the switch. Another try is another upgrade.
4. What is asked while something is under way waits; only the newest wish counts.
5. What this node says of a failure is its own words, short and printable.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from fairlead.base import files
from fairlead.base.clock import SECOND, spoken
from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.link.report import MOST_SECONDS, Report
from fairlead.upgrade.manifest import Manifest, parts
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.stages import Order
from fairlead.upgrade.verify import read_root

FILE = "upgrade.json"
LOOK_S = 0.5
MOST_WORDS = 300
FINAL = frozenset(("done", "failed", "back"))
PASSING = frozenset(("FL-IMAGE-AWAY", "FL-IMAGE-UNKNOWN", "FL-STORE", "FL-STREAM-DOWN", "FL-STREAM-LOST",
                     "FL-STREAM-REFUSED", "FL-UPGRADE-TRIAL", "FL-UPGRADE-UNTRUSTED"))
"""What passes: another side is away, the root is still to come, a trial to end. It is tried again when asked again."""

log = structlog.get_logger("fairlead.upgrade")


class Verified(Protocol):
    """A bundle that this node has verified."""

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        ...

    @property
    def seen(self) -> Seen:
        """What has been seen, once it counts."""
        ...


class Taking(Protocol):
    """The bundles of this node."""

    async def bring(self, sha256: str, size: int) -> Verified:
        """Have the file here, and verify it. Raises FairleadError."""
        ...

    def came(self, sha256: str) -> int:
        """How many bytes of it have come since this process was started."""
        ...

    def fits(self, manifest: Manifest) -> None:
        """Whether it is for this node, as it is now. Raises Refused."""
        ...

    def unpack(self, sha256: str, into: Path) -> Verified:
        """Verify the file and unpack it into an empty folder, by one descriptor. Raises FairleadError. It blocks."""
        ...


class Standing(Protocol):
    """Which version runs, and how it came to that."""

    @property
    def current(self) -> str: ...
    @property
    def previous(self) -> str: ...
    @property
    def trial(self) -> bool: ...
    @property
    def outcome(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def wanted(self) -> str: ...
    @property
    def history(self) -> Sequence[Mapping[str, str]]: ...


class Keeping(Protocol):
    """The versions that are here side by side (`upgrade.versions`)."""

    def standing(self) -> Standing:
        """What runs."""
        ...

    def install(self, version: str, fill: Callable[[Path], None]) -> None:
        """Put one beside the others. It blocks."""
        ...

    def remember(self, seen: Seen) -> None:
        """From now on at least this."""
        ...

    def seen(self) -> Seen:
        """What counts now. Raises OperatorError."""
        ...

    def root(self) -> bytes | None:
        """The root that is pinned."""
        ...

    def pin(self, root: bytes) -> None:
        """Pin the first one. Raises Refused FL-UPGRADE-PINNED."""
        ...

    def switch(self, version: str, *, now: int) -> None:
        """The next start is a trial of it."""
        ...

    def back(self, why: str, now: int) -> None:
        """The next start is of the previous one."""
        ...


class _Job(BaseModel):
    """The newest upgrade, as it is kept on the disk."""

    model_config = ConfigDict(frozen=True, strict=True)
    id: str
    version: str
    state: str
    back: bool = False
    why: str = ""
    began: int = 0
    since: int = 0
    seconds: float = 0.0
    bytes: int = 0
    last: dict[str, str] = {}
    """What came last in the history before the switch."""

    def was_tried(self, history: Sequence[Mapping[str, str]]) -> bool:
        """Whether it was switched to since: the power may have gone before that, and an earlier try have failed."""
        since = history[history.index(self.last) + 1:] if self.last in history else history
        return any(row.get("event") == "switched" and row.get("version") == self.version for row in since)


class OwnUpgrade:
    """See the module."""

    def __init__(self, state: Path, versions: Keeping, taking: Taking, *, now: Callable[[], int],
                 restart: Callable[[], None], record: Callable[..., None]) -> None:
        """*now*: store time, microseconds. *restart*: end in order and start anew, in the version that stands then.
        *record*: for this node's journal: an event, and its details.
        """
        self._file = state / FILE
        self._versions = versions
        self._taking = taking
        self._now = now
        self._restart = restart
        self._record = record
        self._job: _Job | None = None
        self._wish: tuple[Order, bool] | None = None
        """What was asked for last and not begun: to run it, or only to have it here."""
        self._fetching = ""
        """The hash of what is being fetched."""
        self._restarting = False
        self._wake = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None
        """Called when this node stands otherwise."""
        self.still: Callable[[Order], bool] = lambda _: True
        """Whether that is wanted yet: asked before the switch, as to fetch and to unpack takes long."""
        self._problem = ""
        self._job = self._load()

    @property
    def problem(self) -> str:
        """What is wrong with its versions; empty: nothing. What is damaged is said, and ends nothing that runs."""
        try:
            standing = self._versions.standing()
        except FairleadError as error:
            return error.line()
        if standing.outcome == "failed" and not standing.wanted:
            return f"{_words(standing.why)}; version {standing.current} runs from the next start"
        return self._problem

    # -- what is asked ------------------------------------------------------------------------------------------------

    def want(self, order: Order) -> None:
        """Run that version, if it is good. Said again and again, it is done once."""
        self._ask(order, run=True)

    def have(self, order: Order) -> None:
        """Have its bundle here, verified, and do nothing with it yet."""
        self._ask(order, run=False)

    def _ask(self, order: Order, *, run: bool) -> None:
        job = self._job
        if self._restarting or not order.id:
            return
        if job is not None and job.id == order.id and (
                job.state in (*FINAL, "switching") or (job.state == "verified" and not run and not order.back)):
            return
        if self._wish is None or self._wish != (order, run):
            self._wish = order, run
            self._wake.set()

    def pin(self, root: bytes) -> None:
        """A Controller says by which root bundles are verified: the first one counts, for good (rule 1)."""
        try:
            if self._versions.root() is None:
                self._record("upgrade.root-pinned", sha256=read_root(root))
                self._versions.pin(root)
                self.changed()
        except FairleadError as error:
            log.warning("upgrade.root-refused", code=error.code, reason=error.message)

    async def run(self) -> None:
        """Do what is asked, and see how a trial goes; until cancelled."""
        self.look()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._is_open() else None):
                    await self._wake.wait()
            self._wake.clear()
            self.look()
            wish, self._wish = self._wish, None
            if wish is not None and not self._restarting:
                await self._carry_out(*wish)

    def look(self) -> None:
        """See how what was begun stands by now."""
        job = self._job
        if job is None or job.state != "switching" or self._restarting:
            return
        try:
            standing = self._versions.standing()
        except FairleadError:  # that is a problem already; it is looked at again
            return
        if standing.current == job.version:
            if not standing.trial:
                self._end(job, "done")
        elif standing.outcome == "failed" and job.was_tried(standing.history):
            self._end(job, "back", standing.why)
        else:  # it ended between what it wrote and the switch: it is told again
            self._job = None
            self.changed()

    def report(self, *, moving: bool = True) -> Report:
        """How this node stands; not *moving*: without what changes from one moment to the next. Raises nothing: what
        cannot be read is said.
        """
        try:
            standing = self._versions.standing()
        except FairleadError as error:
            return Report(version="", state="failed", why=_words(error.message))
        job, moved, (pinned, seen) = self._job, 0, self._believed()
        if job is None:
            return Report(version=standing.current, state="trial" if standing.trial else "",
                          previous=standing.previous, counter=seen.counter, number=seen.timestamp, pinned=pinned)
        state = job.state
        if state == "switching" and not self._restarting and standing.current == job.version:
            state = "trial" if standing.trial else "done"
        if state == "fetching" and self._fetching and moving:
            moved = self._taking.came(self._fetching)
        seconds = job.seconds if job.state in FINAL or not moving else (self._now() - job.began) / SECOND
        seconds = round(min(max(0.0, seconds), MOST_SECONDS - 1), 3)  # clocks jump, and what Controllers say of them
        return Report(version=standing.current if not self._restarting else self._ran, id=job.id, state=state,
                      why=job.why, since=spoken(job.since), seconds=seconds, bytes=job.bytes or moved,
                      previous=standing.previous if not self._restarting else "", counter=seen.counter,
                      number=seen.timestamp, pinned=pinned)

    def _believed(self) -> tuple[bool, Seen]:
        """Whether a root is pinned here, and what was seen."""
        try:
            return self._versions.root() is not None, self._versions.seen()
        except FairleadError:
            return False, Seen()

    # -- doing it -----------------------------------------------------------------------------------------------------

    async def _carry_out(self, order: Order, run: bool) -> None:
        job = self._job
        if job is None or job.id != order.id:
            began = self._now()
            self._job = job = _Job(id=order.id, version=order.version, state="waiting", back=order.back, began=began,
                                   since=began)
            self._record("upgrade.asked", upgrade=order.id, version=order.version)
        try:
            if order.back:
                await self._go_back(job, order)
            else:
                await self._go_on(job, order, run)
        except FairleadError as error:
            assert self._job is not None
            log.warning("upgrade.failed", upgrade=order.id, version=order.version, code=error.code,
                        reason=error.message)
            if error.code in PASSING:
                self._job = self._job.model_copy(update={"state": "waiting", "why": _words(error.message)})
                self.changed()
            else:
                self._end(self._job, "failed", f"{error.message} [{error.code}]")
        except Exception as error:  # a bundle that nobody foresaw ends this upgrade, and not what runs
            assert self._job is not None
            kind = type(error).__name__
            log.exception("upgrade.failed", upgrade=order.id, version=order.version, code="FL-INTERNAL", error=kind)
            self._end(self._job, "failed", f"it ended by a fault of ours, {kind}: the log says more [FL-INTERNAL]")
        finally:
            self._fetching = ""

    async def _go_on(self, job: _Job, order: Order, run: bool) -> None:
        standing = self._versions.standing()
        if standing.current == order.version:
            if not standing.trial:
                self._end(job, "done")
            return
        if standing.trial:
            raise Refused("FL-UPGRADE-TRIAL", f"version {standing.current} is on trial here", "wait for its end")
        self._fetching = order.sha256
        job = self._step(job, "fetching")
        verified = await self._taking.bring(order.sha256, order.size)
        self._check(verified, order)
        job = self._step(job.model_copy(update={"bytes": max(job.bytes, self._taking.came(order.sha256))}), "verified")
        if not run:
            return

        def fill(into: Path) -> None:
            self._check(self._taking.unpack(order.sha256, into), order)

        await asyncio.to_thread(self._versions.install, order.version, fill)
        # the counter holds once the version has proven itself: one that never worked forbids nothing
        await asyncio.to_thread(self._versions.remember, Seen(
            verified.seen.root, verified.seen.timestamp, verified.seen.snapshot, verified.seen.targets))
        if not self.still(order):  # it was called back meanwhile, and others count on what runs here
            self._job = None
            self.changed()
            return
        self._leave(job, standing, lambda: self._versions.switch(order.version, now=self._now()))

    def _check(self, verified: Verified, order: Order) -> None:
        if verified.manifest.version != order.version:
            raise Refused("FL-UPGRADE-OTHER", f"the bundle is of version {printable(verified.manifest.version, 64)}, "
                          f"not {printable(order.version, 64)}", "see whether that Controller is in wrong hands")
        runs = self._versions.standing().current
        if parts(order.version) < parts(runs):  # also where its security counter would do
            raise Refused("FL-UPGRADE-OLDER", f"version {order.version} is older than {runs}, which runs here",
                          "only `fairlead upgrade rollback` goes back, to the version that this node ran before")
        self._taking.fits(verified.manifest)

    async def _go_back(self, job: _Job, order: Order) -> None:
        standing = self._versions.standing()
        if standing.current == order.version and not standing.trial:
            self._end(job, "done")
            return
        if standing.previous != order.version:
            raise Refused("FL-UPGRADE-BACK", f"this node did not run {printable(order.version, 64)} before, but "
                          f"{standing.previous or 'none'}", "apply a bundle of the version that it is to run")
        self._leave(job, standing, lambda: self._versions.back("called back", self._now()))

    def _leave(self, job: _Job, standing: Standing, switch: Callable[[], None]) -> None:
        self._ran = standing.current
        last = dict(standing.history[-1]) if standing.history else {}
        self._step(job.model_copy(update={"last": last}), "switching", kept=True)
        switch()
        self._record("upgrade.switching", upgrade=job.id, version=job.version, before=self._ran)
        log.warning("upgrade.switching", upgrade=job.id, version=job.version, before=self._ran)
        self._restarting = True
        self.changed()
        self._restart()

    # -- on record ----------------------------------------------------------------------------------------------------

    _ran = ""
    """The version that this process runs, once another one stands."""

    def _is_open(self) -> bool:
        return self._job is not None and self._job.state == "switching" and not self._restarting

    def _step(self, job: _Job, state: str, *, kept: bool = False) -> _Job:
        self._job = job = job.model_copy(update={"state": state, "since": self._now(), "why": ""})
        if kept:
            files.write_private(self._file, job.model_dump_json().encode())
        self.changed()
        return job

    def _end(self, job: _Job, state: str, why: str = "") -> None:
        now = self._now()
        self._job = job = job.model_copy(update={"state": state, "why": _words(why), "since": now,
                                                 "seconds": max(0.0, (now - job.began) / SECOND)})
        try:
            files.write_private(self._file, job.model_dump_json().encode())
            self._problem = ""
        except FairleadError as error:  # a full disk: it is so all the same
            log.error("upgrade.unsaved", code=error.code, reason=error.message)
        self._problem = f"the upgrade to {job.version}: {job.why}" if state == "back" else self._problem
        self._record(f"upgrade.{state}", upgrade=job.id, version=job.version, why=job.why)
        self.changed()

    def _load(self) -> _Job | None:
        try:
            job = _Job.model_validate_json(files.read_private(self._file))
            return job.model_copy(update={"why": _words(job.why)})  # one that is too long was once written
        except FileNotFoundError:
            return None
        except (ValidationError, OperatorError) as error:  # what was tried once may be tried once more
            log.error("upgrade.unread", reason=type(error).__name__)
            return None


def _words(text: str) -> str:
    return printable(text, MOST_WORDS)[:MOST_WORDS]  # what is escaped becomes longer
