"""Declarations as people type them."""

from functools import partial

import pytest

from fairlead.nodes.service import Service, check_label, declare, parse_target
from tests.world import denied


def test_a_declaration() -> None:
    assert declare("db", node="ctl-1", role=None, port=5432, target=None, allow=["engines", "engines", "site=lab"]) == (
        Service("db", "ctl-1", 5432, "127.0.0.1", 5432, ("engines", "site=lab")))
    assert declare("e", node=None, role="engine", port=9100, target=None, allow=["controllers"],
                   scrape="/metrics").scrape == "/metrics"
    assert declare("log", node=None, role="engine", port=1, target="[::1]:99", allow=["ctl-1"]).target == "[::1]:99"


@pytest.mark.parametrize("change", [
    {"name": "DB"}, {"name": "engines"}, {"name": "a\n"}, {"node": None}, {"role": "engine"}, {"node": "role:engine"},
    {"node": None, "role": "admin"}, {"node": None, "role": "engines"}, {"port": 0}, {"port": 65536}, {"port": -1},
    {"target": "x"}, {"target": "x:0"}, {"target": "x:65536"}, {"target": ":80"}, {"target": "$(id):80"},
    {"target": "x:8 0"}, {"target": "x\n:80"}, {"target": "x:٨"}, {"allow": []}, {"allow": ["*"]}, {"allow": [""]},
    {"allow": ["SE-1"]}, {"allow": ["role:engine"]}, {"allow": ["a=b=c"]}, {"allow": ["=b"]}, {"allow": ["a="]},
    {"allow": ["engines", "$(id)"]}, {"allow": ["all engines"]}, {"allow": ["a=b\n"]},
    *({"scrape": path} for path in ("", "metrics", "/a b", "/a?b", "/a\n", "//[", "/" + "x" * 128, "http://x/"))])
def test_what_is_no_declaration(change: dict[str, object]) -> None:
    good: dict[str, object] = {"name": "db", "node": "ctl-1", "role": None, "port": 80, "target": None,
                               "allow": ["engines"]}
    assert denied(lambda: declare(**(good | change))) in ("FL-SERVICE", "FL-NAME")  # type: ignore[arg-type]


def test_targets_and_labels() -> None:
    assert parse_target("127.0.0.1:80") == ("127.0.0.1", 80)
    assert check_label("site/room=Lab_1") == ("site/room", "Lab_1")
    for text in ("site", "site=", "=lab", "Site=lab", "site=a b", "site=a\n", "site=" + "x" * 64, "\x1b=x"):
        assert denied(partial(check_label, text)) == "FL-LABEL"
