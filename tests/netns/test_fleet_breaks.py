"""A document that breaks half of a fleet, each engine in a way of its own; 70 ms away, a packet in a hundred lost.

Of six engines every second one cannot live with it: one's check says so, one's reload fails, one's check hangs. A
seventh is cut off meanwhile, and comes back to what others have stopped.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns.controllers import Town, cluster
from tests.netns.fleet import applied, declare, far, has, put, status
from tests.processes import until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]
GOOD, BROKEN, AWAY = ("se-1", "se-3", "se-5"), ("se-2", "se-4", "se-6"), "se-7"
ENGINES = (*GOOD, *BROKEN, AWAY)
BREAKS = "grep -q break page"
WAYS = {"se-2": {"check": f"if {BREAKS}; then echo 'se-2 has no such module' >&2; exit 3; fi"},
        "se-4": {"reload": f"if {BREAKS}; then echo 'se-4 would not start' >&2; exit 1; fi"},
        "se-6": {"check": f"while {BREAKS}; do sleep 0.1; done"}}
WORDS = {"se-2": "se-2 has no such module", "se-4": "se-4 would not start", "se-6": "did not end within"}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with cluster(tmp_path_factory.mktemp("cluster"), controllers=3, engines=7) as made:
        far(made, ENGINES)
        for name in ENGINES:
            declare(made[name], **WAYS.get(name, {}))
        yield made


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["engine"]: row for row in found["rows"]}


def answered(town: Town, revision: int) -> dict[str, dict[str, Any]]:
    """What each engine said, once the one whose check hangs has said it, too, if it was asked."""
    def settled() -> dict[str, dict[str, Any]]:
        found = rows(status(town["ctl-2"]))
        hangs = has(town["se-6"]).startswith("break")
        return {} if hangs or any(row["verdict"] == "applied" and applied(town[name])[-1:] != [revision]
                                  for name, row in found.items()) else found
    return until(settled, "nobody is in the middle of it")


@pytest.mark.parametrize("at_once", [False, True], ids=["by-stages", "at-once"])
def test_what_breaks_on_half_of_them_is_halted_named_and_mended(town: Town, at_once: bool) -> None:
    good = f"good {at_once}"
    before = put(town["ctl-1"], good, at_once=True)
    until(lambda: status(town["ctl-2"])["applied"] == len(ENGINES), "1. all have one that is good")
    town.net.cut(AWAY)
    until(lambda: all(town[c].node(AWAY)["state"] == "down" for c in ("ctl-1", "ctl-2", "ctl-3")), "one is cut off")

    bad = put(town["ctl-3"], f"break {at_once}", at_once=at_once)
    found = until(lambda: (now := status(town["ctl-2"]))["stage"] == "halted" and now, "2. it is halted")
    why = re.fullmatch(r"(\d) of (\d) failed; (se-\d) refused it: (.*)", found["why"])
    assert why, found["why"]
    assert why[3] in BROKEN
    assert WORDS[why[3]] in why[4], "it is said who refused it, and in which words of his"
    assert int(why[1]) * 10 > int(why[2])
    said = answered(town, bad)
    shown = town["ctl-1"].cli("config", "status", "files", "page")
    assert shown.code == 1
    for name in BROKEN:
        assert (has(town[name]), said[name]["running"]) == (good, before), f"3. {name} keeps what it had"
        assert bad not in applied(town[name])
        if said[name]["verdict"] == "refused":
            assert (said[name]["code"], WORDS[name] in said[name]["words"]) == ("FL-DRIVER-PROGRAM", True)
            assert WORDS[name] in shown.out, shown.out
        else:
            assert said[name]["verdict"] == "behind", "it was halted before it came here"
    assert any(said[name]["verdict"] == "refused" for name in BROKEN)
    for name in GOOD:
        running = said[name]["running"]
        assert (has(town[name]), running) in ((good, before), (f"break {at_once}", bad))
    if not at_once:
        assert said["se-1"]["running"] == bad, "the first has it"
    first = [r for c in ("ctl-1", "ctl-2", "ctl-3") for r in town[c].events("alarm") if r["about"] == "files/page"]
    assert first[-1]["code"] == "FL-DOCUMENT-HALTED"
    assert not any(words in record["reason"] for record in first for words in WORDS.values()), "a driver may quote it"

    town.net.heal(AWAY)
    until(lambda: all(town[c].node(AWAY)["state"] == "up" for c in ("ctl-1", "ctl-2", "ctl-3")), "it is back")
    mended = put(town["ctl-1"], f"mended {at_once}", at_once=at_once)
    until(lambda: (now := status(town["ctl-3"]))["stage"] == "done" and now["applied"] == len(ENGINES),
          "4. a mended one comes to all")
    for name in ENGINES:
        assert has(town[name]) == f"mended {at_once}"
        own = applied(town[name])
        assert own == sorted(set(own)), "in order, and none twice"
        assert own[-1] == mended
    assert bad not in applied(town[AWAY]), "5. who comes back later does not take what was halted"
    assert not status(town["ctl-1"])["refused"]
