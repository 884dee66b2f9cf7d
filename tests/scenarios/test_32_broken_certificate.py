"""A Controller whose certificate was broken by hand starts, says so, and is mended by the command that it names.

Meanwhile, and while certificates are exchanged and SIGHUPs come, everybody who connects gets one whole pair.
"""

import asyncio
import hashlib
import json
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairlead.base.clock import SystemClock
from fairlead.controller import secrets
from fairlead.controller.initialise import STORE
from fairlead.enrol.trust import load as load_trust
from fairlead.store.protocol import Delete, Operation, Put
from fairlead.store.sqlite import SQLiteStore
from tests.processes import Daemon, Site

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]
OWN = "System-Default-Secure-Channel-Cert"
PLACE = secrets.CERTIFICATES + secrets.SECURE_CHANNEL


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def broken(controller: Daemon, how: str) -> None:
    """In the store's file, while the Controller does not run."""
    async def write() -> None:
        store = SQLiteStore.open(controller.state / STORE, SystemClock())
        try:
            key = await secrets.open_cluster_key(store, controller.state, load_trust(controller.state).node_id)
            own = await secrets.open_certified(store, key, PLACE)
            api = await secrets.open_certified(store, key, secrets.CERTIFICATES + secrets.API)
            ways: dict[str, Operation] = {
                "no pair": secrets.sealed(key, PLACE, secrets.Certified(own.certificate_pem, api.key_pem)),
                "no PEM": Put(PLACE, b'{"certificate": "x", "key": "AAAA"}'), "deleted": Delete(PLACE)}
            assert (await store.transact([], [ways[how]])).succeeded
        finally:
            await store.close()

    asyncio.run(write())


@dataclass
class Seen:
    """What connections were shown."""

    leaves: dict[str, set[str]] = field(default_factory=lambda: {"portal": set(), "api": set()})
    count: int = 0
    faults: list[str] = field(default_factory=list)


@contextmanager
def connecting(controller: Daemon, threads: int = 3) -> Iterator[Seen]:
    """All the time: a whole TLS 1.3 handshake, in which the server proves the key of the leaf, and a request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    seen, over = Seen(), threading.Event()

    def connect(port: str) -> None:
        with (socket.create_connection(("127.0.0.1", controller.ports[port]), 10) as plain,
              context.wrap_socket(plain) as tls):
            leaf = tls.getpeercert(binary_form=True)
            assert leaf is not None
            tls.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if not tls.recv(16).startswith(b"HTTP/1.1 "):
                seen.faults.append(f"{port}: no answer")
            seen.leaves[port].add(hashlib.sha256(leaf).hexdigest())
            seen.count += 1

    def keep_on(number: int) -> None:
        while not over.is_set():
            try:
                connect(("portal", "api")[number % 2])
            except OSError as error:
                seen.faults.append(f"{number}: {error}")
            number += 1

    def hang_up() -> None:
        while not over.wait(0.05):
            controller.signal(signal.SIGHUP)

    with ThreadPoolExecutor(threads + 1) as pool:
        work = [*(pool.submit(keep_on, number) for number in range(threads)), pool.submit(hang_up)]
        try:
            yield seen
        finally:
            over.set()
        for one in work:
            one.result(30)


def presented(controller: Daemon) -> str:
    pem = ssl.get_server_certificate(("127.0.0.1", controller.ports["portal"]))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.mark.parametrize("how", ["no pair", "no PEM", "deleted"])
def test_attack_it_starts_says_so_names_the_repair_and_is_repaired(site: Site, how: str) -> None:
    controller = site.controller()
    engine = site.engine(controller, "se-1")
    controller.stop()
    broken(controller, how)
    controller.start()
    (said,) = {event["code"] for event in controller.events("certificate.unusable")}
    (problem,) = controller.get("/api/status")["problems"]
    assert (said, problem.endswith("[FL-CERT-BROKEN]")) == ("FL-CERT-BROKEN", True)
    assert f"`fairlead cert use {OWN}`" in problem
    assert {one["name"]: one["status"] for one in controller.cli("cert", "list", "--json").done().json}[OWN] == "broken"
    controller.cli("cert", "use", OWN).done()
    assert controller.get("/api/status")["problems"] == []
    found = {one["name"]: one for one in controller.cli("cert", "list", "--json").done().json}
    assert found[OWN]["status"] == "finished"
    assert json.dumps(found).count("PRIVATE") == 0
    site.engine(controller, "se-2")
    assert controller.node("se-1")["state"] in ("up", "late")
    mended = presented(controller)
    controller.stop()
    controller.start()
    assert (presented(controller), controller.get("/api/status")["problems"]) == (mended, [])
    assert engine.runs


def test_attack_under_load_nobody_ever_gets_half_of_a_pair(site: Site) -> None:
    controller = site.controller()
    controller.stop()
    broken(controller, "no pair")
    controller.start()
    whole = {presented(controller)}
    with connecting(controller) as seen:
        controller.cli("cert", "use", OWN).done()
        whole.add(presented(controller))
        for name in ("one", "two"):
            controller.cli("cert", "create", "--name", name, "--common-name", "x.example.com").done()
            controller.cli("cert", "use", name).done()
            whole.add(presented(controller))
        controller.cli("cert", "use", OWN).done()
    assert seen.faults == []
    assert seen.count > 100
    assert seen.leaves["portal"] == whole
    assert len(whole) == 4
    assert len(seen.leaves["api"]) == 1
    assert controller.runs
