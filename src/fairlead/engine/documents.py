"""The configuration documents of an engine: taken from its Controllers, applied by drivers, kept for bad times.

Rules, and the fault or attack that each stops:

1. Whichever Controller tells of them, one worker makes them so, one document after another in the order in which they
   were put. What an older picture says is passed over.
2. A body counts by its digest: a Controller that gives another one than it has announced gives nothing.
3. A document that its driver refuses changes nothing: what was in force stays, and the driver's words go back. It is
   tried again when it is put anew, and when this engine starts or is reloaded.
4. A Controller that takes no reports is hung up on: no other one's documents wait for it.
5. What is in force is on this engine's disk. It comes up again without any Controller.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from fairlead.base import files, strict
from fairlead.base.errors import FairleadError, Refused
from fairlead.engine.telling import Told, tell
from fairlead.link.documents import digest
from fairlead.link.messages import Assigned, Assignment, Held

FOLDER = "documents"
FETCH_S = 10.0
"""For a body. Another Controller is asked then."""
MOST_CONTROLLERS = 16
MOST_BROUGHT = 32

log = structlog.get_logger("fairlead.engine")


class Driver(Protocol):
    """What applies documents of one kind. *others* and *held*: the bodies in force, by the documents' names."""

    async def apply(self, name: str, text: str, others: Mapping[str, str]) -> None:
        """Put *text* in force in place of what *others* says of *name*.

        Raises Refused for a body that cannot be applied here, any FairleadError: then that still is in force.
        """
        ...

    async def remove(self, name: str, others: Mapping[str, str]) -> None:
        """Undo the document *name*, one of *others*. Raises FairleadError."""
        ...

    async def restore(self, held: Mapping[str, str]) -> None:
        """After a start: have all of *held* be in force. Raises FairleadError."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """What does not run as it should, one line each."""
        ...

    async def close(self) -> None:
        """End what runs."""
        ...


class Source(Told, Protocol):
    """A Controller that is connected."""

    async def fetch(self, wanted: str) -> str:
        """The body of a digest; empty when it is no longer assigned. Raises FairleadError."""
        ...

    async def report(self, held: Sequence[Held]) -> None:
        """Tell it what this engine holds."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    """A document of this engine."""

    held: Held
    body: str = field(default="", repr=False)


class Documents:
    """Makes what Controllers assign so."""

    def __init__(self, state: Path, drivers: Mapping[str, Driver], *, now: Callable[[], int],
                 record: Callable[..., None]) -> None:
        """*now*: store time, microseconds. *record*: for the journal, an event and its details."""
        self._folder = state / FOLDER
        self._drivers = drivers
        self._now = now
        self._record = record
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._wanted: Assignment | None = None
        self._sources: list[Source] = []
        self._reported: dict[Source, list[Held]] = {}
        """What each was last told."""
        self._brought: dict[str, str] = {}
        """Bodies that came unasked, by digest."""
        self._problems: dict[str, str] = {}
        self._news = asyncio.Event()
        self._anew = False

    @property
    def held(self) -> list[Held]:
        """Every document here, by kind and name."""
        return [kept.held for _, kept in sorted(self._kept.items())]

    @property
    def problems(self) -> list[str]:
        """What is not in force that should be, one line each."""
        running = [problem for driver in self._drivers.values() for problem in driver.problems]
        return [*running, *self._problems.values(), *(
            f"the document {one.kind}/{one.name} was refused in revision {one.tried}: {one.words} [{one.code}]"
            for one in self.held if one.tried)]

    async def restore(self) -> None:
        """Put in force what was, before any Controller is asked."""
        self._kept = dict(self._read())
        await self._restore(self._drivers)

    def again(self) -> None:
        """Settings, or where services are, may be others now: try everything anew."""
        self._anew = True
        self._news.set()

    def follow(self, source: Source, assignment: Assignment) -> None:
        """A Controller has said what this engine should have."""
        if source not in self._sources:
            self._sources.insert(0, source)
            for oldest in self._sources[MOST_CONTROLLERS:]:
                self.left(oldest)
        known = self._wanted
        if known is None or known.generation != assignment.generation or known.revision <= assignment.revision:
            self._wanted = assignment
        self._news.set()

    def brought(self, wanted: str, body: str) -> None:
        """A Controller sends a body along that it is about to assign."""
        self._brought[wanted] = body
        while len(self._brought) > MOST_BROUGHT:
            del self._brought[next(iter(self._brought))]

    def left(self, source: Source) -> None:
        """That Controller is no longer connected."""
        if source in self._sources:
            self._sources.remove(source)
            self._reported.pop(source, None)

    async def work(self) -> None:
        """Follow, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._anew:
                self._anew = False
                self._kept = {key: replace(kept, held=kept.held.model_copy(
                    update={"tried": 0, "code": "", "words": ""})) for key, kept in self._kept.items()}
                await self._restore(self._drivers)
            if self._wanted is not None:
                await self._make_so(self._wanted)
            await self._report()

    async def close(self) -> None:
        """End what drivers run."""
        for driver in self._drivers.values():
            await driver.close()

    async def _restore(self, kinds: Iterable[str]) -> None:
        for kind in list(kinds):
            try:
                await self._drivers[kind].restore(self._bodies(kind))
                self._problems.pop(kind, None)
            except FairleadError as error:
                self._problems[kind] = f"documents of kind {kind} are not in force: {error.line()}"
                log.error("documents.restore", kind=kind, code=error.code, reason=error.message)

    async def _make_so(self, wanted: Assignment) -> None:
        await self._restore(self._problems)
        names = {(one.kind, one.name) for one in wanted.documents}
        for key, kept in list(self._kept.items()):
            if key not in names:
                await self._drop(key, kept)
        for one in wanted.documents:
            if self._wanted is not wanted:  # told anew meanwhile
                self._news.set()
                return
            await self._take(one)

    async def _take(self, one: Assigned) -> None:
        key = one.kind, one.name
        kept = self._kept.get(key)
        if kept is not None:
            held = kept.held
            if ((held.revision, held.digest) == (one.revision, one.digest) or one.revision == held.tried
                    or (one.keep and held.revision)):
                return
        if not one.revision:
            return
        driver = self._drivers.get(one.kind)
        try:
            body = await self._fetch(one.digest)
        except FairleadError as error:
            log.info("document.unread", document=f"{one.kind}/{one.name}", code=error.code, reason=error.message)
            return
        try:
            if driver is None:
                raise Refused("FL-DOCUMENT-KIND", f"this engine has no driver {one.kind}", "upgrade it")
            await driver.apply(one.name, body, self._bodies(one.kind))
            await self._keep(key, _Kept(Held(kind=one.kind, name=one.name, revision=one.revision, digest=one.digest,
                                             since=self._now()), body), driver)
        except FairleadError as error:
            before = kept or _Kept(Held(kind=one.kind, name=one.name, revision=0, digest="", since=self._now()))
            self._kept[key] = replace(before, held=before.held.model_copy(update={
                "tried": one.revision, "code": error.code[:64], "words": _words(error)}))
            log.warning("document.refused", document=f"{one.kind}/{one.name}", revision=one.revision, code=error.code,
                        reason=error.message)
            self._record("document.refused", document=f"{one.kind}/{one.name}", revision=str(one.revision),
                         code=error.code)
        else:
            log.info("document.applied", document=f"{one.kind}/{one.name}", revision=one.revision)
            self._record("document.applied", document=f"{one.kind}/{one.name}", revision=str(one.revision),
                         sha256=one.digest)
        await self._report()

    async def _drop(self, key: tuple[str, str], kept: _Kept) -> None:
        kind, name = key
        driver = self._drivers.get(kind)
        try:
            if driver is not None and kept.held.revision:
                await driver.remove(name, self._bodies(kind))
            files.remove(self._file(key))
        except FairleadError as error:
            self._kept[key] = replace(kept, held=kept.held.model_copy(update={
                "tried": kept.held.revision, "code": error.code[:64], "words": _words(error)}))
            log.error("document.stays", document=f"{kind}/{name}", code=error.code, reason=error.message)
            return
        del self._kept[key]
        log.info("document.removed", document=f"{kind}/{name}")
        self._record("document.removed", document=f"{kind}/{name}", revision=str(kept.held.revision))

    async def _fetch(self, wanted: str) -> str:
        for kept in self._kept.values():  # the same again
            if kept.body and kept.held.digest == wanted:
                return kept.body
        if digest(brought := self._brought.pop(wanted, "")) == wanted:
            return brought
        for source in list(self._sources):
            with contextlib.suppress(FairleadError, TimeoutError):
                async with asyncio.timeout(FETCH_S):
                    body = await source.fetch(wanted)
                if digest(body) == wanted:
                    return body
        raise Refused("FL-DOCUMENT-BODY", "no Controller gives the document's body",
                      "it is asked for again when a Controller comes back")

    async def _report(self) -> None:
        held = self.held
        for source in list(self._sources):
            if (self._reported.get(source) != held and await tell(source, source.report(held))
                    and source in self._sources):
                self._reported[source] = held

    def _bodies(self, kind: str) -> dict[str, str]:
        return {name: kept.body for (of, name), kept in self._kept.items() if of == kind and kept.held.revision}

    def _file(self, key: tuple[str, str]) -> Path:
        return self._folder / f"{key[0]}.{key[1]}.json"

    async def _keep(self, key: tuple[str, str], kept: _Kept, driver: Driver) -> None:
        """*kept* is in force; so it is after a restart. When the disk refuses, it is so no longer."""
        try:
            files.make_private_folder(self._folder)
            files.write_private(self._file(key), json.dumps(
                {"held": kept.held.model_dump(), "body": kept.body}, ensure_ascii=False).encode())
        except FairleadError:
            now = self._bodies(key[0]) | {key[1]: kept.body}
            with contextlib.suppress(FairleadError):
                if key in self._kept and self._kept[key].held.revision:
                    await driver.apply(key[1], self._kept[key].body, now)
                else:
                    await driver.remove(key[1], now)
            raise
        self._kept[key] = kept

    def _read(self) -> Iterable[tuple[tuple[str, str], _Kept]]:
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else ():
            try:
                found: Any = strict.loads(files.read_private(path))
                kept = _Kept(Held.model_validate(found["held"]), str(found["body"]))
                if digest(kept.body) != kept.held.digest:
                    raise ValueError("its body is another one")
            except (ValueError, TypeError, KeyError, FairleadError) as error:
                log.error("document.damaged", path=str(path), code="FL-STATE-DAMAGED", reason=str(error))
                continue
            yield (kept.held.kind, kept.held.name), kept


def _words(error: FairleadError) -> str:
    return (f"{error.message}; {error.remedy}" if error.remedy else error.message)[:1000]
