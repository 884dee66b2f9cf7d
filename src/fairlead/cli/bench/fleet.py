"""A fleet at one Controller: real engines, many to a process (`engines`), at a real Controller's daemon.

What is measured, in this order. *Storm*: all join at once, the whole exchange on the portal, the commit over SSH and
the link; from the first step of the first to the link of the last. *Document*: put at once for all; for each engine
the time from the request's beginning until it has applied it and is about to say so, and, at the Controller, until it
has heard so of all; its CPU for that. *Staged*: the same by stages, until it is done. *Return*: the Controller ends and
starts again; from its start until all are linked again. *Idle*: the Controller started anew with half of the engines,
then with all: the slope of its private memory is an engine's weight; its CPU with all over half a minute; the longest
stall of its event loop in a whole one. The state folders of the engines are in memory, so that the simulator's disk,
which a fleet has as many times as it has engines, decides nothing; the Controller's is on the disk. Everything shares
the machine. Nothing of this may change, or later figures do not compare with earlier ones.
"""

import itertools
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import tomli_w

from fairlead.base import configuration
from fairlead.base.clock import SECOND, from_rfc3339
from fairlead.cli.bench.engines import Task
from fairlead.cli.bench.usage import cpu_s, memory_mib, resident_mib
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed
from fairlead.cli.stage.stage import Stage
from fairlead.client.control import ControlClient
from fairlead.link.documents import check, digest

HEARTBEAT_S, KEEPALIVE_S = 30.0, 30.0
EXPORTS = 8
"""Bundles at a time, before anything is measured."""
ANSWER_S = 900.0
DOCUMENT_S = 120.0
SETTLE_S = 5.0
IDLE_S = 30.0
STOP_S = 60.0
"""A Controller of ten thousand has as much memory to give back."""
STALL_S = 62.0
"""So long after it has settled a stall is read: the Controller remembers a minute."""
STALL = "fairlead_loop_stall_seconds"
PROGRAM = [sys.executable, "-m", "fairlead.cli.bench.engines"]


@dataclass(slots=True)
class Group:
    """A process of engines."""

    process: "subprocess.Popen[str]"

    def say(self, *words: str) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Its answer. Raises Failed when none comes."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise Failed("a process of engines does not answer")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass(slots=True)
