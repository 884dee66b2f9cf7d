"""What `make bench` makes of its measurements: a verdict for each figure, and none for what was not measured."""

import json
from typing import Any

import pytest

from fairlead.cli.bench import goals


def found() -> dict[str, Any]:
    """As the commands print it."""
    ratios = {"mb_per_s": {"ssh-default": 2.5, "ssh-best": 1.2, "relay": 0.6},
              "mb_per_s_4": {"ssh-best": 1.3}, "mb_per_s_16": {"ssh-best": 0.9},
              "ping_p50_us": {"ssh-default": 1.5}, "beside_p99_us": {"ssh-best": 0.5},
              "connects_per_s_1": {"ssh-default": 1.1}}
    far = {"name": "fairlead", "beside_p50_us": 81_000.0, "ratios": {"mb_per_s": {"raw": 0.96}}}
    return {
        "tunnel": {"rows": [{"name": "fairlead", "mb_per_s": 1000.0, "beside_mb_per_s": 800.0, "grown_mib": 5.0,
                             "ratios": ratios}]},
        "links": {"links": [{"link": "70 ms", "rows": [far]}, {"link": "70 ms, 10 Mbit/s", "rows": [far]}]},
        "handshake": {"rows": [{"name": "fairlead", "storm": {"all_in_s": 1.5, "never_in": 0}}]},
        "idle": {"per_engine_kib": 64.1},
        "failover": {"until_s": {"change_accepted": {"median": 1.5}}}}


def verdicts(of: dict[str, Any]) -> list[str]:
    return [one.verdict for one in goals.judged(of)]


def test_each_figure_has_the_verdict_of_its_bounds() -> None:
    assert verdicts(found()) == [
        "holds", "holds", "MISSED", "reached", "MISSED", "holds", "reached", "not measured", "reached",
        "holds", "holds", "reached", "reached", "holds", "reached", "MISSED", "holds"]
    assert json.loads(json.dumps([one.as_json() for one in goals.judged(found())]))[0] == {
        "what": "one stream, of ssh -L as installed", "found": 2.5, "hold": 2.0, "reach": 3.0, "unit": "",
        "fewer_is_better": False, "verdict": "holds"}


def test_a_delay_beside_a_bulk_stream_that_was_starved_does_not_count() -> None:
    starved = found()
    starved["tunnel"]["rows"][0]["beside_mb_per_s"] = 799.0
    assert verdicts(starved)[6] == "MISSED"


def test_a_storm_that_somebody_did_not_survive_does_not_count() -> None:
    lost = found()
    lost["handshake"]["rows"][0]["storm"]["never_in"] = 1
    assert verdicts(lost)[14] == "not measured"


def test_people_see_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    goals.show(goals.judged(found()))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "FIGURE FOUND HOLD REACH"
    assert lines[-2] == "an idle engine at the Controller 64.10 KiB 64.00 KiB 36.00 KiB MISSED"
