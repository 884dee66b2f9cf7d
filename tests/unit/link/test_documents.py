"""What a document may hold: nothing of it becomes another program's directive, a path upwards, or a program."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.base.errors import FairleadError
from fairlead.link.documents import BODIES, MOST_BYTES, check, digest, read
from tests.world import denied

FILES: dict[str, Any] = {"files": [{"path": "a/b.conf", "content": "x\n"}]}
HAPROXY: dict[str, Any] = {
    "listeners": [{"name": "web", "bind": ["127.0.0.1:80", "[::1]:80"], "mode": "http", "back_end": "app"}],
    "back_ends": [{"name": "app", "mode": "http", "health_path": "/health",
                   "servers": [{"name": "a", "address": "192.0.2.1:8080"}, {"name": "b", "service": "shop"}]}]}


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy: Any = json.loads(json.dumps(body))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = copy
    for part in way:
        place = place[part]
    place[last] = value
    return copy  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "body"), [("files", FILES), ("haproxy", HAPROXY)])
def test_a_body_has_one_text_which_is_read_as_it_was(kind: str, body: dict[str, Any]) -> None:
    text = check(kind, body)
    assert read(kind, text) == BODIES[kind].model_validate(body)
    assert check(kind, json.loads(text)) == text
    assert digest(text) != digest(text + " ")


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../b", "a//b", "a/", ".hidden", "a/.b", "", "a\nb", "a b",
                                  "a/b/c/d/e", "a\x00b", "é"])
def test_a_path_leads_downwards(path: str) -> None:
    assert denied(lambda: check("files", changed(FILES, "files.0.path", path))) == "FL-DOCUMENT"


@pytest.mark.parametrize(("path", "value"), [
    ("listeners.0.name", "web\n    bind :22"), ("listeners.0.bind", ["127.0.0.1:80 ssl"]), ("listeners.0.bind", []),
    ("listeners.0.bind", ["localhost:80"]), ("listeners.0.bind", ["127.0.0.1:0"]), ("listeners.0.mode", "tcp"),
    ("listeners.0.bind", ["127.0.0.1:80\n    lua-load x"]), ("listeners.0.back_end", "other"),
    ("listeners.0.bind", ["127.0.0.1:80", "127.0.0.1:80"]), ("listeners.0.bind", ["127.0.0.1:٨٠"]),
    ("back_ends.0.health_path", "/x\nserver evil"), ("back_ends.0.health_path", "/x y"),
    ("back_ends.0.health_path", "/ HTTP/1.0\n    server evil 10.0.0.1:80\n    option httpchk GET /"),
    ("listeners.0.bind", ["[::1%a b\n    lua-load x]:80"]), ("listeners.0.bind", ["[fe80::1%eth0]:80"]),
    ("back_ends.0.servers.0.address", "[::1%a\n    server evil 10.0.0.1:80 #]:80"),
    ("back_ends.0.health_path", "/x y/z"), ("back_ends.0.health_path", "x"), ("back_ends.0.health_path", "/x\n"),
    ("back_ends.0.servers.0.address", "192.0.2.1"), ("back_ends.0.servers.0.name", "a#"),
    ("back_ends.0.servers.0.service", "shop"), ("back_ends.0.servers.1.name", "a"),
    ("back_ends.0.servers.1.service", "shop\n"), ("back_ends.0.servers", []), ("timeouts", {"connect": 0}),
    ("timeouts", {"connect": float("inf")}), ("timeouts", {"connect": float("nan")}), ("global", "daemon")])
def test_no_value_becomes_a_line_of_haproxy(path: str, value: Any) -> None:
    assert denied(lambda: check("haproxy", changed(HAPROXY, path, value))) == "FL-DOCUMENT"


def texts(value: Any, way: str = "") -> list[str]:
    """The ways to all texts in *value*."""
    if isinstance(value, str):
        return [way]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in texts(one, f"{way}.{key}".removeprefix("."))]


@pytest.mark.parametrize("added", ["\n", " x", "\n    server evil 10.0.0.1:80", "#", "\"", "\\", "\t", "\x00", "%x y"])
@pytest.mark.parametrize("way", texts(HAPROXY))
def test_no_text_at_all_takes_what_would_begin_or_end_a_word(way: str, added: str) -> None:
    text: Any = HAPROXY
    for part in way.split("."):
        text = text[int(part) if part.isdigit() else part]
    for changed_text in (f"{text}{added}", f"{added}{text}", f"{text[:1]}{added}{text[1:]}"):
        assert denied(lambda it=changed_text: check("haproxy", changed(HAPROXY, way, it))) == "FL-DOCUMENT"  # type: ignore[misc]


@pytest.mark.parametrize("body", [
    {"files": []}, {"files": [{"path": "a"}]}, {"files": [{"path": "a", "content": "", "content_base64": ""}]},
    {"files": [{"path": "a", "content_base64": "%"}]}, {"files": [{"path": "a", "content": ""}] * 2},
    {"files": [{"path": "a", "content": ""}, {"path": "a/b", "content": ""}]},
    {"files": [{"path": "a", "content": "", "mode": "4755"}]},
    {"files": [{"path": "a", "content": ""}], "reload": ["x"]},
    [], None, "x"])
def test_files_are_what_they_say(body: Any) -> None:
    assert denied(lambda: check("files", body)) == "FL-DOCUMENT"


def test_a_large_body_and_an_unknown_kind_are_refused() -> None:
    large = {"files": [{"path": "a", "content": "x" * MOST_BYTES}]}
    assert denied(lambda: check("files", large)) == "FL-DOCUMENT-SIZE"
    assert denied(lambda: check("shell", {})) == "FL-DOCUMENT-KIND"
    assert denied(lambda: read("files", "{}{}")) == "FL-DOCUMENT"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["files", "path", "content", "listeners", "name", "bind", "back_ends"]), inner,
                        max_size=4), max_leaves=12), st.sampled_from(sorted(BODIES)))
def test_whatever_comes_is_taken_or_refused(body: Any, kind: str) -> None:
    try:
        text = check(kind, body)
    except FairleadError:
        return
    assert read(kind, text) == BODIES[kind].model_validate(body)
