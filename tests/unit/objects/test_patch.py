"""What a PATCH makes of an object."""

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.base.errors import FairleadError
from fairlead.objects.patch import apply

FIELDS = {"size": 1, "list": ["/api/thing/1", "/api/thing/2"], "inner": {"x": 1, "list": [1]},
          "dicts": [{"a": 1, "b": 2}]}


@pytest.mark.parametrize(("body", "changed"), [
    ({"add": {"size": 2}}, {"size": 2}),
    ({"replace": {"size": 2, "new": "n"}}, {"size": 2, "new": "n"}),
    ({"delete": {"size": 1}}, {"size": None}),
    ({"add": {"list": ["/api/thing/3", "/api/thing/1"]}}, {"list": ["/api/thing/1", "/api/thing/2", "/api/thing/3"]}),
    ({"replace": {"list": ["/api/thing/3"]}}, {"list": ["/api/thing/3"]}),
    ({"delete": {"list": ["https://c/api/thing/1#one"]}}, {"list": ["/api/thing/2"]}),
    ({"delete": {"dicts": [{"a": 1}]}}, {"dicts": []}),
    ({"replace": {"inner": {"x": 2}}}, {"inner": {"x": 2, "list": [1]}}),
    ({"add": {"inner": {"list": [2]}}}, {"inner": {"x": 1, "list": [1, 2]}}),
    ({"delete": {"inner": {"x": 1}}}, {"inner": {"list": [1]}}),
    ({"json_patch": [{"op": "replace", "path": "/inner/x", "value": 3}, {"op": "add", "path": "/list/-", "value": "z"},
                     {"op": "remove", "path": "/list/0"}, {"op": "test", "path": "/size", "value": 1}]},
     {"inner": {"x": 3, "list": [1]}, "list": ["/api/thing/2", "z"]}),
    ({"json_patch": [{"op": "add", "path": "/a~1b~0", "value": 1}]}, {"a/b~": 1})])
def test_a_patch_changes_what_it_says(body: dict[str, Any], changed: dict[str, Any]) -> None:
    expected = {name: value for name, value in (FIELDS | changed).items() if value is not None}
    before = repr(FIELDS)
    assert apply(FIELDS, body) == expected
    assert repr(FIELDS) == before, "what was there is another one's"


@pytest.mark.parametrize("body", [
    {}, {"size": 2}, {"add": 1}, {"add": {"size": 2}, "x": {}}, {"json_patch": {}}, {"json_patch": [1]},
    {"json_patch": [{"op": "move", "from": "/size", "path": "/x", "value": 1}]},
    {"json_patch": [{"op": "replace", "path": "/none", "value": 1}]}, {"json_patch": [{"op": "remove", "path": "/no"}]},
    {"json_patch": [{"op": "add", "path": "", "value": 1}]},
    {"json_patch": [{"op": "add", "path": "/list/9", "value": 1}]},
    {"json_patch": [{"op": "replace", "path": "/list/00000000000001", "value": 1}]},
    {"json_patch": [{"op": "add", "path": "/size/x", "value": 1}]},
    {"json_patch": [{"op": "test", "path": "/size", "value": 2}]},
    {"json_patch": [{"op": "add", "path": "/size"}]}, {"json_patch": [{"op": "add", "path": "/x", "value": 1}] * 300}])
def test_what_is_no_patch_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(FairleadError) as refused:
        apply(FIELDS, body)
    assert refused.value.code == "FL-OBJECT-PATCH"


def test_attack_a_large_patch_takes_no_time() -> None:
    """Both lists as long as a body may be: each pair was compared once, and the Controller stood still for minutes."""
    many = [f"a{n}" for n in range(10_000)]
    assert apply({"x": many}, {"delete": {"x": [f"b{n}" for n in range(10_000)]}}) == {"x": many}
    assert len(apply({"x": many}, {"add": {"x": [f"b{n}" for n in range(10_000)]}})["x"]) == 20_000
    with pytest.raises(FairleadError, match="too many"):
        apply({"x": many}, {"delete": {"x": [{"n": n} for n in range(10_000)]}})


LEAF = st.none() | st.integers() | st.text(max_size=2)
KEYS = st.sampled_from(["a", "b"])
JSON = LEAF | st.lists(LEAF, max_size=2) | st.dictionaries(
    KEYS, LEAF | st.dictionaries(KEYS, LEAF, max_size=2), max_size=2)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, JSON), st.fixed_dictionaries({}, optional={
    "add": JSON, "replace": JSON, "delete": JSON, "json_patch": st.lists(st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "test"]), "path": st.text("/ab0-~1", max_size=6)},
        optional={"value": JSON}), max_size=4)}))
def test_whatever_comes_is_done_or_refused(fields: dict[str, Any], body: dict[str, Any]) -> None:
    with contextlib.suppress(FairleadError):
        assert isinstance(apply(fields, body), dict)
