"""A node joins with one file; then every service is at one stable address for whoever may reach it, byte by byte."""

import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest

from tests.conftest import need
from tests.processes import Daemon, Site, ask, connect, echo, free_port, listens, read_all, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests


@dataclass(frozen=True)
class Mesh:
    site: Site
    controller: Daemon
    engine: Daemon

    def serve(self, name: str, owner: Daemon, target: int, allow: str) -> int:
        """Declare a service; its port at the owner's internal address."""
        port = free_port()
        self.controller.cli("service", "add", name, "--node", owner.name, "--port", port, "--target",
                            f"127.0.0.1:{target}", "--allow", allow).done()
        return port

    def address(self, who: Daemon, owner: Daemon) -> str:
        """Where *who* finds *owner*."""
        return who.see(str(self.controller.node(owner.name)["internal_address"]))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        controller = site.controller()
        yield Mesh(site, controller, site.engine(controller, "se-1"))


def test_1_a_used_bundle_is_deleted(mesh: Mesh) -> None:
    assert not list(mesh.site.folder.glob("*.bundle"))
    assert [row["state"] for row in mesh.controller.listed("token")] == ["redeemed"]


def test_2_files_are_fetched_byte_exact_both_ways_and_at_the_owners_own_address(mesh: Mesh, tmp_path: Path) -> None:
    need("curl")
    content = os.urandom(3_000_001)
    (tmp_path / "file").write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        try:
            inner = mesh.serve("web-se", mesh.engine, web.server_port, "controllers")
            outer = mesh.serve("web-ctl", mesh.controller, web.server_port, "engines")
            for who, owner, port in ((mesh.controller, mesh.engine, inner), (mesh.engine, mesh.controller, outer),
                                     (mesh.engine, mesh.engine, inner), (mesh.controller, mesh.controller, outer)):
                host = mesh.address(who, owner)
                until(partial(listens, host, port), f"{owner.name} is reached from {who.name}")
                got = subprocess.run(["curl", "--silent", "--show-error", "--fail", "--noproxy", "*",
                                      f"http://{host}:{port}/file"], capture_output=True, timeout=60, check=True)
                assert got.stdout == content, f"{who.name} -> {owner.name}"
        finally:
            web.shutdown()


@pytest.mark.parametrize("engine_owns", [True, False], ids=["to the engine", "to the Controller"])
def test_3_either_end_may_stop_talking_first(mesh: Mesh, engine_owns: bool) -> None:
    who, owner = (mesh.controller, mesh.engine) if engine_owns else (mesh.engine, mesh.controller)
    heard: SimpleQueue[bytes] = SimpleQueue()

    def answer_after_the_end(sock: socket.socket) -> None:
        sock.sendall(hashlib.sha256(read_all(sock)).digest())

    def end_then_listen(sock: socket.socket) -> None:
        sock.sendall(b"no more from me")
        sock.shutdown(socket.SHUT_WR)
        heard.put(read_all(sock))

    words = os.urandom(1_000_000)
    host = mesh.address(who, owner)
    with serving(answer_after_the_end) as one, serving(end_then_listen) as other:
        first = mesh.serve(f"first-{owner.name}", owner, one, who.name)
        second = mesh.serve(f"second-{owner.name}", owner, other, who.name)
        until(lambda: listens(host, first) and listens(host, second), "both are reached")
        assert ask(host, first, words) == hashlib.sha256(words).digest()
        with connect(host, second) as sock:
            assert read_all(sock) == b"no more from me"
            sock.sendall(words)
            sock.shutdown(socket.SHUT_WR)
            # Asking whether it listens is a stream too: one that says nothing, and may be heard of after this one.
            heard_first = iter(partial(heard.get, timeout=20), words)
            assert all(other == b"" for other in heard_first)


def test_4_a_service_comes_and_goes_without_a_restart(mesh: Mesh) -> None:
    host = mesh.address(mesh.controller, mesh.engine)
    with serving(echo) as target:
        port = mesh.serve("passing", mesh.engine, target, "controllers")
        assert until(lambda: ask(host, port, b"new"), "the service answers", 5) == b"new"
        with connect(host, port) as sock:
            sock.sendall(b"under way")
            assert sock.recv(100) == b"under way"
            mesh.controller.cli("service", "remove", "passing").done()
            until(lambda: not listens(host, port), "its listener is closed", 5)
        own = mesh.address(mesh.engine, mesh.engine)
        until(lambda: not listens(own, port), "also on its owner", 5)


def test_5_attack_an_engine_reaches_nothing_that_was_not_declared_for_it(mesh: Mesh) -> None:
    with serving(echo) as target:
        port = mesh.serve("private", mesh.controller, target, "controllers")
        assert until(lambda: ask(mesh.address(mesh.controller, mesh.controller), port), "the owner reaches it") == b"?"
        assert not listens(mesh.address(mesh.engine, mesh.controller), port)
        assert mesh.controller.cli("policy", "explain", "se-1", "private").code == 1
