"""Every route of a Controller's API, by hand: what it needs, and that it is closed to whoever does not have it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from fairlead.api import swaggerui
from fairlead.api.application import permission_of
from fairlead.base.errors import Refused
from fairlead.controller.application import PUBLIC, application, routers
from fairlead.users.roles import PERMISSIONS, Person, Role, permits
from fairlead.users.sessions import csrf_of
from tests.unit.controller.everything import CLUSTER, Everything, parts

SECRETS: dict[str, Role] = {"s-admin": "admin", "s-operator": "operator", "s-viewer": "viewer"}
ALL = ("POST", "PUT", "PATCH", "DELETE")

OWN = {
    "GET /api/audit": "audit:read", "GET /api/audit/verify": "audit:read",
    "GET /api/audit/export": "audit:read", "POST /api/backup": "backup:create",
    "POST /api/bundle": "bundle:write", "GET /api/cloud/{uuid}/status": "fleet:read",
    "GET /api/cluster/ca": "status:read", "GET /api/cluster/version": "status:read",
    "POST /api/cluster/client-certificate": "cluster:certificate",
    "GET /api/config": "config:read", "GET /api/config/{kind}/{name}": "config:show",
    "GET /api/config/{kind}/{name}/status": "config:read", "PUT /api/config/{kind}/{name}": "config:write",
    "DELETE /api/config/{kind}/{name}": "config:write",
    "PUT /api/image/{uuid}/content": "image:write",
    "GET /api/upgrade": "image:read", "POST /api/upgrade": "image:write",
    "POST /api/upgrade/rollback": "image:write", "POST /api/upgrade/abort": "image:write",
    "GET /api/upgrade/root": "image:read", "POST /api/upgrade/root": "upgrade:trust",
    "GET /api/hosts": "node:read", "GET /api/hosts/known": "node:read",
    "GET /api/node": "node:read", "GET /api/node/{name}": "node:read",
    "GET /api/node/{name}/events": "node:read",
    "DELETE /api/node/{name}": "node:write", "POST /api/node/{name}/label": "node:write",
    "GET /api/node/{name}/logs": "log:read", "GET /api/node/{name}/streams": "tunnel:read",
    "POST /api/node/{name}/drain": "node:write", "POST /api/node/{name}/command": "node:write",
    "POST /api/node/{name}/release": "node:write", "GET /api/policy": "service:read",
    "GET /metrics": "metrics:read", "GET /api/prometheus/targets": "metrics:read",
    "GET /api/openapi.json": "status:read",
    "GET /api/rotation": "certificate:read", "GET /api/rotation/plan": "certificate:read",
    "POST /api/rotation": "certificate:write", "POST /api/rotation/abort": "certificate:write",
    "GET /api/service": "service:read",
    "POST /api/service": "service:write", "DELETE /api/service/{name}": "service:write",
    "GET /api/securetoken-generate": "bundle:write", "GET /api/serviceengine-inventory": "node:read",
    "GET /api/serviceengine/{uuid}/connected": "node:read", "GET /api/serviceengine/{uuid}/runtime": "node:read",
    "POST /api/sslkeyandcertificate/{uuid}/renew": "certificate:write", "GET /api/status": "status:read",
    "POST /api/stop": "daemon:stop", "GET /api/token": "token:read", "GET /api/token/{token_id}": "token:read",
    "DELETE /api/token/{token_id}": "token:write", "GET /api/tunnel": "tunnel:read",
    "PUT /api/user/{name}/password": "user:write", "PUT /api/user/{name}/role": "user:write",
    "GET /api/user/{name}/key": "user:read", "POST /api/user/{name}/key": "user:write",
    "DELETE /api/user/{name}/key/{fingerprint:path}": "user:write", "GET /api/useraccount/key": "session:own",
    "POST /api/useraccount/key": "session:own", "DELETE /api/useraccount/key/{fingerprint:path}": "session:own",
    "GET /api/apitoken": "session:own", "POST /api/apitoken": "session:own",
    "DELETE /api/apitoken/{token_id}": "session:own", "GET /api/user-apitoken": "user:read",
    "DELETE /api/user-apitoken/{token_id}": "user:write",
    "GET /api/useraccount": "session:own", "PUT /api/useraccount": "session:own"}
"""Routes apart from those that all kinds have."""
KINDS: dict[str, tuple[str, Sequence[str]]] = {
    "cloud": ("fleet", ALL), "serviceenginegroup": ("fleet", ALL), "tenant": ("tenant", ALL), "user": ("user", ALL),
    "sslkeyandcertificate": ("certificate", ALL), "securechannelmapping": ("channel", ALL[1:]),
    "securechannel": ("channel", ALL[1:]), "securechanneltoken": ("token", ("POST", "DELETE")),
    "securechannelavailablelocalips": ("channel", ()), "serviceengine": ("node", ("DELETE",)), "role": ("user", ()),
    "useraccountprofile": ("system", ("PUT", "PATCH")), "image": ("image", ("POST", "DELETE")),
    "upgradestatusinfo": ("status", ()),
    "backup": ("backup", ("DELETE",))}
"""What each kind's permissions begin with, and how its objects are changed."""
SINGLE = {"systemconfiguration": ("system", "default"), "controllerproperties": ("system", "global"),
          "cluster": ("status", f"cluster-{CLUSTER}")}
