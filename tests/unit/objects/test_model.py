"""What a client may say of an object, and what it is shown."""

from typing import Annotated, Any

import pytest
from pydantic import Field

from fairlead.base.errors import FairleadError
from fairlead.objects.model import (
    Computed,
    Fixed,
    Item,
    Kind,
    Model,
    Open,
    Ref,
    Secret,
    Since,
    facts,
    read,
    refs,
    version_of,
)
from fairlead.objects.view import View, whole


class Inner(Model):
    x: int = 1
    safe: Annotated[bool, Fixed("it has to be")] = True
    kept: Any = None
    said: Annotated[str | None, Computed()] = None
    other_ref: Annotated[str | None, Ref("thing")] = None


class Thing(Model):
    name: str
    size: int = Field(default=5, ge=1, le=9)
    key: Annotated[str | None, Secret()] = None
    said: Annotated[str | None, Computed()] = None
    safe: Annotated[bool, Fixed("it has to be")] = True
    new: Annotated[str | None, Since("20.1.3")] = None
    thing_refs: Annotated[list[str], Ref("thing"), Since("18.1")] = Field(default_factory=list)
    inner: Inner | None = None
    many: list[Inner] = Field(default_factory=list)


class Loose(Open):
    name: str


DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
THING = Kind("thing", "Thing", Thing, "thing")


def test_what_only_the_server_says_is_passed_over_at_every_level() -> None:
    value = read(THING, {"name": "a", "said": "forged", "inner": {"said": "forged", "x": 2}, "many": [{"said": "f"}]})
    assert value == Thing(name="a", inner=Inner(x=2), many=[Inner()])


@pytest.mark.parametrize(("fields", "code"), [
    ({"name": "a", "is_superuser": True}, "FL-OBJECT-FIELD"), ({}, "FL-OBJECT-FIELD"),
    ({"name": "a", "size": 10}, "FL-OBJECT-FIELD"), ({"name": "a", "safe": False}, "FL-OBJECT-FIXED"),
    ({"name": "a", "inner": {"safe": False}}, "FL-OBJECT-FIXED"),
    ({"name": "a", "many": [{}, {"safe": False}]}, "FL-OBJECT-FIXED"),
    ({"name": "a\r\nSet-Cookie: x"}, "FL-OBJECT-FIELD"), ({"name": "a", "inner": {"kept": DEEP}}, "FL-OBJECT-FIELD"),
    ({"name": "a", "inner": {"kept": list(range(20_000))}}, "FL-OBJECT-FIELD"),
    ({"name": "a", "inner": {"y": 1}}, "FL-OBJECT-FIELD"), ({"name": ["canary"]}, "FL-OBJECT-FIELD")])
def test_what_is_not_a_field_or_not_to_be_set_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(FairleadError) as refused:
        read(THING, fields)
    assert refused.value.code == code
    assert "canary" not in refused.value.line()


def test_an_open_kind_keeps_what_it_does_not_know() -> None:
    kind = Kind("loose", "Loose", Loose, "loose")
    item = Item("loose-1", read(kind, {"name": "a", "mtu": 9000}))
    shown = View("https://c", (16, 4, 2)).show(kind, item)
    assert shown["mtu"] == 9000
    assert whole(item.value) == {"name": "a", "mtu": 9000}


def test_attack_secrets_in_what_does_not_concern_us_are_not_kept() -> None:
    """What clients send along for another product: nobody here needs it, and every viewer would read it."""
    hidden = {"username": "u", "password": "canary", "deep": [{"api_token": "canary", "x_key": "canary"}],
              "params": [{"name": "n", "value": "canary", "is_sensitive": True}]}
    kind = Kind("loose", "Loose", Loose, "loose")
    value = read(kind, {"name": "a", "vcenter": hidden, "root_password": "canary", "labels": [{"key": "k"}]})
    assert "canary" not in repr(value)
    assert whole(value)["vcenter"]["username"] == "u"
    assert whole(value)["labels"] == [{"key": "k"}]
    assert "canary" not in repr(read(THING, {"name": "a", "inner": {"kept": hidden}}))


def test_a_secret_is_in_no_view_and_no_text() -> None:
    item = Item("thing-1", Thing(name="a", key="canary"), sealed={"key": "canary"})
    for view in (View("https://c", (99,)), View("https://c", (99,), fields=frozenset(("key",)))):
        assert "canary" not in str(view.show(THING, item))
    assert "canary" not in str(whole(item.value))
    assert "sealed" not in repr(item)


def test_an_older_client_is_not_shown_what_is_newer() -> None:
    item = Item("thing-1", Thing(name="a", new="n", thing_refs=["thing/thing-2"]))
    assert {"new", "thing_refs"}.isdisjoint(View("https://c", version_of(None)).show(THING, item))
    assert "new" not in View("https://c", version_of("18.1.4")).show(THING, item)
    assert View("https://c", version_of("20.1.3")).show(THING, item)["new"] == "n"


def test_a_view_has_names_fields_and_no_defaults_when_they_are_asked_for() -> None:
    item = Item("thing-1", Thing(name="a", size=5, thing_refs=["thing/thing-2"], inner=Inner(other_ref="thing/t-3")),
                7, tenant="t")
    plain = View("https://c:8", (99,)).show(THING, item)
    assert plain["thing_refs"] == ["https://c:8/api/thing/thing-2"]
    assert (plain["_last_modified"], plain["tenant_ref"]) == ("7", "https://c:8/api/tenant/t")
    named = View("https://c", (99,), lambda kind, uuid: {"thing-2": "two", "t-3": "#x"}.get(uuid, "")).show(THING, item)
    assert named["thing_refs"] == ["https://c/api/thing/thing-2#two"]
    assert named["inner"]["other_ref"] == "https://c/api/thing/t-3##x"
    assert named["url"] == "https://c/api/thing/thing-1#a"
    assert View("https://c", (99,), fields=frozenset(("size",))).show(THING, item) == {
        "uuid": "thing-1", "url": "https://c/api/thing/thing-1", "name": "a", "size": 5}
    assert "size" not in View("https://c", (99,), skip_default=True).show(THING, item)


def test_what_is_named_is_found_at_every_level() -> None:
    value = Thing(name="a", thing_refs=["thing/1"], inner=Inner(other_ref="thing/2"), many=[Inner(other_ref="thing/3")])
    assert set(refs(value)) == {("thing", "1"), ("thing", "2"), ("thing", "3")}


@pytest.mark.parametrize("text", ["", "x", "1", "22.1.3-dev", "15.1", "22.1.3.4.5.6", "٢٢.1", "1" * 100 + ".1"])
def test_a_version_that_is_none_is_refused_in_the_words_that_clients_know(text: str) -> None:
    with pytest.raises(FairleadError, match="Invalid version") as refused:
        version_of(text)
    assert refused.value.code == "FL-API-VERSION"


def test_facts_are_those_of_the_field() -> None:
    found = {one.name: one for one in facts(Thing)}
    assert (found["inner"].inner, found["many"].inner, found["thing_refs"].ref) == (Inner, Inner, "thing")
    assert (found["size"].default, found["new"].since) == (5, (20, 1, 3))
