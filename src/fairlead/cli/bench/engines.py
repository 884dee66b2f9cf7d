"""Many engines in one process: ``python -m fairlead.cli.bench.engines FILE``.

Each is the product's own engine, as its daemon runs it, but for its control socket: it joins with a bundle of its own,
keeps its keys and documents in a folder of its own, and holds its link. Each connection comes from a loopback address
of its own, as in a fleet. What to do comes as words on standard input, one a line; each is answered by one JSON object.

    join                    all at once; answered when each is linked, or lost
    linked                  answered when each that has joined is linked (again)
    applied DIGEST SECONDS  when each has applied the document of that digest, or the time is over
    stop, run               all of them end; all of them start again
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairlead.audit.journal import Journal
from fairlead.base import configuration, descriptors, logs
from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.base.garbage import collect_seldom
from fairlead.cli.bench.callers import Sourced
from fairlead.engine.daemon import AUDIT, Engine, load_settings
from fairlead.engine.settings import EngineSettings
from fairlead.engine.spool import FOLDER as SPOOL
from fairlead.engine.spool import Spool
from fairlead.enrol import bundle as bundles
from fairlead.enrol.join import Joiner
from fairlead.enrol.keyring import Keyring
from fairlead.enrol.trust import HOST_KEY, load, load_key
from fairlead.transport.way import Way, choose

LOOK_S = 0.01
PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Task:
    """The engines of one process."""

    folder: str
    """For their state folders."""
    bundles: str
    """A file: one bundle a line, one for each engine."""
    first: int
    """The number of the first one; its name is ``se-NUMBER``."""
    sources: str
    """The first two bytes of the addresses that they come from."""
    keepalive_s: float

    def save(self, path: Path) -> Path:
        """The file."""
        path.write_text(json.dumps(asdict(self)))
        return path


class _Timed(Engine):
    """An engine that notes when it has applied a document, which it says to its Controllers next."""

    applied: dict[str, float]

    def _record(self, event: str, **details: str) -> None:
        super()._record(event, **details)
        if event == "document.applied":
            self.applied[details["sha256"]] = time.monotonic()


class Engines:
    """They, and what became of them."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.bundles = Path(task.bundles).read_text().splitlines()
        self.way: Way = choose(os.environ)
        self.clock = SystemClock()
        self.joined: list[str] = []
        self.lost: Counter[str] = Counter()
        self.running: dict[str, tuple[_Timed, asyncio.Task[None]]] = {}

    async def join(self) -> dict[str, Any]:
        """All at once."""
        began = time.monotonic()
        await asyncio.gather(*(self._join(number, bundle) for number, bundle in enumerate(self.bundles)))
        return await self.linked() | {"began": began, "joined": len(self.joined), "lost": sum(self.lost.values()),
                                      "codes": dict(self.lost)}

    async def _join(self, number: int, bundle: str) -> None:
        name = f"se-{self.task.first + number}"
        state = Path(self.task.folder, name)
        try:
            await Joiner(state, "engine", name, self.clock).join(
                bundles.decode(bundle.encode()), lambda: None, lambda: configuration.save(
                    state, EngineSettings(keepalive_s=self.task.keepalive_s)))
        except FairleadError as error:
            self.lost[error.code] += 1
            return
        self.joined.append(name)
        self._start(name)

    def _start(self, name: str) -> None:
        state = Path(self.task.folder, name)
        trust = load(state)
        engine = _Timed(state, "0", self.clock, load_settings(state), trust, Keyring(state),
                        load_key(state, HOST_KEY), Journal.open(state / AUDIT, name, self.clock), self.way,
                        Spool(state / SPOOL))
        engine.applied = {}
        self.running[name] = engine, asyncio.get_running_loop().create_task(engine.run(lambda _: None))

    async def linked(self) -> dict[str, Any]:
        """All that run have a link."""
        end = time.monotonic() + PATIENCE_S
        waiting = [engine for engine, _ in self.running.values()]
        while waiting and time.monotonic() < end:
            waiting = [engine for engine in waiting if not engine.supervisor.connected]
            await asyncio.sleep(LOOK_S)
        return {"at": time.monotonic(), "linked": len(self.running) - len(waiting)}

    async def applied(self, digest: str, seconds: str) -> dict[str, Any]:
        """When each has applied it."""
        end = time.monotonic() + float(seconds)
        engines = [engine for engine, _ in self.running.values()]
        while time.monotonic() < end and not all(digest in engine.applied for engine in engines):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        return {"times": [engine.applied[digest] for engine in engines if digest in engine.applied]}

    async def stop(self) -> dict[str, Any]:
        """All end."""
        for engine, _ in self.running.values():
            engine.stopping.set()
        await asyncio.gather(*(task for _, task in self.running.values()))
        for engine, _ in self.running.values():
            engine.journal.close()
            engine.spool.close()
        self.running.clear()
        return {}

    async def run(self) -> dict[str, Any]:
        """All start again."""
        for name in self.joined:
            self._start(name)
        return await self.linked()

    async def obey(self) -> None:
        """Do what comes on standard input, until its end."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        words = {"join": self.join, "linked": self.linked, "applied": self.applied, "stop": self.stop, "run": self.run}
        while line := (await reader.readline()).decode().split():
            sys.stdout.write(json.dumps(await words[line[0]](*line[1:])) + "\n")  # type: ignore[operator]
            sys.stdout.flush()
        with contextlib.suppress(FairleadError):
            await self.stop()


async def _main(task: Task) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Sourced)
    loop.sources = sources(task.sources)
    await Engines(task).obey()


def sources(network: str) -> Iterator[str]:
    """Addresses of a /16, one after another, for ever."""
    return (f"{network}.{n >> 8 & 255}.{n & 255}" for n in itertools.cycle(range(1, 65_000)))


if __name__ == "__main__":
    logs.start("engines", "error")
    descriptors.take_all()
    collect_seldom()
    with asyncio.Runner(loop_factory=Sourced) as runner:
        runner.run(_main(Task(**json.loads(Path(sys.argv[1]).read_text()))))
