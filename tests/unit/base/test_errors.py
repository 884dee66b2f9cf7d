"""What is shown of hostile input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.base.errors import OperatorError, Refused, printable


@given(st.text())
def test_nothing_moves_a_cursor(text: str) -> None:
    assert printable(text).isprintable()
    assert Refused("FL-X", text, text).line().isprintable()


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\nb"), ("\u202e", "\\u202e"), ("\x9b", "\\x9b"),
    ("\ud800", "\\ud800"), ("é ñ", "é ñ")])
def test_what_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_texts_are_cut() -> None:
    assert printable("x" * 100, 10) == "x" * 10 + "..."
    assert len(printable("\x1b" * 100_000)) < 10_000


def test_a_line_says_what_and_what_to_do() -> None:
    assert OperatorError("FL-X", "it is so", "do this").line() == "it is so; do this [FL-X]"
    assert Refused("FL-X", "it is so").line() == "it is so [FL-X]"
