"""A witness keeps what it has seen, through restarts, and against what comes later."""

from pathlib import Path

import pytest

from fairlead.audit.witness import Witness
from fairlead.base.errors import OperatorError
from tests.unit.audit.test_head import NODE_ID, head


def test_the_newest_head_is_kept_privately_and_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "heads"
    witness = Witness(file)
    assert witness.held(NODE_ID) is None
    assert [witness.take(head(seq), follows=True) for seq in (3, 3, 7)] == ["first", "same", "fresh"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert Witness(file).held(NODE_ID) == head(7)
    assert Witness(file).problems == []


@pytest.mark.parametrize(("against", "verdict", "code"), [
    (head(6), "cut", "FL-AUDIT-CUT"), (head(7, "b"), "fork", "FL-AUDIT-FORK")])
def test_who_has_contradicted_itself_stays_contradicted(tmp_path: Path, against: object, verdict: str,
                                                        code: str) -> None:
    file = tmp_path / "heads"
    Witness(file).take(head(7), follows=True)
    assert Witness(file).take(against, follows=True) == verdict  # type: ignore[arg-type]
    again = Witness(file)
    assert again.take(head(9), follows=True) == verdict  # it grew past what was seen
    assert again.held(NODE_ID) == head(7)
    assert [code in problem for problem in again.problems] == [True]


def test_a_cluster_that_was_restored_begins_anew_and_what_was_before_never_comes_back(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "heads")
    witness.take(head(7), follows=True)
    assert witness.take(head(5, "b", "g2"), follows=True) == "anew"
    assert witness.take(head(8, "a", "g1"), follows=True) == "fork"
    assert witness.held(NODE_ID) == head(5, "b", "g2")


def test_a_file_that_does_not_read_is_no_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "heads"
    file.touch(0o600)
    with pytest.raises(OperatorError) as raised:
        Witness(file)
    assert raised.value.code == "FL-STATE-DAMAGED"
