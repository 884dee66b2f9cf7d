"""Attacks by hand on every route: bodies and queries that are none. Each is refused in the one shape, by name."""

import pytest

from fairlead.api import swaggerui
from fairlead.api.asking import MOST_BODY
from tests.unit.controller.test_application import STRANGERS, TABLE, afar

ASKED = [*TABLE, *sorted(STRANGERS - {f"GET {path}" for path in swaggerui.PUBLIC})]
JSON = {"content-type": "application/json"}
BODIES = {
    "deep": b"[" * 10_000, "deep and whole": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "many digits": b'{"name": ' + b"9" * 5000 + b"}", "past all numbers": b'{"port": 1e999, "days": -1e999}',
    "said twice": b'{"name": "a", "name": "b"}', "no number": b'{"name": NaN, "port": Infinity}',
    "half a pair": b'{"name": "\\ud800", "password": "\\udfff", "labels": ["\\ud800"]}',
    "not UTF-8": b'{"name": "\xff"}', "UTF-16": '{"name": "x"}'.encode("utf-16"), "nothing": b"", "null": b"null",
    "a list": b"[1]", "a text": b'"x"', "nul": b'{"name": "\\u0000", "role": "\\u0000"}',
    "large": b'{"name": "' + b"x" * MOST_BODY + b'"}',
    "other types": b'{"name": {}, "role": [], "labels": 1, "port": "x", "allow": {}, "request": 7, "uuid": []}'}
QUERIES = ("page=1e9", "page=-1&page_size=0", "page=" + "9" * 400, "page=1&page=x&page=2", "name=%00", "name=%ff%fe",
           "limit=1e9", "limit=" + "9" * 5000, "refers_to=%00:%00", "refers_to=::", "fields=,,,%ff", "&&==&%",
           "node=%ff&service=%00",
           "cloud_uuid=%00", "name.in=" + "," * 5000, "tenant_ref.name=%ff")
HEADERS = ({"x-avi-version": "9" * 5000}, {"x-avi-version": "1e9"}, {"x-avi-tenant": "\x7f%00"}, {"slug": "../x"},
           {"content-type": "text/xml"}, {"content-type": "application/json; charset=utf-16"},
           {"content-type": "multipart/form-data; boundary="}, {"cookie": "sessionid=" + ";sessionid=".join("x" * 99)})


@pytest.mark.parametrize("sort", ["bodies", "queries", "headers"])
async def test_attack_whatever_is_sent_is_answered_in_the_one_shape(sort: str) -> None:
    async with afar("s-admin") as client:
        for asked in ASKED:
            method, _, path = asked.partition(" ")
            path = path.replace("{", "").replace("}", "%00")
            for name, body, query, headers in _sent(sort):
                answer = await client.request(method, f"{path}?{query}", content=body, headers=JSON | headers)
                where = (asked, name, answer.status_code, answer.text[:200])
                assert answer.status_code < 500, where
                if answer.status_code >= 400 and answer.headers["content-type"] == "application/json":
                    assert set(answer.json()) == {"error", "code", "remedy"}, where
                    assert answer.json()["code"].startswith("FL-"), where
                elif answer.status_code >= 400:
                    assert (answer.status_code, answer.text[:4]) == (401, "CSRF"), where


def _sent(sort: str) -> list[tuple[str, bytes, str, dict[str, str]]]:
    if sort == "bodies":
        return [(name, body, "", {}) for name, body in BODIES.items()]
    if sort == "queries":
        return [(query[:40], b"{}", query, {}) for query in QUERIES]
    return [(str(headers)[:80], b'{"name": "x"}', "", headers) for headers in HEADERS]
