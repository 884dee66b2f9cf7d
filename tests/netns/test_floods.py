"""Two thousand strangers at a door of a Controller that runs: a good engine joins meanwhile, and nothing grows.

C12 of the join protocol: strangers cause no store write, no unbounded memory or audit growth, and cannot lock out a
join. They come from one address and from two hundred, and who is cut comes again a second later.
"""

import contextlib
import json
import signal
import sqlite3
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import pytest

from tests.netns.ground import TOWN, Town, opened, private_mib, town
from tests.processes import Daemon, Site, ask, connect, echo, free_port, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

ROOM_MIB = 200
"""That all the floods together may take. 1024 strangers at the SSH door, their SSH begun, take two fifths of it."""
JOIN_S = 60.0
"""In a flood a join, with all its commands, takes five seconds."""
PATH = b"/api/securekeyexchange"


@dataclass
class Place:
    town: Town
    site: Site
    controller: Daemon
    engine: Daemon
    service: int
    """The port at which the engine finds a service of the Controller's."""
    calm_mib: float
    joined: int = 1

    def ask(self) -> bytes:
        """A question through the tunnel of the engine that has been here all the time."""
        return ask(self.engine.see("127.64.0.1"), self.service, b"hello")

    def link(self) -> Any:
        """Since when that engine's control connection is up."""
        return next(row["since"] for row in self.controller.listed("tunnel")
                    if row["kind"] == "control" and row["peer"] == "se-1")

    def join(self) -> None:
        """A good engine joins, and runs, by a deadline."""
        began = time.monotonic()
        self.site.engine(self.controller, f"flood-{self.joined}")
        assert time.monotonic() - began < JOIN_S
        self.joined += 1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with town() as ours, Site(tmp_path_factory.mktemp("site")) as site, serving(echo) as target:
        controller = site.controller(address=TOWN, everywhere=True)
        engine = site.engine(controller, "se-1")
        port = free_port()
        controller.cli("service", "add", "echo", "--node", "ctl", "--port", port, "--target", f"127.0.0.1:{target}",
                       "--allow", "engines").done()
        made = Place(ours, site, controller, engine, port, private_mib(controller))
        until(lambda: made.ask() == b"hello", "the engine reaches its service")
        yield made


@contextlib.contextmanager
def bounded(place: Place) -> Iterator[None]:
    """Memory has a bound for as long as the block lasts, and afterwards every descriptor is given back."""
    before, most, ended = opened(place.controller), [0.0], Event()

    def look() -> None:
        while not ended.wait(0.1):
            most.append(private_mib(place.controller))

    watching = Thread(target=look)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    assert max(most) - place.calm_mib < ROOM_MIB
    joined = 4  # an engine that came meanwhile has connections of its own
    until(lambda: opened(place.controller) <= before + joined, "every stranger's descriptor was given back")
    assert place.controller.get("/api/status")["problems"] == []


@pytest.mark.parametrize(("door", "sources", "manners", "least"), [
    ("portal", 1, "silent,hello,garbage", 16), ("portal", 200, "silent,hello,garbage,request", 256),
    ("ssh", 1, "silent,banner,kexinit", 64), ("ssh", 200, "silent,banner,kexinit", 256)])
def test_an_engine_joins_while_two_thousand_strangers_stand_at_a_door(
        place: Place, door: str, sources: int, manners: str, least: int) -> None:
    since = place.link()
    with bounded(place), place.town.flood(place.controller.ports[door], manners, sources=sources) as flood:
        flood.risen()
        place.join()
        assert place.ask() == b"hello"
        assert flood.now()["held"] >= least  # a flood it was, all the time
        assert flood.now()["cut"] > 1000
    assert place.link() == since  # the engine that was there has noticed nothing


def test_an_engine_joins_among_requests_that_drip_and_proofs_that_are_wrong(place: Place) -> None:
    with bounded(place), place.town.flood(place.controller.ports["portal"], "request,body,proof", number=600,
                                          sources=200) as flood:
        flood.risen(600)
        place.join()
        until(lambda: flood.now()["cut"] > 600, "who drips is cut")


@pytest.mark.parametrize("door", ["portal", "api"])
@pytest.mark.parametrize("framing", [b"Content-Length: 10737418240", b"Transfer-Encoding: chunked"])
def test_huge_and_endless_bodies_are_refused_and_not_kept(place: Place, door: str, framing: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    chunk = bytes(65536) if b"Length" in framing else b"10000\r\n" + bytes(65536) + b"\r\n"

    def pour(_: int) -> tuple[int, bytes]:
        """How many chunks were taken before the end, and what was said."""
        taken, heard = 0, b""
        with context.wrap_socket(connect(TOWN, place.controller.ports[door])) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(b"POST " + PATH + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + framing
                             + b"\r\n\r\n")
                while taken < 100_000:
                    sock.sendall(chunk)
                    taken += 1
            with contextlib.suppress(OSError):
                heard = sock.recv(4096)
        return taken, heard

    with bounded(place), ThreadPoolExecutor(8) as pourers:
        for taken, heard in pourers.map(pour, range(8)):
            assert taken < 100_000  # of six gigabytes
            assert not heard or heard.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 404 ", b"HTTP/1.1 401 ")), heard


def test_strangers_have_written_nothing_but_sums(place: Place) -> None:
    """The last: ends the Controller and looks at what is there."""
    place.join()
    place.controller.signal(signal.SIGTERM)
    assert place.controller.ended() == 0
    with contextlib.closing(sqlite3.connect(place.controller.state / "store.db")) as store:
        changed = {key.decode() for key, in store.execute("SELECT key FROM change")}
        audit = [json.loads(value) for key, value in store.execute("SELECT key, value FROM record")
                 if key.startswith(b"audit/")]
    kinds = Counter(key.partition("/")[0] for key in changed)
    assert kinds["nodes"] == kinds["names"] == kinds["addresses"] == place.joined + 1  # and the Controller
    assert kinds["audit"] == len(audit)
    assert {key.rpartition("/")[0] for key in changed if key.startswith("enrol/")} == {
        "enrol", "enrol/token", "enrol/live", "enrol/anchor"}
    events = Counter(record["event"] for record in audit)
    sums = [record for record in audit if record["event"] == "refused"]
    assert events == Counter({
        "token.issued": place.joined, "join.reserved": place.joined, "join.committed": place.joined,
        "cluster.created": 1, "controller.started": 1, "service.added": 1, "trust.stated": 1, "refused": len(sums)})
    assert len({record["details"]["minute"] for record in sums}) == len(sums) > 0  # one a minute, for their one network
    assert sum(int(record["details"]["unknown-token"]) for record in sums) > 100
    assert len(place.controller.log.splitlines()) < 100 * place.joined  # no line of the log for a stranger