STRANGERS = {"GET /api/version", "GET /api/health", "GET /api/initial-data", "GET /api/cluster/status",
             "GET /api/cluster/runtime", "GET /api/trust", "POST /login", "POST /logout",
             *(f"GET {path}" for path in swaggerui.PUBLIC)}


def table() -> Iterator[tuple[str, str]]:
    yield from OWN.items()
    for path, (permission, methods) in KINDS.items():
        yield f"GET /api/{path}", f"{permission}:read"
        yield f"GET /api/{path}/{{uuid}}", f"{permission}:read"
        for method in methods:
            yield f"{method} /api/{path}" + ("" if method == "POST" else "/{uuid}"), f"{permission}:write"
    for path, (permission, uuid) in SINGLE.items():
        for place in (path, f"{path}/{uuid}"):
            yield f"GET /api/{place}", f"{permission}:read"
            yield from ((f"{method} /api/{place}", f"{permission}:write") for method in ("PUT", "PATCH"))


TABLE = dict(table())


SIGNED = {"signature-input": 'sig1=("@method");created=1;keyid="SHA256:x"', "signature": "sig1=:AAAA:"}


class People(Everything):
    """Three people, each with a session that is named after the role."""

    async def who(self, secrets: Sequence[str]) -> Person | None:
        return next((Person(SECRETS[s], SECRETS[s], csrf_of(s)) for s in secrets if s in SECRETS), None)


def afar(secret: str = "", **headers: str) -> httpx2.AsyncClient:
    """A client behind 443, in the session *secret*; whatever he asks for that he may is refused with FL-TEST."""
    everything: Any = Everything()
    everything.error = Refused("FL-TEST", "let in")
    people: Any = People()
    people.error = everything.error
    app = application(parts(everything, people))

    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {"fairlead": {"peer_uid": None, "source": "192.0.2.7"}}}, receive, send)

    known = {"cookie": f"sessionid={secret}", "x-csrftoken": csrf_of(secret)} if secret else {}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=entered), base_url="https://ctl-1",
                              headers=known | headers)


def test_the_table_is_whole_and_every_permission_is_somebodys() -> None:
    served = {f"{method} {route.path}": permission_of(route) for router in routers(parts(Everything()))
              for route in router.routes if isinstance(route, APIRoute) for method in route.methods or ()}
    assert {asked for asked, permission in served.items() if permission is None} == STRANGERS
    assert {path.partition(" ")[2] for path in STRANGERS} == set(PUBLIC)
    assert {asked: permission for asked, permission in served.items() if permission is not None} == TABLE
    assert set(TABLE.values()) <= PERMISSIONS["admin"]


