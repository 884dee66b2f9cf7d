"""What the measurements are to show: each figure beside what it has to hold and what it is to reach. Pure.

Of ratios it is the median of the ratios of each round. A figure that could not be measured holds nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.cli import output

RTT_MS = 70.0
"""Of the links."""
BULK_KEPT = 0.8
"""How much of its rate alone a bulk stream has to keep, for the delay beside it to count."""

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure, and what it was to be."""

    what: str
    found: float | None
    hold: float
    reach: float
    fewer: bool = False
    """Whether less is better."""
    unit: str = ""

    @property
    def verdict(self) -> str:
        """``reached``, ``holds``, ``MISSED``, or ``not measured``."""
        if self.found is None:
            return "not measured"
        if self._good(self.reach):
            return "reached"
        return "holds" if self._good(self.hold) else "MISSED"

    def _good(self, bound: float) -> bool:
        assert self.found is not None
        return self.found <= bound if self.fewer else self.found >= bound

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {"what": self.what, "found": self.found, "hold": self.hold, "reach": self.reach, "unit": self.unit,
                "fewer_is_better": self.fewer, "verdict": self.verdict}


def judged(found: Mapping[str, Any]) -> list[Judged]:
    """All figures, of what the commands print with ``--json``: tunnel, links, handshake, failover, idle."""
    tunnel = _rows(found["tunnel"])
    links = {link["link"]: _rows(link) for link in found["links"]["links"]}
    beside = _ratio(tunnel, "beside_p99_us", "ssh-best")
    alone, with_pings = (tunnel["fairlead"].get(name) for name in ("mb_per_s", "beside_mb_per_s"))
    if beside is not None and (not alone or not with_pings or with_pings < BULK_KEPT * alone):
        beside = float("inf")
    return [
        Judged("one stream, of ssh -L as installed", _ratio(tunnel, "mb_per_s", "ssh-default"), 2.0, 3.0),
        Judged("one stream, of ssh -L's best cipher", _ratio(tunnel, "mb_per_s", "ssh-best"), 1.0, 1.3),
        Judged("one stream, of a relay without encryption", _ratio(tunnel, "mb_per_s", "relay"), 0.65, 0.95),
        *(Judged(f"{n} streams, of ssh -L's best cipher", _ratio(tunnel, f"mb_per_s_{n}", "ssh-best"), 1.0, 1.3)
          for n in (4, 16)),
        Judged("64-byte round trip p50, of ssh -L", _ratio(tunnel, "ping_p50_us", "ssh-default"), 1.5, 1.0, fewer=True),
        Judged("the same beside bulk, p99, of ssh -L's best cipher", beside, 1.2, 0.7, fewer=True),
        Judged("new connections, 16 at a time, of ssh -L", _ratio(tunnel, "connects_per_s_16", "ssh-default"),
               0.7, 1.0),
        Judged("new connections, one at a time, of ssh -L", _ratio(tunnel, "connects_per_s_1", "ssh-default"),
               0.6, 1.0),
        *_link("70 ms", links, 0.85, 0.97, 30.0, 10.0),
        *_link("70 ms, 10 Mbit/s", links, 0.9, 0.95, 150.0, 50.0),
        Judged("memory grown by a slow reader", tunnel["fairlead"].get("grown_mib"), 16.0, 4.0, fewer=True, unit="MiB"),
        Judged("1000 SSH clients within a second, all in after", _storm(found["handshake"]), 4.0, 2.0, fewer=True,
               unit="s"),
        Judged("an idle engine at the Controller", found["idle"]["per_engine_kib"], 64.0, 36.0, fewer=True, unit="KiB"),
        Judged("leader killed, until a write is accepted", found["failover"]["until_s"]["change_accepted"]["median"],
               3.0, 1.0, fewer=True, unit="s"),
    ]


def _link(name: str, links: Mapping[str, Rows], hold: float, reach: float, hold_ms: float, reach_ms: float,
          ) -> Sequence[Judged]:
    rows = links[name]
    p50 = rows["fairlead"].get("beside_p50_us")
    return (Judged(f"{name}: one stream, of plain TCP", _ratio(rows, "mb_per_s", "raw"), hold, reach),
            Judged(f"{name}: ping p50 beside it, beyond the round trip", None if p50 is None else p50 / 1000 - RTT_MS,
                   hold_ms, reach_ms, fewer=True, unit="ms"))


def show(figures: Sequence[Judged]) -> None:
    """A table for people."""
    output.table([{"figure": one.what, "found": _shown(one.found, one.unit), "hold": _shown(one.hold, one.unit),
                   "reach": _shown(one.reach, one.unit), "": one.verdict} for one in figures],
                 ["figure", "found", "hold", "reach", ""], "")


def _shown(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f} {unit}".strip()


def _rows(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in found["rows"]}


def _ratio(rows: Rows, figure: str, other: str) -> float | None:
    ratios: Mapping[str, Mapping[str, float]] = rows["fairlead"]["ratios"]
    return ratios.get(figure, {}).get(other)


def _storm(found: Mapping[str, Any]) -> float | None:
    storm = _rows(found)["fairlead"].get("storm")
    return storm["all_in_s"] if storm and not storm["never_in"] else None
