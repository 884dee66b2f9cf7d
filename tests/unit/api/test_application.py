"""One application, two doors: who may do what at each, and how it refuses."""

import os
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI

from fairlead.api import enrolment, mesh, nodes, services, system
from fairlead.api.application import build, needs
from fairlead.base.errors import OperatorError, Refused
from fairlead.store.protocol import StoreUnavailable
from tests.unit.controller.everything import Everything


def application(everything: Any) -> FastAPI:
    return build([system.routes(everything, "1"), nodes.reading(everything), services.writing(everything),
                  mesh.routes(everything), enrolment.routes(everything, everything)], version="1", public=system.PUBLIC)


def door(app: FastAPI, uid: int | None) -> httpx2.AsyncClient:
    """A client whose connections come from the process of *uid* on the control socket, or (None) from 443."""

    async def entered(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {"fairlead": {"peer_uid": uid}}}, receive, send)

    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=entered), base_url="http://node")


async def test_the_control_socket_is_for_root_and_the_daemons_user() -> None:
    app = application(Everything())
    for uid, status in ((0, 200), (os.geteuid(), 200), (os.geteuid() + 4711, 403)):
        async with door(app, uid) as client:
            assert (await client.get("/api/tunnel")).status_code == status


def test_a_route_without_a_permission_is_not_served() -> None:
    router = APIRouter()

    @router.get("/api/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(ValueError, match="/api/forgotten"):
        build([router], version="1", public=frozenset())


@pytest.mark.parametrize(("error", "status"), [
    (Refused("FL-NODE-UNKNOWN", "no"), 404), (Refused("FL-SERVICE", "no"), 400),
    (OperatorError("FL-RUNNING", "no"), 409), (StoreUnavailable("full"), 503)])
async def test_a_refusal_keeps_its_code_and_gets_its_status(error: Exception, status: int) -> None:
    everything = Everything()
    everything.error = error
    async with door(application(everything), 0) as client:
        answer = await client.get("/api/node")
    assert answer.status_code == status
    assert answer.json()["code"] == getattr(error, "code", "")
    assert set(answer.json()) == {"error", "code", "remedy"}


@pytest.mark.parametrize("request_", [
    ("POST", "/api/bundle", {"role": "king"}), ("POST", "/api/bundle", {"role": "engine", "secret": 1}),
    ("POST", "/api/service", {"name": "x"}), ("GET", "/api/policy", None)])
async def test_what_is_malformed_is_refused_in_the_same_shape(request_: tuple[str, str, Any]) -> None:
    method, path, body = request_
    async with door(application(Everything()), 0) as client:
        answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "FL-API-FORMAT")


async def test_what_does_not_exist_is_refused_in_the_same_shape() -> None:
    async with door(application(Everything()), 0) as client:
        assert (await client.get("/api/nothing")).json()["code"] == "FL-API-ROUTE"
        assert (await client.put("/api/node")).json()["code"] == "FL-API-METHOD"
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 404


def test_needs_names_its_permission() -> None:
    assert needs("node:read").dependency.name == "node:read"
