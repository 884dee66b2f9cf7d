"""Neighbouring versions of the link work together; what does not fit is refused with what each side speaks."""

import pytest

from fairlead.base.errors import Refused
from fairlead.link.spoken import OURS, Spoken, both, said, told


@pytest.mark.parametrize(("theirs", "ours", "best"), [
    (Spoken(1, 1), Spoken(1, 1), 1), (Spoken(1, 2), Spoken(1, 1), 1), (Spoken(1, 3), Spoken(2, 4), 3),
    (Spoken(2, 2), Spoken(1, 2), 2)], ids=str)
def test_the_highest_that_both_speak(theirs: Spoken, ours: Spoken, best: int) -> None:
    assert both(theirs, "se-1", ours) == best


@pytest.mark.parametrize(("theirs", "ours"), [(Spoken(1, 1), Spoken(2, 3)), (Spoken(4, 5), Spoken(2, 3)),
                                              (Spoken(-5, -5), OURS), (Spoken(0, 0), OURS)], ids=str)
def test_what_does_not_fit_names_both(theirs: Spoken, ours: Spoken) -> None:
    with pytest.raises(Refused) as refused:
        both(theirs, "se-1", ours)
    assert refused.value.code == "FL-LINK-VERSION"
    assert refused.value.message == f"se-1 speaks version {theirs} of the link, this node {ours}"


@pytest.mark.parametrize(("software", "version", "spoken"), [
    ("fairlead/1.0 heads/1", 1, Spoken(1, 1)), ("fairlead/2.0 link/1-2 x", 1, Spoken(1, 2)), ("", 7, Spoken(7, 7)),
    ("link/2-1", 1, Spoken(1, 1)), ("link/1-99999", 1, Spoken(1, 1))], ids=str)
def test_what_an_engine_says(software: str, version: int, spoken: Spoken) -> None:
    assert said(software, version) == spoken


@pytest.mark.parametrize(("answer", "spoken"), [(None, Spoken(1, 1)), ([1, 2], Spoken(1, 2)), ([2, 1], Spoken(1, 1)),
                                                (["1", "2"], Spoken(1, 1)), ([2, 2], Spoken(2, 2))], ids=str)
def test_what_a_controller_answers(answer: object, spoken: Spoken) -> None:
    assert told(answer) == spoken
    assert told([OURS.lowest, OURS.highest]) == OURS
