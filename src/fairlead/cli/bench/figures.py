"""What `fairlead bench failover` found, and how it is shown."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairlead.cli import output

UNTIL = {"another_leads": "another leads", "change_accepted": "a change is accepted",
         "bundle_exported": "a bundle is exported", "votes_again": "the dead one votes again"}
"""The fields of a round that are times, and what had come about then."""


@dataclass(frozen=True, slots=True)
class Round:
    """A leader was killed; seconds since then, but for the last."""

    another_leads: float
    change_accepted: float
    bundle_exported: float
    votes_again: float
    """Since it was started again."""
    fewest_links: int
    """To how many Controllers the engine had a link at the worst moment, as its log tells."""


@dataclass(frozen=True, slots=True)
class Idle:
    """What a Controller and its etcd use when nothing happens: percent of a core, private memory in MiB."""

    controller: str
    cpu_percent: float
    memory_mib: float
    etcd_cpu_percent: float
    etcd_memory_mib: float


@dataclass(frozen=True, slots=True)
class Failover:
    """All of it."""

    rounds: Sequence[Round]
    idle: Sequence[Idle]
    join_s: float
    """From the export of a Controller's bundle until that Controller votes."""
    vote_s: float
    """The part of it that came after `controller join` had ended."""

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {"rounds": len(self.rounds), "until_s": {name: self._spread(name) for name in UNTIL},
                "engine_fewest_links": self._fewest,
                "join_s": {"from_command": round(self.join_s, 2), "from_joined": round(self.vote_s, 2)},
                "idle": [{name: round(value, 1) if isinstance(value, float) else value
                          for name, value in asdict(one).items()} for one in self.idle]}

    def show(self) -> None:
        """Tables for people."""
        output.table([{"leader_killed,_until": what} | {k: f"{v:.2f} s" for k, v in self._spread(name).items()}
                      for name, what in UNTIL.items()], ("leader_killed,_until", "median", "min", "max"), "")
        output.line("")
        output.table([{"idle": one.controller, "cpu": f"{one.cpu_percent:.1f} %", "memory": f"{one.memory_mib:.1f} MiB",
                       "etcd's_cpu": f"{one.etcd_cpu_percent:.1f} %",
                       "etcd's_memory": f"{one.etcd_memory_mib:.1f} MiB"} for one in self.idle],
                     ("idle", "cpu", "memory", "etcd's_cpu", "etcd's_memory"), "")
        output.line("")
        output.line(f"of {len(self.rounds)} rounds; at their worst moment the engine had a link to {self._fewest} of 3 "
                    "Controllers")
        output.line(f"a new Controller votes {self.join_s:.2f} s after its bundle was asked for, {self.vote_s:.2f} s "
                    "after it had joined")

    def _spread(self, name: str) -> dict[str, float]:
        times = [getattr(one, name) for one in self.rounds]
        return {"median": round(statistics.median(times), 2), "min": round(min(times), 2), "max": round(max(times), 2)}

    @property
    def _fewest(self) -> int:
        return min(one.fewest_links for one in self.rounds)
