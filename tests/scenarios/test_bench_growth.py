"""What a fleet costs over its size: the script finds the law that the figures follow, and draws it."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

SCRIPT = Path(__file__).parents[2] / "bench" / "growth.py"


def run(engines: int) -> dict[str, float | None]:
    """Joining costs as many times as there are engines, memory its root, idling the square; one was not measured."""
    return {"engines": engines, "storm_controller_cpu_s": 0.02 * engines, "seconds": 0.03 * engines, "return_s": None,
            "config_p99_ms": 7.0, "rss_mib": 60 + engines ** 0.5, "rss_empty_mib": 60, "idle_cpu": engines ** 2 / 1e9,
            "idle_stall_ms": 0.0}


def test_it_finds_the_exponents_and_draws_them(tmp_path: Path) -> None:
    out, plot = tmp_path / "runs.json", tmp_path / "growth.svg"
    out.write_text(json.dumps([run(engines) for engines in (1, 100, 1000, 10_000)]))
    said = subprocess.run([sys.executable, str(SCRIPT), "--out", str(out), "--plot", str(plot)], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    rows = {first: cells for first, *cells in table}
    assert rows["figure"] == ["1", "100", "1,000", "10,000", "exponent"]
    assert rows["joining, CPU s"] == ["0.02", "2", "20", "200", "1.00"]
    assert rows["memory, MiB"][-1] == "0.50"
    assert rows["idle CPU, cores"][-1] == "2.00"
    assert rows["document p99, ms"][-1] == "0.00"
    assert rows["coming back, s"] == [""] * 5
    assert rows["idle stall, ms"] == ["0"] * 4 + [""], "nothing has no logarithm"
    picture = ET.fromstring(plot.read_text())
    assert len(picture.findall("{http://www.w3.org/2000/svg}circle")) == 3 * 3, "one engine is too few to count"
    assert "exponent 2.00" in plot.read_text()
