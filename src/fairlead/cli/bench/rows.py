"""What `fairlead bench tunnel` found, and how it is shown. Pure.

A ratio is the median of the ratios of each round, not the ratio of two medians: what slows the machine down for a round
slows both rows down.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlead.cli import output
from fairlead.cli.bench.plot import Bar, svg

ROWS = ("raw", "relay", "ssh-default", "ssh-best", "stunnel", "nginx", "fairlead-stock", "fairlead")
"""In the order in which they are shown."""
RATIOS = {"ratio_to_ssh_default": "ssh-default", "ratio_to_ssh_best": "ssh-best", "ratio_to_relay": "relay",
          "ratio_to_raw": "raw"}
MAIN, CPU = "mb_per_s", "cpu_s_per_gb"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured in each round."""

    title: str
    """For people: what, and its unit."""
    digits: int | None = None
    """After the point; None: three that count."""


FIGURES = {
    MAIN: Figure("1 stream MB/s"), CPU: Figure("CPU s/GB", 2),
    "mb_per_s_4": Figure("4 streams MB/s"), "mb_per_s_16": Figure("16 streams MB/s"),
    "mb_per_s_back": Figure("server to client MB/s"),
    "ping_p50_us": Figure("ping p50 us"), "ping_p99_us": Figure("p99 us"),
    "beside_p50_us": Figure("beside bulk p50 us"), "beside_p99_us": Figure("p99 us"),
    "beside_mb_per_s": Figure("bulk then MB/s"),
    "connects_per_s_1": Figure("connections/s"), "connects_per_s_16": Figure("16 at a time"),
    "connects_failed": Figure("failed", 0), "grown_mib": Figure("grown MiB", 1)}
TABLES = (("mb_per_s_4", "mb_per_s_16", "mb_per_s_back"),
          ("ping_p50_us", "ping_p99_us", "beside_p50_us", "beside_p99_us", "beside_mb_per_s"),
          ("connects_per_s_1", "connects_per_s_16", "connects_failed", "grown_mib"))
"""What is shown below the main table, if it was measured."""

Samples = Mapping[str, Mapping[str, Sequence[float]]]
"""Of each row, of each figure, one value a round, in the order of the rounds."""


@dataclass(frozen=True, slots=True)
class Found:
    """All of it."""

    samples: Samples
    missing: Mapping[str, str]
    """Rows that could not be measured here, and why."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else there is to say of a row."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How, and on what, it was measured."""

    def rows(self) -> list[dict[str, Any]]:
        """An object for each row that was measured."""
        return [self._row(name) for name in ROWS if name in self.samples]

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return dict(self.settings) | {"missing": dict(self.missing), "rows": self.rows()}

    def picture(self) -> str:
        """The one stream, as SVG."""
        return svg("One stream from client to server, MB/s: median, and from the least to the most of the rounds", [
            Bar(row["name"], row[MAIN], row["min"], row["max"], row["name"].startswith("fairlead"))
            for row in self.rows()])

    def show(self) -> None:
        """Tables for people."""
        columns = [FIGURES[MAIN].title, "min", "max", *(f"of {name}" for name in RATIOS.values()), FIGURES[CPU].title]
        made = []
        for row in self.rows():
            values = [shown(row[MAIN]), shown(row["min"]), shown(row["max"]), *(shown(row[r], 2) for r in RATIOS),
                      shown(row[CPU], FIGURES[CPU].digits)]
            made.append({"tunnel": row["name"]} | dict(zip(columns, values, strict=True)))
        output.table(made, ["tunnel", *columns], "nothing was measured")
        for names in TABLES:
            self._show_more([name for name in names if any(name in one for one in self.samples.values())])
        output.line("")
        for name, note in self.notes.items():
            output.line(f"{name}: {note}")
        for name, why in self.missing.items():
            output.line(f"{name}: not measured, {why}")

    def _show_more(self, names: Sequence[str]) -> None:
        if not names:
            return
        titles = dict.fromkeys(names, "")
        for name in names:
            title = FIGURES[name].title
            titles[name] = title if title not in titles.values() else f"{title} "  # a column of its own
        output.line("")
        output.table([{"tunnel": row["name"]} | {titles[name]: shown(row.get(name), FIGURES[name].digits)
                                                 for name in names} for row in self.rows()],
                     ["tunnel", *titles.values()], "")

    def _row(self, name: str) -> dict[str, Any]:
        mine = self.samples[name]
        main = mine[MAIN]
        row: dict[str, Any] = {"name": name, MAIN: statistics.median(main), "min": min(main), "max": max(main)}
        row |= {key: self.ratio(name, other) for key, other in RATIOS.items()}
        row[CPU] = None  # raw has no processes of its own
        row |= {key: statistics.median(values) for key, values in mine.items() if key != MAIN}
        row["ratios"] = self._ratios(name)
        if name in self.notes:
            row["note"] = self.notes[name]
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}

    def _ratios(self, name: str) -> dict[str, dict[str, float]]:
        """Of each figure that was measured in each round, to each of the rows that others are compared with."""
        rounds = len(self.samples[name][MAIN])
        found: dict[str, dict[str, float]] = {}
        for figure in (key for key, values in self.samples[name].items() if len(values) == rounds):
            for other in RATIOS.values():
                if figure in self.samples.get(other, {}) and (ratio := self.ratio(name, other, figure)) is not None:
                    found.setdefault(figure, {})[other] = round(ratio, 3)
        return found

    def ratio(self, name: str, other: str, figure: str = MAIN) -> float | None:
        """The median of the ratios in each round; None where the other row was not measured."""
        if other not in self.samples:
            return None
        both = zip(self.samples[name][figure], self.samples[other][figure], strict=True)
        ratios = [mine / theirs for mine, theirs in both if theirs]
        return statistics.median(ratios) if ratios else None


def rotated(rows: Sequence[str], number: int) -> list[str]:
    """The order of round *number* (from 0): each row comes first in turn, so none always follows the same heat."""
    first = number % len(rows) if rows else 0
    return [*rows[first:], *rows[:first]]


def shown(value: float | None, digits: int | None = None) -> str:
    """A figure in a table; nothing for none."""
    if value is None:
        return ""
    if digits is None:
        digits = 0 if value >= 100 or value == 0 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"
