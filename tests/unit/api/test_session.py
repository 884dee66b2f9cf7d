"""Behind 443: who logs in, what a session's role permits, and what another page's requests come to."""

import base64
import os
from collections.abc import Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI

from fairlead.api import nodes, session, system, users
from fairlead.api.application import build
from fairlead.api.welcome import welcoming
from fairlead.base.clock import HOUR
from fairlead.base.errors import Refused
from fairlead.objects.catalogue import Catalogue
from fairlead.users.accounts import Account
from fairlead.users.roles import Person, Role, permits
from fairlead.users.sessions import csrf_of
from tests.unit.controller.everything import Everything

SECRETS: dict[str, Role] = {"s-admin": "admin", "s-operator": "operator", "s-viewer": "viewer"}


class People:
    """Three people, each with a session that is named after the role."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, str, str]] = []
        self.ended: list[str] = []

    async def who(self, secrets: Sequence[str]) -> Person | None:
        for secret in secrets:
            if role := SECRETS.get(secret):
                return Person(role, role, csrf_of(secret))
        return None

    async def basic(self, name: str, password: str, source: str) -> Person:
        self.tried.append((name, password, source))
        if name == "off":
            raise Refused("FL-LOGIN-BASIC", "basic authentication is off")
        if password != "right":
            raise Refused("FL-LOGIN", "Invalid credentials")
        return Person(name, "viewer", "")

    async def bearer(self, text: str, permission: str, source: str) -> Person:
        self.tried.append(("", text, source))
        if text != "good":
            raise Refused("FL-LOGIN", "Invalid credentials")
        return Person("ci (token 1)", "viewer", "")

    async def log_in(self, name: str, password: str, source: str) -> tuple[Account, str]:
        self.tried.append((name, password, source))
        if password != "right":
            raise Refused("FL-LOGIN", "Invalid credentials")
        return Account(name, "admin", ""), "s-admin"

    async def log_out(self, secrets: Sequence[str]) -> None:
        self.ended += secrets


@pytest.fixture
def people() -> People:
    return People()


def served(people: People) -> list[APIRouter]:
    everything: Any = Everything()
    everything.error = Refused("FL-TEST", "let in")
    return [nodes.reading(everything), nodes.writing(everything, everything), system.stopping(lambda: None),
            session.routes(people, welcoming(Catalogue(), {"Version": "1"}, lambda: 15), lambda: 24 * HOUR),
            users.routes(everything)]


@pytest.fixture
def app(people: People) -> FastAPI:
    return build(served(people), version="1", public=system.PUBLIC | session.PUBLIC, people=people)


def afar(app: FastAPI, secret: str = "", uid: int | None = None, /, **headers: str) -> httpx2.AsyncClient:
    """A client behind 443, or with a *uid* on the control socket, in the session *secret*."""
    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {"fairlead": {"peer_uid": uid, "source": "192.0.2.7"}}}, receive, send)

    known = {"cookie": f"sessionid={secret}", "x-csrftoken": csrf_of(secret)} if secret else {}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=entered), base_url="https://ctl-1",
                              headers=known | headers)


@pytest.mark.parametrize("uid", [0, os.geteuid()])
async def test_on_the_control_socket_a_session_is_all_that_its_request_may(app: FastAPI, people: People,
                                                                           uid: int) -> None:
    """The command of somebody who came in over SSH runs as the daemon's user, and has none of that user's rights."""
    for secret, role in SECRETS.items():
        async with afar(app, secret, uid) as client:
            for method, path, permission in (("GET", "/api/node", "node:read"), ("DELETE", "/api/node/x", "node:write"),
                                             ("PUT", "/api/user/x/role", "user:write")):
                code = (await client.request(method, path, json={"role": "viewer"})).json()["code"]
                assert code == ("FL-TEST" if permits(role, permission) else "FL-PERMISSION")
    shown: list[dict[str, str]] = [
        {"cookie": "sessionid=ended"}, {"cookie": "sessionid="}, {"cookie": ""}, {"x-csrftoken": ""}, {"cookie": "x=y"},
        {"Cookie": 'avi-sessionid="s-nobody"'}, {"x-csrftoken": csrf_of("s-admin")}]
    for headers in shown:
        async with afar(app, "", uid) as client:
            answer = await client.get("/api/node", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "FL-LOGIN"), headers
    async with afar(app, "s-admin", uid, **{"x-csrftoken": "other"}) as client:
        assert (await client.delete("/api/node/x")).status_code == 401
    async with afar(app, "s-admin", os.geteuid() + 4711) as client:
        assert (await client.get("/api/node")).json()["code"] == "FL-PERMISSION", "the socket is not for everybody"
    async with afar(app, "", uid) as client:
        assert (await client.get("/api/node")).json()["code"] == "FL-TEST", "who operates the machine shows none"


async def test_a_write_needs_the_token_of_its_own_session(app: FastAPI) -> None:
    for shown in (b"", b"x", csrf_of("s-viewer").encode(), csrf_of("s-admin")[:-1].encode(), b"\xe4"):
        async with afar(app, "s-admin") as client:
            answer = await client.delete("/api/node/x", headers=[(b"x-csrftoken", shown)])
        assert (answer.status_code, answer.text) == (401, "CSRF token missing or incorrect.")
    async with afar(app, "s-admin", **{"x-csrftoken": ""}) as client:
        assert (await client.get("/api/node")).json()["code"] == "FL-TEST", "reading changes nothing"
    async with afar(app, "s-admin") as client:
        assert (await client.delete("/api/node/x")).json()["code"] == "FL-TEST"


@pytest.mark.parametrize("origin", [
    "https://evil.example", "null", "http://[", "", "https://ctl-1.evil.example", "https://ctl-1:444", "http://ctl-1",
    "http://ctl-1:443", "https://evil.example@ctl-1", "https://ctl-1/", "ctl-1", "//ctl-1", "https://"])
async def test_a_page_of_another_site_writes_nothing(app: FastAPI, people: People, origin: str) -> None:
    async with afar(app, "s-admin", origin=origin) as client:
        for path, body in (("/api/stop", None), ("/login", {"username": "a", "password": "right"}), ("/logout", None)):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "FL-ORIGIN")
    assert (people.tried, people.ended) == ([], [])
    for host, own in (("ctl-1", "https://ctl-1"), ("CTL-1:443", "https://ctl-1"), ("ctl-1:4443", "https://ctl-1:4443"),
                      ("[2001:db8::1]:443", "https://[2001:db8::1]")):
        async with afar(app, "s-admin", origin=own, host=host) as client:
            assert (await client.post("/api/stop")).status_code == 200
    async with afar(app, "s-admin") as client:
        two = [("origin", "https://ctl-1"), ("origin", "https://evil.example")]
        assert (await client.post("/api/stop", headers=two)).json()["code"] == "FL-ORIGIN"


async def test_attack_a_name_that_is_made_to_lead_here_brings_no_session_along(app: FastAPI) -> None:
    """By DNS, after its page was loaded: the browser asks us under that name, and has nothing of ours to show there."""
    async with afar(app) as browser:
        browser.cookies.jar.set_policy(DefaultCookiePolicy(  # RFC 6265's: without Domain, for that very name
            strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain))
        at = "https://ctl-1.example.com"
        assert (await browser.post(f"{at}/login", data={"username": "jane", "password": "right"},
                                   headers={"origin": at})).status_code == 200
        csrf = browser.cookies["csrftoken"]
        assert (await browser.get(f"{at}/api/node")).json()["code"] == "FL-TEST"
        for name in ("https://evil.example", "https://example.com", "https://a.ctl-1.example.com",
                     "https://ctl-2.example.com"):
            for method, path in (("GET", "/api/node"), ("DELETE", "/api/node/x"), ("POST", "/api/stop")):
                answer = await browser.request(method, name + path, headers={"origin": name, "x-csrftoken": csrf})
                assert (answer.status_code, answer.json()["code"]) == (401, "FL-LOGIN"), name
        for name in ("https://evil.example", "https://a.ctl-1.example.com"):
            answer = await browser.post(f"{at}/api/stop", headers={"origin": name, "x-csrftoken": csrf})
            assert (answer.status_code, answer.json()["code"]) == (403, "FL-ORIGIN")


@pytest.mark.parametrize("host", ["evil.example", "ctl-1.example.com", "example.com:443", "192.0.2.1"])
async def test_cookies_are_of_the_name_that_was_asked_alone_whatever_it_is(app: FastAPI, host: str) -> None:
    async with afar(app, "", host=host) as client:
        answers = [await client.post("/login", data={"username": "jane", "password": "right"}),
                   await client.post("/logout")]
    lines = [line for answer in answers for line in answer.headers.get_list("set-cookie")]
    assert len(lines) == 6
    for line in lines:  # what the prefix __Host- would ask for
        said = [part.strip().lower() for part in line.split(";")]
        assert {"secure", "path=/", "samesite=strict"} <= set(said)
        assert not [part for part in said if part.startswith("domain")]


@pytest.mark.parametrize("form", [True, False])
async def test_a_log_in_sets_the_cookies_that_clients_know(app: FastAPI, people: People, form: bool) -> None:
    given = {"username": "jane", "password": "right"}
    async with afar(app) as client:
        answer = await (client.post("/login", data=given) if form else client.post("/login", json=given))
    assert answer.status_code == 200
    said = answer.json()
    assert (said["session_cookie_name"], said["user"]["is_superuser"], said["controller"]["api_idle_timeout"]) == (
        "avi-sessionid", True, 15)
    cookies = {line.partition("=")[0]: line.lower() for line in answer.headers.get_list("set-cookie")}
    assert set(cookies) == {"csrftoken", "sessionid", "avi-sessionid"}
    for name, line in cookies.items():
        assert "secure" in line
        assert "samesite=strict" in line
        assert "domain" not in line, "a name that is made to lead here by DNS gets none of them"
        assert ("httponly" in line) == (name != "csrftoken")
    assert csrf_of("s-admin") in cookies["csrftoken"]
    assert answer.headers["cache-control"] == "no-store"
    assert people.tried == [("jane", "right", "192.0.2.7")]


@pytest.mark.parametrize("body", [b"", b"username=jane", b"{", b'{"username": "jane", "password": 1}', b"[]",
                                  b'{"username": "a", "password": "canary", "password": "b"}',
                                  b"\xff=1&password=canary",
                                  b"username=a&password=" + b"canary" * 1000])
async def test_what_is_no_log_in_is_refused_and_not_shown(app: FastAPI, people: People, body: bytes) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        async with afar(app) as client:
            answer = await client.post("/login", content=body, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (400, "FL-API-FORMAT")
        assert "canary" not in answer.text
    assert people.tried == []


async def test_wrong_credentials_are_401(app: FastAPI) -> None:
    async with afar(app) as client:
        answer = await client.post("/login", data={"username": "jane", "password": "wrong"})
    assert (answer.status_code, answer.json()["error"]) == (401, "Invalid credentials")
    assert "set-cookie" not in answer.headers


async def test_a_good_cookie_among_old_ones_counts(app: FastAPI) -> None:
    async with afar(app) as client:
        cookie = "csrftoken=x; sessionid=old; avi-sessionid=s-viewer; sessionid=older; avi-sessionid=s-viewer"
        assert (await client.get("/api/node", headers={"cookie": cookie})).json()["code"] == "FL-TEST"
        many = "; ".join([*(f"sessionid={n}" for n in range(50)), "sessionid=s-viewer"])
        assert (await client.get("/api/node", headers={"cookie": many})).status_code == 401, "looked at a few only"


async def test_log_out_ends_the_sessions_that_were_shown(app: FastAPI, people: People) -> None:
    async with afar(app, "s-viewer") as client:
        answer = await client.post("/logout")
    assert answer.status_code == 200
    assert people.ended == ["s-viewer"]
    assert all("max-age=0" in line.lower() for line in answer.headers.get_list("set-cookie"))


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(("header", "code"), [
    (basic("jane:right"), "FL-TEST"), (basic("jane:wrong"), "FL-LOGIN"), (basic("off:right"), "FL-LOGIN-BASIC"),
    (basic("jane"), "FL-LOGIN"), ("Basic ???", "FL-LOGIN"), ("Bearer x", "FL-LOGIN"),
    ("bearer good", "FL-TEST"), ("Digest x", "FL-LOGIN"), ("Basic", "FL-LOGIN")])
async def test_a_password_that_comes_along_counts_alone_and_a_good_session_beside_it_does_not(
        app: FastAPI, people: People, header: str, code: str) -> None:
    for secret, uid in (("", None), ("s-admin", None), ("", os.geteuid())):
        async with afar(app, secret, uid, authorization=header) as client:
            assert (await client.get("/api/node")).json()["code"] == code
            written = await client.delete("/api/node/x")
            assert written.json()["code"] == ("FL-PERMISSION" if code == "FL-TEST" else code)  # he is a viewer
