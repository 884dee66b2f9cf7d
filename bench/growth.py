"""How what a fleet costs its Controller grows with the number of engines: a table, exponents, and a plot.

    .venv/bin/python bench/growth.py --engines 1 100 1000 5000 --out growth.json     measures, adds to the file
    .venv/bin/python bench/growth.py --out growth.json --plot bench/growth.svg       shows what is in it

Each number is one run of `fairlead bench fleet`, which says what is measured, one after another on a machine that
should do nothing else. The exponent is the slope of a straight line through the logarithms (least squares), from 100
engines on: 1 means that an engine costs the same however many there are. What a Controller needs without engines is
taken off its memory.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

FIGURES = {"storm_controller_cpu_s": "joining, CPU s", "seconds": "joining, s", "return_s": "coming back, s",
           "config_p99_ms": "document p99, ms", "memory_mib": "memory, MiB", "idle_cpu": "idle CPU, cores",
           "idle_stall_ms": "idle stall, ms"}
PLOTTED = ("storm_controller_cpu_s", "memory_mib", "idle_cpu")
COLOURS = ("#0b6e4f", "#c1121f", "#1d4e89")
LEAST = 100
"""Fewer engines are in the table, and in no exponent: what does not depend on them weighs more there."""
WIDTH, HEIGHT, EDGE = 720, 420, 60


def measured(engines: int) -> dict[str, Any]:
    """One run."""
    command = [str(Path(sys.executable).with_name("fairlead")), "bench", "fleet", "--json", "--engines", str(engines),
               "--processes", str(min(engines, max(2, engines // 1250)))]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def of(run: dict[str, Any], figure: str) -> float | None:
    """A figure of a run; None: it was not measured."""
    if figure == "memory_mib":
        return float(run["rss_mib"]) - float(run["rss_empty_mib"])
    value = run.get(figure)
    return None if value is None else float(value)


def points(runs: list[dict[str, Any]], figure: str) -> list[tuple[float, float]]:
    """Engines and the figure, where it can have a logarithm."""
    found = ((float(run["engines"]), of(run, figure)) for run in runs)
    return [(engines, value) for engines, value in found if value is not None and value > 0]


def exponent(found: list[tuple[float, float]]) -> float | None:
    """The slope through the logarithms; None for fewer than two points."""
    logs = [(math.log(x), math.log(y)) for x, y in found if x >= LEAST]
    if len(logs) < 2:
        return None
    mean_x, mean_y = (sum(axis) / len(logs) for axis in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def table(runs: list[dict[str, Any]]) -> str:
    """A table in Markdown: a row for each figure."""
    rows = [["figure", *(f"{run['engines']:,}" for run in runs), "exponent"], ["---"] * (len(runs) + 2)]
    for figure, text in FIGURES.items():
        values = [of(run, figure) for run in runs]
        slope = exponent(points(runs, figure))
        rows.append([text, *("" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
                             for value in values), "" if slope is None else f"{slope:.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(runs: list[dict[str, Any]]) -> str:
    """An SVG, both axes logarithmic; each figure as a multiple of what it was with the fewest engines that count."""
    lines = []
    for figure in PLOTTED:
        found = [point for point in points(runs, figure) if point[0] >= LEAST]
        lines.append([(x, y / found[0][1]) for x, y in found])
    high = max(max(max(y, x / line[0][0]) for x, y in line) for line in lines)
    first, last = (bound(x for line in lines for x, _ in line) for bound in (min, max))

    def at(x: float, y: float) -> str:
        return (f"{EDGE + (WIDTH - 2 * EDGE) * math.log(x / first) / math.log(last / first):.1f},"
                f"{HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * math.log(max(y, 0.5) / 0.5) / math.log(high / 0.5):.1f}")

    parts = [(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             'font-size="12">'), f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
             (f'<polyline fill="none" stroke="#999" stroke-dasharray="4" points="{at(first, 1)} '
             f'{at(last, last / first)}"/>')]
    for number, (figure, line, colour) in enumerate(zip(PLOTTED, lines, COLOURS, strict=True)):
        slope = exponent(points(runs, figure))
        parts += [(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                  f'{" ".join(at(x, y) for x, y in line)}"/>'),
                  *(f'<circle r="3" fill="{colour}" cx="{at(x, y).split(",")[0]}" cy="{at(x, y).split(",")[1]}"/>'
                    for x, y in line),
                  (f'<text x="{EDGE + 10}" y="{EDGE - 30 + 16 * number}" fill="{colour}">{FIGURES[figure]}: exponent '
                  f'{slope:.2f}</text>')]
    for x, _ in lines[0]:
        left = at(x, 1).split(",")[0]
        parts.append(f'<text x="{left}" y="{HEIGHT - EDGE + 20}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">engines; multiples of the first, '
                 'dashed: as many times as engines</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="*", default=[], help="numbers to measure, one run each")
    parser.add_argument("--out", type=Path, required=True, help="the runs, JSON")
    parser.add_argument("--plot", type=Path, help="where to put the plot, SVG")
    given = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.exists() else []
    for engines in given.engines:
        runs = sorted([*(run for run in runs if run["engines"] != engines), measured(engines)],
                      key=lambda run: int(run["engines"]))
        given.out.write_text(json.dumps(runs, indent=1) + "\n")
    print(table(runs))
    if given.plot:
        given.plot.write_text(plot(runs))


if __name__ == "__main__":
    main()