class Bench:
    """The Controller, its engines, and what was measured."""

    stage: Stage
    engines: int
    processes: int
    say: Callable[[str], None]
    groups: list[Group] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    _memory: tempfile.TemporaryDirectory[str] | None = None

    def measure(self) -> dict[str, Any]:
        """Everything, in order. Raises Failed."""
        self._begin()
        self.say(f"{self.engines} engines join")
        self._storm()
        self.say("a document is put")
        self._document()
        self.say("the Controller is started again")
        self._return()
        self.say("the fleet is idle")
        self._idle()
        return self.found

    def rotate(self, kinds: Sequence[str]) -> dict[str, Any]:
        """In place of all but the storm: rotations with all engines linked, one after the other. Raises Failed.

        Of each the seconds from the request to its end and to the end of each phase, and the Controller's CPU.
        """
        self._begin()
        self.say(f"{self.engines} engines join")
        self._storm()
        time.sleep(SETTLE_S)
        self.found["rotations"] = []
        for kind in kinds:
            self.say(f"{kind} rotate")
            self.found["rotations"].append(self._rotated(kind))
            time.sleep(SETTLE_S)
        return self.found

    def _rotated(self, kind: str) -> dict[str, Any]:
        before, began = cpu_s(self._pid()), time.monotonic()
        begun = self._api().post("/api/rotation", {"kind": kind, "patience_s": int(DOCUMENT_S)})

        def over() -> dict[str, Any] | None:
            return next((one for one in self._api().get("/api/rotation")["past"] if one["id"] == begun["id"]), None)

        found = until(f"the rotation of {kind} is over", over, ANSWER_S)
        took, used = time.monotonic() - began, cpu_s(self._pid()) - before
        assert found is not None
        at = [(step["phase"], from_rfc3339(step["at"])) for step in found["steps"]]
        phases = {phase: round((after - since) / SECOND, 2) for (phase, since), (_, after) in itertools.pairwise(at)}
        return {"kind": kind, "outcome": found["outcome"], "seconds": round(took, 2), "phases_s": phases,
                "controller_cpu_s": round(used, 2), "linked": sum(a["linked"] for a in self._all("linked"))}

    def close(self) -> None:
        """End everything that was started."""
        for group in self.groups:
            assert group.process.stdin is not None
            group.process.stdin.close()
        for group in self.groups:
            try:
                group.process.wait(20)
            except subprocess.TimeoutExpired:
                group.process.kill()
                group.process.wait()
        self.stage.close()
        if self._memory is not None:
            self._memory.cleanup()

    # -- what is measured ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.stage.init("ctl-1")
        settings = self.stage.node("ctl-1").state / configuration.FILE
        settings.write_text(tomli_w.dumps(tomllib.loads(settings.read_text()) | {
            "heartbeat_s": HEARTBEAT_S, "keepalive_s": KEEPALIVE_S}))
        self.stage.run("ctl-1", "controller")
        self.found = {"engines": self.engines, "processes": self.processes, "cores": os.cpu_count(),
                      "load_average_before": round(os.getloadavg()[0], 1), "rss_empty_mib": round(self._resident(), 1)}
        self.say(f"{self.engines} bundles are exported")
        with ThreadPoolExecutor(EXPORTS) as pool:
            made = list(pool.map(lambda _: json.dumps(self._api().post("/api/bundle", {"role": "engine"})),
                                 range(self.engines)))
        memory = Path("/dev/shm")  # noqa: S108 - a folder of ours is made in it
        self._memory = tempfile.TemporaryDirectory(prefix="fairlead-fleet-", dir=memory if memory.is_dir() else None)
        for part in range(self.processes):
            first, last = (self.engines * n // self.processes for n in (part, part + 1))
            if first < last:
                self.groups.append(self._group(part, first, made[first:last]))

    def _group(self, part: int, first: int, made: list[str]) -> Group:
        assert self._memory is not None
        folder = Path(self._memory.name, str(part))
        folder.mkdir(mode=0o700)
        file = folder / "bundles"
        file.touch(mode=0o600)
        file.write_text("".join(f"{bundle}\n" for bundle in made))
        sources = ".".join(next(self.stage.views).split(".")[:2])
        task = Task(str(folder), str(file), first, sources, KEEPALIVE_S).save(folder / "task.json")
        log: IO[bytes] = (self.stage.folder / f"engines-{part}.log").open("wb")
        with log:
            return Group(subprocess.Popen([*PROGRAM, str(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                          stderr=log, text=True))

    def _storm(self) -> None:
        before = cpu_s(self._pid())
        answers = self._all("join")
        joined, lost = (sum(answer[name] for answer in answers) for name in ("joined", "lost"))
        seconds = max(a["at"] for a in answers) - min(a["began"] for a in answers)
        codes = {code: count for a in answers for code, count in a["codes"].items()}
        self.found |= {
            "joined": joined, "lost": lost, "lost_codes": codes, "seconds": round(seconds, 2),
            "joins_per_s": round(joined / seconds, 1), "linked": sum(a["linked"] for a in answers),
            "storm_controller_cpu_s": round(cpu_s(self._pid()) - before, 2)}

    def _document(self) -> None:
        time.sleep(SETTLE_S)
        before = cpu_s(self._pid())
        self.found |= {f"config_{name}": value for name, value in self._put("page", at_once=True).items()}
        self.found["config_controller_cpu_s"] = round(cpu_s(self._pid()) - before, 2)
        staged = self._put("staged", at_once=False)
        self.found |= {"staged_done_s": staged["all_s"], "staged_p99_ms": staged["p99_ms"]}

    def _put(self, name: str, *, at_once: bool) -> dict[str, Any]:
        body = {"files": [{"path": name, "content": "x" * 1024}]}
        wanted = digest(check("files", body))
        began = time.monotonic()
        self._api().put(f"/api/config/files/{name}", {"target": "engines", "body": body, "at_once": at_once})

        def heard() -> float:
            found = next(one for one in self._api().get("/api/config")["results"] if one["name"] == name)
            return time.monotonic() if found["applied"] == self.found["joined"] and found["stage"] == "done" else 0.0

        all_s = until("all engines have the document", heard, DOCUMENT_S) - began
        took = sorted(at - began for answer in self._all("applied", wanted, "5") for at in answer["times"])
        return {"p50_ms": round(statistics.median(took) * 1000, 1), "all_s": round(all_s, 2), "count": len(took),
                "p99_ms": round(took[max(0, math.ceil(len(took) * 0.99) - 1)] * 1000, 1)}

    def _return(self) -> None:
        self._restart()
        began = time.monotonic()
        self.stage.run("ctl-1", "controller")
        answers = self._all("linked")
        self.found |= {"return_s": round(max(a["at"] for a in answers) - began, 2),
                       "returned": sum(a["linked"] for a in answers)}

    def _idle(self) -> None:
        away = self.groups[len(self.groups) // 2:] if len(self.groups) > 1 else []
        self._of(away, "stop")
        self._restart()
        self.stage.run("ctl-1", "controller")
        near = sum(a["linked"] for a in self._of([g for g in self.groups if g not in away], "linked"))
        time.sleep(SETTLE_S)
        some = memory_mib(self._pid())
        every = near + sum(a["linked"] for a in self._of(away, "run"))
        time.sleep(SETTLE_S)
        before, began = cpu_s(self._pid()), time.monotonic()
        time.sleep(IDLE_S)
        idle = (cpu_s(self._pid()) - before) / (time.monotonic() - began)
        time.sleep(max(0.0, STALL_S - (time.monotonic() - began)))
        slope = (memory_mib(self._pid()) - some) * 1024 / (every - near) if every > near else None
        self.found |= {"rss_mib": round(self._resident(), 1), "idle_cpu": round(idle, 4),
                       "kib_per_engine": None if slope is None else round(slope, 1), "idle_engines": every,
                       "idle_stall_ms": round(self._stall_s() * 1000, 1)}

    # -- by which -----------------------------------------------------------------------------------------------------

    def _all(self, *words: str) -> list[dict[str, Any]]:
        return self._of(self.groups, *words)

    def _of(self, groups: list[Group], *words: str) -> list[dict[str, Any]]:
        for group in groups:
            group.say(*words)
        return [group.hear() for group in groups]

    def _restart(self) -> None:
        code, _ = self.stage.stop("ctl-1", STOP_S)
        if code:
            raise Failed(f"ctl-1 ended with exit code {code}")

    def _api(self) -> ControlClient:
        return ControlClient(self.stage.node("ctl-1").state, 60.0)

    def _stall_s(self) -> float:
        text: str = self._api().get("/metrics")
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{STALL} "))

    def _pid(self) -> int:
        started = self.stage.node("ctl-1").started
        if started is None:
            raise Failed("ctl-1 does not run")
        return started.pid

    def _resident(self) -> float:
        return resident_mib(self._pid())
