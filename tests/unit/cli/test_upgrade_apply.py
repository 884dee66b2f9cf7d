"""Waiting for an upgrade: each change is said once, and Controllers that are started anew are waited for."""

from typing import Any

import pytest

from fairlead.base.errors import OperatorError, Refused
from fairlead.cli import awaited as waiting
from fairlead.cli.upgrade_apply import _follow

BEGUN = {"id": "a1", "version": "1.1.0", "phase": "distribute", "outcome": "", "why": "", "failed": {}, "away": [],
         "missing": 0}


def row(node: str, state: str, why: str = "") -> dict[str, Any]:
    return {"node": node, "state": state, "why": why}


class Api:
    """Answers one after the other; None: nobody is there."""

    def __init__(self, *answers: dict[str, Any] | None) -> None:
        self.answers = list(answers)

    def get(self, path: str) -> Any:
        assert path == "/api/upgrade"
        if (answer := self.answers.pop(0)) is None:
            raise OperatorError("FL-AFAR", "nobody is there")
        return answer


def answer(phase: str, *rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    one = BEGUN | {"phase": phase} | more
    return {"current": None if phase == "over" else one, "past": [one] if phase == "over" else [], "nodes": list(rows)}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.0)


def test_each_change_is_said_once_also_over_a_controller_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(answer("controllers", row("ctl", "trial"), row("se-1", "waiting")), None,
              answer("controllers", row("ctl", "trial")), answer("over", row("ctl", "done"), outcome="done"))
    _follow(api, BEGUN, wait=True, json=False, what="")
    assert capsys.readouterr().err.splitlines() == [
        "controllers", "ctl: trial", "over: done", "ctl: done", "every node runs 1.1.0"]


def test_who_was_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(answer("over", outcome="done", failed={"se-2": "no"}, away=["se-3"], missing=1))
    _follow(api, BEGUN, wait=True, json=False, what="")
    assert capsys.readouterr().err.splitlines()[-1] == (
        "the nodes run 1.1.0, but for se-2, se-3: `fairlead upgrade status`")


def test_one_that_halted_is_a_refusal_that_says_why() -> None:
    api = Api(answer("over", outcome="halted", why="1 failed, 0 may: se-1: no tunnel"))
    with pytest.raises(Refused) as refused:
        _follow(api, BEGUN, wait=True, json=False, what="")
    assert refused.value.code == "FL-UPGRADE-HALTED"
    assert "se-1: no tunnel" in refused.value.message


def test_nobody_waits_for_ever_for_a_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AWAY_S", 0.0)
    with pytest.raises(OperatorError):
        _follow(Api(*[None] * 1000), BEGUN, wait=True, json=False, what="")
