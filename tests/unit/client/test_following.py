"""A log-in from afar follows the root by what the old one has signed, and nobody else."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from fairlead.base.errors import OperatorError
from fairlead.client import afar
from fairlead.client.afar import Afar, Context
from fairlead.client.following import PATH, followed
from fairlead.keys.wire import sha256
from fairlead.pki.authority import Authority
from fairlead.pki.statement import read
from tests.unit.pki.test_statement import CHANGE, NEW, NEWER, OLD, signed

URL = "https://ctl-1:443"
OTHER = Authority.create(uuid4(), 1_700_000_000_000_000)


def answering(monkeypatch: pytest.MonkeyPatch, body: Any, status: int = 200) -> list[httpx2.Request]:
    """A Controller that nobody verifies; what it was asked."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        after = int(request.url.params["after"])
        if isinstance(body, list):
            if not any(sha256(der).hex() == request.url.params["root"] for text in body
                       for der in read(text).statement.content.roots):
                return httpx2.Response(200, json={"statements": []})
            later = [text for text in body if number(text) > after]
            return httpx2.Response(status, json={"statements": later[:3]})
        return httpx2.Response(status, content=body)

    monkeypatch.setattr(httpx2, "HTTPTransport", lambda **_: httpx2.MockTransport(answer))
    return asked


def number(text: str) -> int:
    return read(text).statement.number


def pem(*roots: Any) -> str:
    return b"".join(root.certificate_pem for root in roots).decode()


@pytest.mark.parametrize(("known", "chain", "leads"), [
    pytest.param([OLD], [signed(4, [OLD], [OLD]), *CHANGE], [NEWER], id="two changes, in pages"),
    pytest.param([NEW], CHANGE, [NEWER], id="who logged in after the first change"),
    pytest.param([OLD], CHANGE[:1], [OLD, NEW], id="in the middle of a change"),
    pytest.param([OLD, OTHER], CHANGE[:2], [NEW, OTHER], id="another CA of the same file stays"),
    pytest.param([OTHER, OLD], CHANGE[:2], [NEW, OTHER], id="whichever stands first"),
])
def test_the_root_is_followed(monkeypatch: pytest.MonkeyPatch, known: list[Any], chain: list[str],
                              leads: list[Any]) -> None:
    asked = answering(monkeypatch, chain)
    assert followed(URL, pem(*known), 5) == pem(*leads)
    assert not {"cookie", "authorization"} & {name for request in asked for name in request.headers}


@pytest.mark.parametrize(("known", "body"), [
    pytest.param([OLD], [signed(5, [NEW], [NEW]), signed(6, [NEW], [NEW])], id="a root of somebody's own"),
    pytest.param([OLD], [signed(5, [OLD, NEW], [OLD])], id="the new one has not signed"),
    pytest.param([OLD], [CHANGE[0], CHANGE[4]], id="a link is missing"),
    pytest.param([NEWER], CHANGE, id="it is the one that is known"),
    pytest.param([OLD], [], id="none"),
    pytest.param([OLD], b"<html>", id="no JSON"),
    pytest.param([OLD], b'{"statements":[1]}', id="no texts"),
    pytest.param([OLD], b'{"statements":["x"]}', id="damaged"),
    pytest.param([OLD], b"x" * (9 << 20), id="endless"),
])
def test_nothing_else_leads_anywhere(monkeypatch: pytest.MonkeyPatch, known: list[Any], body: Any) -> None:
    answering(monkeypatch, body)
    assert followed(URL, pem(*known), 5) is None


def test_a_command_goes_on_with_the_new_root_and_its_context_keeps_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Context] = []
    sent: list[str] = []

    def once(self: Afar, method: str, path: str, **_: Any) -> httpx2.Response:
        if self._context.ca == pem(OLD):
            raise afar._Unverified(URL)
        sent.append(f"{method} {path}")
        return httpx2.Response(200, json={"done": True})

    answering(monkeypatch, CHANGE)
    monkeypatch.setattr(Afar, "_once", once)
    context = Context(URL, pem(OLD), "jane", session="s", csrf="c")
    assert Afar(context, kept.append).post("/api/service", {}) == {"done": True}
    assert (sent, [one.ca for one in kept]) == (["POST /api/service"], [pem(NEWER)])
    kept[0].save(tmp_path / "context.json")
    assert json.loads((tmp_path / "context.json").read_text())["session"] == "s"


def test_who_presents_what_no_statement_leads_to_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unverified(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == PATH:
            return httpx2.Response(200, json={"statements": []})
        raise httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")

    monkeypatch.setattr(httpx2, "HTTPTransport", lambda **_: httpx2.MockTransport(unverified))
    with pytest.raises(OperatorError) as refused:
        Afar(Context(URL, pem(OLD), "jane", session="s", csrf="c")).get("/api/node")
    assert refused.value.code == "FL-AFAR-CA"
    assert "log in again" in refused.value.remedy
