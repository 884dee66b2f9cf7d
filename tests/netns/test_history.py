"""The checker is shown histories with a fault in each, and finds it; and what is allowed, which it lets pass."""

import random

import pytest

from tests.netns.history import Call, lost, not_linearizable, redeemed_twice, shared_addresses, two_leaders


def test_a_write_that_was_acknowledged_and_is_gone() -> None:
    assert not lost(["a", "b"], ["b", "a", "never acknowledged"])
    assert lost(["a", "b"], ["b"]) == ["a was acknowledged and is not there"]


def test_a_token_that_two_redeemed() -> None:
    assert not redeemed_twice({"se-1": "t1", "se-2": "t2"})
    assert redeemed_twice({"se-1": "t1", "se-2": "t2", "se-3": "t1"}) == ["the token t1 was redeemed by 2 nodes"]


def test_a_term_that_two_led() -> None:
    assert not two_leaders([(1, "a"), (2, "b"), (3, "a")])
    assert two_leaders([(1, "a"), (2, "b"), (2, "a")]) == ["term 2 was begun by a and by b"]
    assert two_leaders([(2, "a"), (2, "a")]), "the same one twice is two terms of one number"


def test_an_address_that_two_have_or_that_moved() -> None:
    assert not shared_addresses([{"a": "1", "b": "2"}, {"b": "2", "c": "1"}])
    assert shared_addresses([{"a": "1", "b": "1"}]) == ["1 belongs to 2 nodes"]
    assert shared_addresses([{"a": "1"}, {"a": "2"}]) == ["a had 1 and has 2"]


READ_OLD = [Call("write", 0, 1, "x"), Call("write", 2, 3, "y"), Call("read", 4, 5, "x")]
LOST_UPDATE = [Call("read", 0, 1, "0"), Call("read", 0, 1, "0"), Call("write", 2, 3, "1", expected="0"),
               Call("write", 2, 4, "2", expected="0")]
BACK_AGAIN = [Call("write", 0, 9, "x"), Call("read", 1, 2, "x"), Call("read", 3, 4, None)]
GHOST = [Call("write", 0, 1, "x"), Call("read", 2, 3, "z")]
DENIED = [Call("write", 0, 1, "x", expected=None), Call("write", 2, 3, "y", expected="x", succeeded=False)]


@pytest.mark.parametrize("calls", [READ_OLD, LOST_UPDATE, BACK_AGAIN, GHOST, DENIED])
def test_calls_that_no_order_explains(calls: list[Call]) -> None:
    assert not_linearizable(calls, "0" if calls is LOST_UPDATE else None)


@pytest.mark.parametrize("calls", [
    [], [Call("read", 0, 1)],
    [Call("write", 0, 5, "x"), Call("write", 0, 5, "y"), Call("read", 1, 2, "x"), Call("read", 3, 4, "y")],
    [Call("write", 0, None, "x"), Call("read", 1, 2), Call("read", 3, 4, "x")],
    [Call("write", 0, None, "x"), Call("read", 1, 2), Call("read", 3, 4)],
    [Call("write", 0, None, "x", expected="never"), Call("read", 1, 2)],
    [Call("write", 0, 1, "x"), Call("write", 2, 3, "y", expected="q", succeeded=False), Call("read", 4, 5, "x")],
])
def test_what_is_allowed_passes(calls: list[Call]) -> None:
    assert not not_linearizable(calls)


def test_histories_of_a_true_register_pass_and_one_lie_in_them_does_not() -> None:
    """Calls that overlap at random, each with its effect at a moment of its own; then one read says something else."""
    draw = random.Random(7)
    for _ in range(60):
        moments = sorted(draw.uniform(0, 10) for _ in range(14))
        value, calls = "0", []
        for number, moment in enumerate(moments):
            began, ended = moment - draw.uniform(0, 2), moment + draw.uniform(0, 2)
            match draw.choice(["read", "write", "compare"]):
                case "read":
                    calls.append(Call("read", began, ended, value))
                case "write":
                    value = str(number)
                    calls.append(Call("write", began, draw.choice([ended, None]), value))
                case _:
                    expected = draw.choice([value, "other"])
                    calls.append(Call("write", began, ended, f"c{number}", expected, expected == value))
                    value = f"c{number}" if expected == value else value
        assert not not_linearizable(calls, "0")
        assert not_linearizable([*calls, Call("read", 50, 51, "nobody wrote this")], "0")
