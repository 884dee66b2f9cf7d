"""Configuration goes down to engines and their answers come up: by stages, headless, over kills; and what must not.

The HAProxy is the real one; it carries traffic from a back end on the Controller through the tunnel.
"""

import http.client
import http.server
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.processes import Daemon, Site, an_address, ask, connect, echo, free_port, listens, serving, until

HALTED = "FL-DOCUMENT-HALTED"
pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def files(folder: Path, content: str, destination: str = "web") -> dict[str, Any]:
    return {"destination": destination, "files": [{"path": "page", "content": content}]}


def put(controller: Daemon, kind: str, name: str, body: dict[str, Any], *options: object) -> Any:
    return controller.cli("config", "put", kind, name, "-", "--wait", "--json", *options, given=json.dumps(body))


def answer(bind: str) -> bytes:
    host, _, port = bind.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    except OSError:
        return b""
    finally:
        connection.close()


@contextmanager
def back_end(text: bytes) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def engine(site: Site, controller: Daemon, name: str) -> Daemon:
    made = site.join(controller, name)
    folder = made.state.parent / f"{name}-etc"
    folder.mkdir()
    made.configure(haproxy={}, destinations={"web": {
        "folder": str(folder), "check": ["grep", "-qv", f"not {name}", str(folder / "page")],
        "reload": ["cp", str(folder / "page"), str(folder / "loaded")]}})
    made.start()
    until(lambda: controller.node(name)["state"] == "up", f"{name} is up")
    return made


def loaded(engine: Daemon) -> str:
    file = engine.state.parent / f"{engine.name}-etc" / "loaded"
    return file.read_text() if file.exists() else ""


def test_documents_come_by_stages_stay_over_kills_and_do_only_what_the_engine_declares(site: Site) -> None:
    controller = site.controller()
    engines = [engine(site, controller, f"se-{number}") for number in (1, 2, 3)]
    found = put(controller, "files", "page", files(site.folder, "one")).done().json
    assert (found["stage"], found["applied"]) == ("done", 3)
    assert [loaded(one) for one in engines] == ["one"] * 3, "1. all of them have it, and have reloaded"

    said = put(controller, "files", "page", files(site.folder, "not se-1")).refused(HALTED, alone=False)
    assert "se-1 refused it" in said
    assert [loaded(one) for one in engines] == ["one"] * 3, "2. what the first refuses comes to nobody else"
    status = controller.cli("config", "status", "files", "page", "--json")
    rows = {row["engine"]: row for row in json.loads(status.out)[0]["rows"]}
    assert (rows["se-1"]["verdict"], rows["se-2"]["verdict"]) == ("refused", "behind")
    assert status.code == 1

    said = put(controller, "files", "page", files(site.folder, "not se-3"), "--at-once").refused(HALTED, alone=False)
    assert "1 of 3 failed; se-3 refused it" in said, "3. where it breaks is said, and they keep theirs"
    assert [loaded(one) for one in engines] == ["not se-3", "not se-3", "one"]

    engines[1].signal(signal.SIGKILL)
    engines[1].ended()
    late = put(controller, "files", "page", files(site.folder, "two"), "--timeout", "2s")
    assert "se-2" in late.refused("FL-DOCUMENT-BEHIND", alone=False)
    controller.stop()
    engines[1].start()
    until(lambda: loaded(engines[1]) == "not se-3", "4. without any Controller it runs what it had")
    controller.start()
    until(lambda: loaded(engines[1]) == "two", "5. and takes what it has missed when one is there")
    until(lambda: controller.get("/api/config/files/page/status")["applied"] == 3, "and all have it")

    for body, words in (
            (files(site.folder, "x", destination="etc"), "declares no destination etc"),
            ({"files": [{"path": "../../trust.json", "content": "x"}]}, "a path is"),
            (files(site.folder, "x") | {"reload": ["sh", "-c", "id"]}, "is not a field")):
        assert words in put(controller, "files", "attack", body).err, "6. no document chooses a folder or a program"
    assert all(file.name in ("page", "loaded") for one in engines
               for file in (one.state.parent / f"{one.name}-etc").iterdir())


def test_an_engine_is_drained_without_a_stream_being_cut(site: Site) -> None:
    controller = site.controller()
    owner = site.engine(controller, "se-1")
    where = controller.see(str(controller.node("se-1")["internal_address"]))
    with serving(echo) as target:
        port = free_port()
        controller.cli("service", "add", "app", "--node", "se-1", "--port", port, "--target", f"127.0.0.1:{target}",
                       "--allow", "controllers").done()
        until(lambda: ask(where, port) == b"?", "1. it is reached")
        with connect(where, port) as stream:
            stream.sendall(b"1")
            assert stream.recv(1) == b"1"
            controller.cli("node", "drain", "se-1", "--wait", "--timeout", "1s").refused("FL-DRAIN-LATE")
            until(lambda: not listens(where, port), "2. nothing new begins")
            stream.sendall(b"2")
            assert stream.recv(1) == b"2", "3. what is open goes on"
        controller.cli("node", "drain", "se-1", "--wait").done()
        assert controller.node("se-1")["drained"]
        controller.cli("node", "drain", "se-1", "--undo").done()
        until(lambda: ask(where, port) == b"?", "4. and it is reached again")
    assert controller.cli("node", "drain", "ctl").refused("FL-NODE-CONTROLLER")
    assert owner.runs


def test_a_stock_haproxy_serves_a_back_end_on_the_controller_through_the_tunnel(site: Site) -> None:
    need("haproxy")
    controller = site.controller()
    balancer = engine(site, controller, "se-1")
    bind, other = f"{an_address()}:{free_port()}", f"{an_address()}:{free_port()}"

    def edge(*binds: str, service: str = "shop") -> dict[str, Any]:
        return {"listeners": [{"name": "web", "bind": list(binds), "mode": "http", "back_end": "app"}],
                "back_ends": [{"name": "app", "mode": "http", "servers": [
                    {"name": "a", "service": service, "check": False}]}]}

    with back_end(b"from the Controller") as port:
        put(controller, "haproxy", "edge", edge(bind)).refused(HALTED, alone=False)
        controller.cli("service", "add", "shop", "--node", "ctl", "--port", 8000, "--target", f"127.0.0.1:{port}",
                       "--allow", "engines").done()
        until(lambda: answer(bind) == b"from the Controller",
              "1. refused while the engine may not reach the service, and taken by itself when it may")
        put(controller, "haproxy", "edge", edge(bind, other)).done()
        assert (answer(bind), answer(other)) == (b"from the Controller",) * 2
        said = put(controller, "haproxy", "edge", edge(bind, "192.0.2.1:80")).refused(HALTED, alone=False)
        assert "may not listen on 192.0.2.1:80" in said
        assert answer(other) == b"from the Controller", "2. a bad one is refused and the old one stays"
        balancer.signal(signal.SIGKILL)
        balancer.ended()
        until(lambda: not answer(bind), "3. it dies with its engine")
        balancer.start()
        until(lambda: answer(bind) == b"from the Controller", "4. and comes back with it")
        controller.cli("config", "delete", "haproxy", "edge").done()
        until(lambda: not answer(bind), "5. until the document is taken back")
