"""Which objects a query means, and how objects are named."""

from typing import Annotated

import pytest

from fairlead.base.errors import FairleadError
from fairlead.objects.model import Item, Kind, Model, Ref, Secret
from fairlead.objects.reference import Reference, parse
from fairlead.objects.selection import MOST_PAGE, matches
from fairlead.objects.selection import parse as select


class Thing(Model):
    name: str
    size: int = 1
    good: bool = True
    key: Annotated[str | None, Secret()] = None
    cloud_ref: Annotated[str | None, Ref("cloud")] = None


THING = Kind("thing", "Thing", Thing, "thing")
ITEMS = [Item(f"thing-{n}", Thing(name=f"t{n}", size=n, good=n > 1, key="secret",
                                  cloud_ref="cloud/c1" if n == 2 else None)) for n in range(1, 4)]


def found(**query: str) -> list[str]:
    wanted = select(list({name.replace("__", "."): value for name, value in query.items()}.items()), THING)
    return [item.name for item in ITEMS if matches(item, wanted, lambda kind, uuid: {"c1": "one"}.get(uuid, ""))]


def test_a_query_selects_by_name_uuid_fields_and_references() -> None:
    assert found() == ["t1", "t2", "t3"]
    assert found(name="t2") == found(uuid="thing-2") == found(size="2") == ["t2"]
    assert found(name__in="t1,t3") == ["t1", "t3"]
    assert found(good="FALSE") == ["t1"]
    assert found(refers_to="cloud:c1") == found(cloud_ref__name="one") == found(cloud_ref__uuid="c1") == ["t2"]
    assert found(cloud_ref__name="two") == []


def test_attack_a_secret_cannot_be_asked_for() -> None:
    assert found(key="secret") == found(key="wrong") == ["t1", "t2", "t3"]
    assert found(key__startswith="s", password="x") == ["t1", "t2", "t3"]


def test_pages_are_whole_and_end() -> None:
    pages = [select([("page", str(page)), ("page_size", "2")]) for page in (1, 2, 3)]
    assert [list(page.page_of([1, 2, 3])) for page in pages] == [[1, 2], [3], []]
    assert [page.more(3) for page in pages] == [True, False, False]


@pytest.mark.parametrize(("name", "value"), [
    ("page", "0"), ("page", "-1"), ("page", "x"), ("page", "1" * 30), ("page", "٣"), ("page_size", "0"),
    ("page_size", str(MOST_PAGE + 1)), ("refers_to", "cloud"), ("referred_by", "cloud:../x"), ("refers_to", "cloud:")])
def test_a_query_that_means_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(FairleadError) as refused:
        select([(name, value)], THING)
    assert refused.value.code == "FL-QUERY"


@pytest.mark.parametrize(("text", "meant"), [
    ("https://any.host:444/api/cloud/cloud-1#a name", Reference("cloud", uuid="cloud-1")),
    ("/api/cloud/cloud-1", Reference("cloud", uuid="cloud-1")),
    ("/api/cloud/cloud-1/", Reference("cloud", uuid="cloud-1")),
    ("cloud/cloud-1", Reference("cloud", uuid="cloud-1")), ("/api/cloud?name=a%20b", Reference("cloud", name="a b")),
    ("https://c/api/cloud/?name=x&cloud=y", Reference("cloud", name="x"))])
def test_a_reference_is_read_in_every_form(text: str, meant: Reference) -> None:
    assert parse(text, "cloud") == meant


@pytest.mark.parametrize("text", [
    "/api/user/user-admin", "", "/api/cloud", "/api/cloud/../user/x", "/api/cloud/a/b", "/api/cloud/%2e%2e", "file:///etc/passwd",
    "/api/cloud?name=", "//", "https://[::1/api/cloud/x", "/api/cloud/" + "x" * 4000, "javascript:/api/cloud/x"])
def test_attack_a_reference_to_something_else_is_refused(text: str) -> None:
    with pytest.raises(FairleadError) as refused:
        parse(text, "cloud")
    assert refused.value.code == "FL-OBJECT-REF"
