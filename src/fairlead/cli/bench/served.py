"""What `fairlead bench api` found, and how it is shown. Pure.

A ratio is the median of the ratios of each round, as in `rows`.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlead.cli import output
from fairlead.cli.bench.rows import shown

SERVERS = ("fairlead", "framework", "nginx", "argon2")
"""Ours, and with whom it is compared."""
ASKED = {"list": "1,000 engines (public model)", "nodes": "1,000 nodes (our own list)", "version": "version",
         "status": "cluster status", "one": "one engine"}
LISTS = ("list", "nodes")
MANY = 8
"""Connections, or people who log in, at a time."""
RATES = {f"{what}_per_s": f"{title}, 1 connection" for what, title in ASKED.items()} | {
    f"{what}_per_s_{MANY}": f"{ASKED[what]}, {MANY} connections" for what in LISTS}
LOGINS = {"login_per_s": "log-ins, one at a time", f"login_per_s_{MANY}": f"log-ins, {MANY} at a time"}
BESIDE = {"bulk": "a bulk stream through the tunnel", "logins": f"{MANY} people who log in"}
ALONE = "one_p99_us"

Samples = Mapping[str, Mapping[str, Sequence[float]]]
"""Of each server, of each figure, one value a round, in the order of the rounds."""


@dataclass(frozen=True, slots=True)
class Served:
    """All of it."""

    samples: Samples
    missing: Mapping[str, str] = field(default_factory=dict)
    """Servers that could not be measured here, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How, and on what, it was measured."""

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return dict(self.settings) | {"missing": dict(self.missing),
                                      "rows": [self._row(name) for name in SERVERS if name in self.samples]}

    def ratio(self, figure: str, other: str, other_figure: str = "", name: str = "fairlead") -> float | None:
        """The median of the ratios in each round to the same, or another, figure of *other*; None: not measured."""
        mine = self.samples.get(name, {}).get(figure, ())
        theirs = self.samples.get(other, {}).get(other_figure or figure, ())
        ratios = [a / b for a, b in zip(mine, theirs, strict=False) if b]
        return statistics.median(ratios) if ratios and len(mine) == len(theirs) else None

    def show(self) -> None:
        """Tables for people."""
        columns = ["fairlead", "min", "max", "of framework", "of nginx", "p50 ms", "p99 ms"]
        output.table([{"requests/s": title} | dict(zip(columns, self._rate(figure), strict=True))
                      for figure, title in RATES.items()], ["requests/s", *columns], "")
        output.line("")
        columns = ["fairlead", "min", "max", "of argon2"]
        output.table([{"a second": title} | dict(zip(columns, [
            *self._spread(figure), shown(self.ratio(figure, "argon2"), 2)], strict=True))
            for figure, title in LOGINS.items()], ["a second", *columns], "")
        output.line("")
        columns = ["fairlead", "of alone", "nginx", "of alone ", "of nginx"]
        output.table([{"p99 ms of one engine beside": title} | dict(zip(columns, self._beside(load), strict=True))
                      for load, title in BESIDE.items()], ["p99 ms of one engine beside", *columns], "")
        output.line("")
        if (bulk := self._middle("fairlead", "bulk_mb_per_s")) is not None:
            output.line(f"the bulk stream meanwhile: {shown(bulk)} MB/s")
        for name, why in self.missing.items():
            output.line(f"{name}: not measured, {why}")

    def _rate(self, figure: str) -> list[str]:
        what = figure.partition("_")[0]
        times = [self._middle("fairlead", f"{what}_p{percent}_us") if figure.endswith("_per_s") else None
                 for percent in (50, 99)]
        return [*self._spread(figure), *(shown(self.ratio(figure, peer), 2) for peer in ("framework", "nginx")),
                *(_ms(one) for one in times)]

    def _beside(self, load: str) -> list[str]:
        figure = beside(load)
        return [_ms(self._middle("fairlead", figure)), shown(self.ratio(figure, "fairlead", ALONE), 2),
                _ms(self._middle("nginx", figure)), shown(self.ratio(figure, "nginx", ALONE, "nginx"), 2),
                shown(self.ratio(figure, "nginx"), 2)]

    def _spread(self, figure: str) -> list[str]:
        values = self.samples["fairlead"].get(figure, ())
        return [shown(of(values)) if values else "" for of in (statistics.median, min, max)]

    def _middle(self, name: str, figure: str) -> float | None:
        values = self.samples.get(name, {}).get(figure, ())
        return statistics.median(values) if values else None

    def _row(self, name: str) -> dict[str, Any]:
        mine = self.samples[name]
        row: dict[str, Any] = {"name": name} | {key: round(statistics.median(all_), 3) for key, all_ in mine.items()}
        row["spread"] = {key: [round(min(all_), 3), round(max(all_), 3)] for key, all_ in mine.items()}
        row["ratios"] = {key: found for key in mine if (found := {
            other: round(ratio, 4) for other in SERVERS
            if other != name and (ratio := self.ratio(key, other, name=name)) is not None})}
        row["of_alone"] = {load: round(ratio, 3) for load in BESIDE
                           if (ratio := self.ratio(beside(load), name, ALONE, name)) is not None}
        return row


def beside(load: str) -> str:
    """The figure of the small request beside that load."""
    return f"{ALONE}_beside_{load}"


def _ms(value_us: float | None) -> str:
    return shown(None if value_us is None else value_us / 1000)
