"""The description of the API says what is served, no more and no less; and the pages that show it are safe to open."""

import hashlib
import re
from importlib.resources import files
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from openapi_spec_validator import OpenAPIV31SpecValidator

from fairlead.api import swaggerui
from fairlead.api.application import permission_of
from fairlead.api.configuration import PortalConfiguration, SystemConfiguration
from fairlead.api.description import document
from fairlead.api.documented import components
from fairlead.controller.application import application
from fairlead.objects.model import Item, Kind, Model, facts
from tests.unit.controller.everything import Everything, parts
from tests.unit.controller.test_application import afar


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, Any], FastAPI, list[Kind]]:
    whole = parts(Everything())
    app, kinds = application(whole), list(whole.catalogue.kinds.values())
    return document(app, kinds), app, kinds


def test_what_is_served_is_described_and_nothing_else(made: Any) -> None:
    described, app, _ = made
    assert not list(OpenAPIV31SpecValidator(described).iter_errors())
    served = {(method.lower(), route.path_format): permission_of(route) for route in app.state.routes
              for method in route.methods if route.path not in swaggerui.PUBLIC}
    said = {(method, path): operation for path, operations in described["paths"].items()
            for method, operation in operations.items()}
    assert {asked: operation["x-permission"] for asked, operation in said.items()} == served
    for (method, _), operation in said.items():
        assert operation["summary"]
        assert operation["tags"]
        permission = operation["x-permission"]
        assert (f"`{permission}`" if permission else "everybody") in operation["description"]
        assert operation["security"] == ([] if permission is None else [
            {"session": []} if method == "get" else {"session": [], "csrf": []}, {"bearer": []}, {"basic": []}])
        good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        assert len(good) == 1
        assert method == "delete" or next(iter(good[0]["content"].values()))["schema"]
        for status in {"400", "503"} | ({"401", "403"} if permission else set()):
            assert "application/json" in operation["responses"][status]["content"]
    names = [operation["operationId"] for operation in said.values()]
    assert len(names) == len(set(names))


def test_every_name_of_a_schema_leads_to_one(made: Any) -> None:
    described, _, _ = made
    named = set(re.findall(r"'#/components/schemas/(\w+)'", repr(described)))
    assert named <= set(described["components"]["schemas"])


def test_secrets_are_only_taken_and_what_the_server_says_is_only_read(made: Any) -> None:
    described, _, kinds = made
    schemas = described["components"]["schemas"]
    models: list[type[Model]] = [kind.model for kind in kinds]
    for model in models:
        models += [one.inner for one in facts(model) if one.inner is not None and one.inner not in models]
        for one in facts(model):
            taken = schemas[model.__name__]["properties"][one.name]
            assert taken.get("writeOnly", False) == one.secret
            assert taken.get("readOnly", False) == one.computed
            assert (one.name in schemas[f"{model.__name__}Shown"]["properties"]) == (not one.secret)
            if one.ref is not None:
                assert f"/api/{one.ref}/UUID" in taken["description"]
    assert schemas["User"]["properties"]["password"]["writeOnly"]
    assert components(kinds)["UserList"]["properties"]["results"]["items"] == {"$ref": "#/components/schemas/UserShown"}


async def test_the_description_is_for_whoever_is_logged_in() -> None:
    async with afar() as stranger, afar("s-viewer") as viewer:
        assert (await stranger.get("/api/openapi.json")).status_code == 401
        answer = await viewer.get("/api/openapi.json")
    assert (answer.status_code, answer.json()["openapi"][:3]) == (200, "3.1")


async def test_the_pages_run_nothing_but_their_own_files_and_can_be_switched_off() -> None:
    async with afar() as client:
        answers = {path: await client.get(path) for path in swaggerui.PUBLIC}
        beside = [await client.get(f"/swagger/{name}") for name in
                  ("README", "LICENSE", "page.html", "../application.py", "..%2fapplication.py", "%2e%2e/headers.py")]
    for answer in answers.values():
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == swaggerui.POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in swaggerui.POLICY
    page = answers["/swagger"].text
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src=)|https?://", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == swaggerui.PUBLIC - {"/swagger"}
    assert {answer.status_code for answer in beside} == {404}
    whole = parts(Everything())
    system = SystemConfiguration(portal_configuration=PortalConfiguration(disable_swagger=True))
    whole.shelf._found["systemconfiguration"] = {"default": Item("default", system)}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=application(whole)),
                                  base_url="https://ctl-1") as client:
        assert {(await client.get(path)).status_code for path in swaggerui.PUBLIC} == {404}


def test_what_others_wrote_is_what_its_readme_says() -> None:
    folder = files("fairlead.api") / "swagger"
    said = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", (folder / "README").read_text(), re.MULTILINE))
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in said.values()} == {
        name: digest for digest, name in said.items()}
    assert {name for name, _ in swaggerui.FILES.values()} <= set(said.values()) | {"page.html", "page.js", "page.css"}


@pytest.mark.parametrize("asked", ["/api/version", "/api/nothing", "/api/node", "/swagger/page.js"])
async def test_every_answer_says_what_a_browser_may_not_make_of_it(asked: str) -> None:
    async with afar() as client:
        headers = (await client.get(asked)).headers
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["cache-control"] == ("no-cache" if asked.startswith("/swagger") else "no-store")


async def test_a_method_that_is_not_there_is_refused_with_those_that_are() -> None:
    async with afar("s-admin") as client:
        answer = await client.request("PUT", "/api/cloud")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
