"""A numbered stream through a tunnel of each engine: to a service of a Controller, or to one of the engine itself."""

import contextlib
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fairlead.client.control import ControlClient
from tests.netns.controllers import Town
from tests.netns.life import connected
from tests.processes import serving, until
from tests.streams import Numbered, returning

PAUSE_S = 0.1
TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Passage:
    """A service that gives back what it gets, and who reaches it where."""

    client: str
    address: str
    port: int
    there: "queue.Queue[str]"


@contextlib.contextmanager
def passages(town: Town, controllers: Sequence[str], engines: Sequence[str]) -> Iterator[list[Passage]]:
    """One between each engine and a Controller, in turn."""
    with contextlib.ExitStack() as after:
        made = []
        for number, engine in enumerate(engines):
            controller = controllers[number % len(controllers)]
            owner, client, allowed = ((engine, controller, "controllers") if number % 2 else
                                      (controller, engine, "engines"))
            there: queue.Queue[str] = queue.Queue()
            with town.net.hosts[owner].inside():
                target = after.enter_context(serving(returning(there)))
            port = town.port()
            ControlClient(town[controller].state, 60.0).post("/api/service", {
                "name": f"numbers-{engine}", "node": owner, "port": port, "target": f"127.0.0.1:{target}",
                "allow": [allowed]})
            made.append(Passage(client, str(town[controller].node(owner)["internal_address"]), port, there))
        yield made


@contextlib.contextmanager
def streaming(town: Town, ways: Sequence[Passage]) -> Iterator[None]:
    """A stream through each while the block runs; afterwards every byte was where it had to be, in order."""
    with contextlib.ExitStack() as after:
        running = []
        for way in ways:
            with town.net.hosts[way.client].inside():
                sock = after.enter_context(until(lambda way=way: connected(way.address, way.port),  # type: ignore[misc]
                                                 f"{way.client} reaches its service"))
            running.append(Numbered(sock, way.there, PAUSE_S))
            running[-1].begin()
        yield
        with ThreadPoolExecutor(TOGETHER) as pool:
            list(pool.map(Numbered.check, running))
