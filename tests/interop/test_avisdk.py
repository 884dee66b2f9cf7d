"""A Python SDK that others wrote, as its users have it, against a running Controller: it logs in, reads and writes."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Daemon, Site

PASSWORD = "admin-of-the-cluster-1"
DEADLINE_S = 30


@dataclass(frozen=True)
class Sdk:
    """The SDK's module, and a Controller."""

    api: Any
    controller: Daemon

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.controller.ports['api']}"

    def session(self, name: str = "admin", password: str = PASSWORD) -> Any:
        return self.api.ApiSession(self.url, name, password, tenant="admin", api_version="22.1.3", timeout=DEADLINE_S,
                                   verify=self.ca)

    @property
    def ca(self) -> str:
        return str(self.controller.state.parent / "ca.pem")


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    api = importlib.import_module("avi.sdk.avi_api")
    with Site(tmp_path_factory.mktemp("site")) as site, pytest.MonkeyPatch.context() as environment:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            environment.delenv(name, raising=False)  # its HTTP library asks them first
        controller = site.controller(password=PASSWORD)
        Path(controller.state.parent / "ca.pem").write_text(controller.cli("cluster", "ca").done().out)
        yield Sdk(api, controller)


def test_it_logs_in_and_lists_and_finds_by_name(sdk: Sdk) -> None:
    session = sdk.session()
    listed = session.get("node")
    assert (listed.status_code, listed.count()) == (200, 1)
    assert session.get_object_by_name("node", "ctl")["state"] == "up"
    assert session.remote_api_version["ProductName"] == "fairlead"


def test_it_writes_and_deletes(sdk: Sdk) -> None:
    session = sdk.session()
    made = session.post("service", data={"name": "web", "role": "controller", "port": 8080, "allow": ["engines"]})
    assert (made.status_code, made.json()["name"]) == (200, "web")
    assert session.delete("service/web").status_code == 200
    assert session.get("service").count() == 0


def test_it_logs_in_again_when_its_session_has_ended(sdk: Sdk) -> None:
    session = sdk.session()
    assert session.get("node").status_code == 200
    sdk.controller.cli("user", "password", "admin", "--password-file", "-", given=PASSWORD).done()  # ends all sessions
    assert session.post("service", data={"name": "web", "role": "controller", "port": 8080,
                                         "allow": ["engines"]}).status_code == 200
    assert session.delete("service/web").status_code == 200


def test_its_errors_are_those_that_it_knows(sdk: Sdk) -> None:
    with pytest.raises(sdk.api.APIError, match="Invalid credentials"):
        sdk.session("nobody", "wrong wrong wrong")
    with pytest.raises(sdk.api.ObjectNotFound):
        sdk.session().get("node/nobody").json()
    sdk.controller.cli("user", "add", "viewer-1", "--role", "viewer", "--password-file", "-",
                       given="the viewer's password").done()
    refused = sdk.session("viewer-1", "the viewer's password").delete("node/ctl")
    assert refused.status_code == 403