@pytest.mark.parametrize("asked", TABLE)
async def test_each_route_is_closed_to_whoever_does_not_have_its_permission(asked: str) -> None:
    method, _, path = asked.partition(" ")
    path = re.sub(r"{\w+(:path)?}", "x", path)
    for place in (path, f"{path}/"):
        for secret, role in SECRETS.items():
            async with afar(secret) as client:
                answer = await client.request(method, place, json={})
            assert answer.status_code < 500
            assert (answer.status_code == 403) != permits(role, TABLE[asked]), (role, answer.text)
            if answer.status_code == 403:
                assert answer.json()["code"] == "FL-PERMISSION"
        async with afar() as client:  # nobody; and a node, whose signature counts on the portal only
            for signed in ({}, SIGNED):
                answer = await client.request(method, place, json={}, headers=signed)
                assert (answer.status_code, answer.json()["code"]) == (401, "FL-LOGIN")
        async with afar("s-nobody") as client:
            assert (await client.request(method, place, json={})).status_code == 401
        if method != "GET":
            async with afar("s-admin", **{"x-csrftoken": "x"}) as client:
                answer = await client.request(method, place, json={})
            assert (answer.status_code, answer.text) == (401, "CSRF token missing or incorrect.")


@pytest.mark.parametrize("name", ["evil.example", "localhost", "127.0.0.1:4443", "ctl-1.evil.example"])
async def test_whatever_name_leads_here_who_shows_nothing_is_a_stranger(name: str) -> None:
    async with afar("", host=name, origin=f"https://{name}") as client:
        for asked in TABLE:
            method, _, path = asked.partition(" ")
            answer = await client.request(method, re.sub(r"{\w+(:path)?}", "x", path), json={})
            assert (answer.status_code, answer.json()["code"]) == (401, "FL-LOGIN"), asked
            assert not [header for header in answer.headers if header.startswith("access-control-")]


class Told(Everything):
    """Knows the cluster."""

    async def cluster(self) -> dict[str, Any]:
        return {"quorum": True, "members": [], "tolerates": 0, "cluster_uuid": str(CLUSTER), "node": "ctl"}


async def test_strangers_are_told_whether_a_controller_is_there_and_no_more() -> None:
    app = application(parts(Told(), People()))

    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {"fairlead": {"peer_uid": None}}}, receive, send)

    for secret, more in (("", set()), ("s-viewer", {"quorum"})):
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=entered), base_url="https://ctl-1",
                                      headers={"cookie": f"sessionid={secret}"}) as client:
            said = (await client.get("/api/cluster/status")).json()
        assert set(said) & {"quorum", "cluster_state"} == more | {"cluster_state"}


class Numbered(Everything):
    """Has five nodes."""

    def nodes(self) -> list[dict[str, Any]]:
        return [{"name": f"n{number}", "state": "up", "role": "engine"} for number in range(5)]


async def test_our_own_resources_follow_the_same_conventions() -> None:
    app = application(parts(Numbered()))

    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {"fairlead": {"peer_uid": 0}}}, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=entered), base_url="https://ctl-1") as client:
        assert len((await client.get("/api/node")).json()["results"]) == 5
        assert (await client.get("/api/node?name=n3&fields=state")).json() == {
            "count": 1, "results": [{"name": "n3", "state": "up"}]}
        page = (await client.get("/api/node?page_size=2&fields=name")).json()
        assert (page["count"], len(page["results"])) == (5, 2)
        assert page["next"] == "https://ctl-1/api/node?page=2&page_size=2&fields=name"
        last = (await client.get("/api/node?page=3&page_size=2")).json()
        assert (len(last["results"]), "next" in last) == (1, False)
        assert (await client.get("/api/node?page=x")).json()["code"] == "FL-QUERY"
