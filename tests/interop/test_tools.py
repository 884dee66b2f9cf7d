"""Stock openssl and curl against the two HTTPS ports of a running Controller."""

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import need
from tests.processes import DEADLINE_S, Daemon, Site, connect

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    need("openssl", "curl")
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site.controller()


def s_client(port: int, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options], input="", text=True,
                          capture_output=True, timeout=DEADLINE_S, check=False)


def curl(port: int, path: str, *options: str) -> tuple[int, str]:
    """Status (0: no answer) and body."""
    done = subprocess.run(["curl", "--silent", "--insecure", "--noproxy", "*", "--max-time", "30", "--write-out",
                           "\n%{http_code}", *options, f"https://127.0.0.1:{port}{path}"],
                          capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize("name", ["portal", "api"])
def test_tls_1_3_and_nothing_older(controller: Daemon, name: str) -> None:
    port = controller.ports[name]
    good = s_client(port, "-tls1_3")
    assert "TLSv1.3, Cipher is TLS_" in good.stdout, good.stdout
    assert "Secure Renegotiation IS NOT" in good.stdout
    assert "Early data was not sent" in good.stdout
    for old in ("-tls1_2", "-tls1_1"):
        refused = s_client(port, old)
        assert refused.returncode != 0
        assert "Cipher is (NONE)" in refused.stdout, refused.stdout


def test_the_two_ports_have_certificates_of_their_own(controller: Daemon) -> None:
    cluster = controller.get("/api/status")["cluster_uuid"]
    shown = {}
    for name in ("portal", "api"):
        pem = s_client(controller.ports[name]).stdout
        shown[name] = subprocess.run(["openssl", "x509", "-noout", "-ext", "subjectAltName,extendedKeyUsage"],
                                     input=pem, capture_output=True, text=True, check=True).stdout
    assert f"DNS:portal.{cluster}.fairlead.internal" in shown["portal"]
    assert f"portal.{cluster}" not in shown["api"]
    assert all("TLS Web Server Authentication" in text and "Client" not in text for text in shown.values())


@pytest.mark.parametrize("name", ["portal", "api", "ssh"])
def test_plain_http_gets_no_answer(controller: Daemon, name: str) -> None:
    with connect("127.0.0.1", controller.ports[name]) as sock:
        sock.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(4096):
                answer += data
    assert b"HTTP/" not in answer
    assert answer.startswith(b"SSH-2.0-fairlead\r\n") if name == "ssh" else len(answer) < 16  # a TLS alert at most


def test_443_serves_version_and_health_and_refuses_all_else(controller: Daemon) -> None:
    port = controller.ports["api"]
    assert json.loads(curl(port, "/api/version")[1])["product"] == "fairlead"
    assert curl(port, "/api/health") == (200, '{"healthy":true}')
    for path in ("/api/status", "/api/node", "/api/node/ctl", "/api/token", "/api/service", "/api/tunnel", "/api/hosts",
                 "/api/audit", "/api/audit/verify", "/api/policy?node=ctl&service=x"):
        status, body = curl(port, path)
        assert (path, status, json.loads(body)["code"]) == (path, 401, "FL-LOGIN")
    for path, method in (("/api/bundle", "POST"), ("/api/stop", "POST"), ("/api/node/ctl", "DELETE"),
                         ("/api/service", "POST")):
        status, body = curl(port, path, "--request", method, "--json", "{}")
        assert (path, status) == (path, 401), body
    assert {curl(port, path)[0] for path in ("/", "/docs", "/openapi.json", "/api/securekeyexchange")} == {404}


def test_8443_serves_the_secure_key_exchange_and_nothing_else(controller: Daemon) -> None:
    port = controller.ports["portal"]
    for path in ("/", "/api/version", "/api/health", "/api/status", "/api/node", "/api/securekeyexchange/anchor/"):
        assert (path, curl(port, path)[0]) == (path, 404)
    status, body = curl(port, "/api/securekeyexchange", "--json", '{"v":1}')
    assert (status, json.loads(body)["code"]) == (400, "FL-JOIN-FORMAT")
    assert curl(port, "/api/securekeyexchange/anchor/" + "0" * 64)[0] in (403, 404)


def test_a_silent_peer_is_cut_and_others_are_served_meanwhile(controller: Daemon) -> None:
    with connect("127.0.0.1", controller.ports["portal"]) as silent:
        assert curl(controller.ports["portal"], "/")[0] == 404
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""
