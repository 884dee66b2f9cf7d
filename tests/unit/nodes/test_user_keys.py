"""What is due for a node's user keys: whatever order things come in, it ends with one key."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.nodes import user_keys
from fairlead.nodes.node import Node
from fairlead.nodes.user_keys import FORWARD, Due, Keys, Step, Wanted, due, late, missing
from tests.unit.nodes.test_policy import SE_1

OLD, NEW = replace(SE_1, user_key="k1"), replace(SE_1, user_key="k1", next_key="k2")
CHANGED = user_keys.used(NEW)
R1 = Wanted("r1", "next", 100)


def keys(node: Node) -> Keys:
    brought = {"k1": "token", "k2": "r1", "k3": "r2"}
    return Keys(node, brought[node.user_key], brought.get(node.next_key, ""))


@pytest.mark.parametrize(("node", "step", "used", "settled", "expected"), [
    (OLD, "next", False, False, "ask"), (OLD, "use", False, False, "ask"), (OLD, "retire", True, True, "ask"),
    (OLD, "back", True, True, None), (OLD, "drop", True, True, None),
    (NEW, "next", True, True, None), (NEW, "use", False, False, "use"), (NEW, "retire", False, False, "use"),
    (NEW, "back", False, False, None), (NEW, "drop", False, False, "drop"),
    (CHANGED, "next", True, True, None), (CHANGED, "use", True, True, None),
    (CHANGED, "retire", False, True, None), (CHANGED, "retire", True, False, None),
    (CHANGED, "retire", True, True, "retire"),
    (CHANGED, "back", False, False, "back"), (CHANGED, "drop", False, False, "back"),
    (replace(OLD, joined_at=100), "next", False, False, None), (replace(OLD, joined_at=0), "next", False, False, None)])
def test_what_is_due(node: Node, step: Step, used: bool, settled: bool, expected: Due | None) -> None:
    assert due(keys(node), replace(R1, step=step), used=used, settled=settled) == expected


def test_a_rotation_waits_for_what_is_missing_and_for_no_more() -> None:
    forward: tuple[Step, ...] = FORWARD
    for step in forward:
        assert missing(keys(OLD), replace(R1, step=step), used=True)
        assert late(keys(OLD), replace(R1, step=step))
    assert not missing(keys(NEW), R1, used=False)
    assert missing(keys(NEW), replace(R1, step="use"), used=True)
    assert missing(keys(CHANGED), replace(R1, step="use"), used=False)
    assert not missing(keys(CHANGED), replace(R1, step="use"), used=True)
    assert missing(keys(CHANGED), replace(R1, step="retire"), used=True)
    done = user_keys.retired(CHANGED)
    assert not missing(keys(done), replace(R1, step="retire"), used=True)
    assert not late(keys(done), replace(R1, step="retire"))
    assert not late(keys(OLD), replace(R1, step="back"))
    assert missing(keys(CHANGED), replace(R1, step="back"), used=True)
    returned = user_keys.back(CHANGED)
    assert missing(keys(returned), replace(R1, step="back"), used=False)
    assert not missing(keys(returned), replace(R1, step="back"), used=True)
    assert missing(keys(returned), replace(R1, step="drop"), used=True)
    assert not missing(keys(user_keys.dropped(returned)), replace(R1, step="drop"), used=True)


@given(st.lists(st.sampled_from(["next", "use", "back", "retire"]), max_size=12), st.booleans())
def test_in_whatever_order_the_key_in_use_is_never_revoked_and_it_ends_with_one(steps: list[Step], ends: bool) -> None:
    node, revoked = OLD, set[str]()
    last: Step = "retire" if ends else "drop"
    for step in [*steps, last]:
        wanted = replace(R1, step=step)
        for _ in range(4):
            match due(keys(node), wanted, used=True, settled=True):
                case "ask":
                    if "k2" in revoked:
                        break
                    node = user_keys.registered(node, "k2")
                case "use":
                    node = user_keys.used(node)
                case "retire":
                    revoked.add(node.last_key)
                    node = user_keys.retired(node)
                case "back":
                    node = user_keys.back(node)
                case "drop":
                    revoked.add(node.next_key)
                    node = user_keys.dropped(node)
            assert not set(node.user_keys) & revoked
    assert len(node.user_keys) == 1
