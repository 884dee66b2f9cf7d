"""What Prometheus is told: this Controller and its engines in numbers, and where their exporters are.

Rules, and what each stops:

1. The text is written in a thread, and at most once a second, however many ask: of ten thousand engines it takes long,
   and streams do not wait for it.
2. An engine's numbers stand under the name that its key has in the directory; names of numbers are ours.
3. Exporters are those that this Controller may reach by policy, at the addresses where it finds them.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from math import isnan
from typing import Any, Protocol

from fairlead.api.documents import Configuring
from fairlead.controller.cluster import Cluster
from fairlead.controller.exposition import Series, Values, exposition
from fairlead.controller.mesh import Mesh
from fairlead.enrol.state import TokenRecord
from fairlead.link.metrics import METRICS, NAMES
from fairlead.nodes.address import View
from fairlead.nodes.node import Node
from fairlead.nodes.policy import reachable
from fairlead.store.protocol import StoreUnavailable

MOST_OFTEN_S = 1.0
STORE_S = 1.0
"""A store that does not answer for so long is not there."""
VERDICTS = ("applied", "refused", "behind")


class Tokens(Protocol):
    """Who keeps the one-time tokens."""

    async def tokens(self) -> list[tuple[TokenRecord, int]]:
        """All of them."""
        ...


class Told(Protocol):
    """Who keeps what engines say."""

    def last(self) -> Mapping[str, Sequence[float]]:
        """By the id of an engine, in the order of `NAMES`; NaN is what it has not said."""
        ...


class Numbers:
    """Reads everybody who knows one."""

    def __init__(self, *, version: str, view: View, mesh: Mesh, cluster: Cluster, tokens: Tokens,
                 configuration: Configuring, told: Told, answered: Values,
                 problems: Callable[[], Sequence[str]], stalled: Callable[[], float],
                 ends: Callable[[], Mapping[str, float]]) -> None:
        """*stalled*: for how long (seconds) the loop stood still at worst of late. *ends*: of which certificate when,
        seconds since the epoch."""
        self._version = version
        self._view = view
        self._mesh = mesh
        self._cluster = cluster
        self._tokens = tokens
        self._configuration = configuration
        self._told = told
        self._answered = answered
        self._problems = problems
        self._stalled = stalled
        self._ends = ends
        self._turn = asyncio.Lock()
        self._made = float("-inf"), ""

    async def exposition(self) -> str:
        """All of them, in Prometheus's text format; of a second ago at most."""
        async with self._turn:
            made, text = self._made
            if time.monotonic() - made >= MOST_OFTEN_S:
                series = [*self._own(), *await self._documents(), *await self._store()]
                text = await asyncio.to_thread(exposition, chain(series, self._engines()))
                self._made = time.monotonic(), text
            return text

    def targets(self) -> list[dict[str, Any]]:
        """Exporters of engines, as Prometheus's HTTP service discovery takes them."""
        marked = [service for service in self._mesh.directory.services.values() if service.scrape]
        found = sorted(reachable(self._mesh.me, self._nodes(), marked), key=lambda reach: (
            reach.owner.name, reach.service.name))
        return [{"targets": [f"{self._view.see(reach.address)}:{reach.port}"], "labels": {
            "__metrics_path__": reach.service.scrape, "engine": reach.owner.name, "service": reach.service.name}}
            for reach in found]

    def _nodes(self) -> list[Node]:
        return [node for node in self._mesh.directory.nodes.values() if node.role == "engine"]

    def _own(self) -> Iterator[Series]:
        sessions, routes = self._mesh.sessions, self._mesh.supervisor.routes
        tunnels = [*sessions.tunnels, *(tunnel for _, state, link, stream, _ in routes for tunnel in (link, stream)
                                        if state == "up" and tunnel is not None and not tunnel.closed.is_set())]
        brought, taken = sessions.carried
        yield Series("build_info", "The software of this Controller", {(self._version,): 1}, ["version"])
        yield _one("leading", "Whether this Controller leads", self._cluster.leading)
        yield _one("problems", "What is not as planned, lines of `fairlead status`", len(self._problems()))
        yield _one("loop_stall_seconds", "How long the event loop kept others waiting, at worst, in the last minute",
                   self._stalled())
        yield Series("certificate_expires_seconds", "When a certificate that is in use ends, seconds since the epoch",
                     {(name,): last for name, last in self._ends().items()}, ["name"])
        yield Series("tunnels", "Connections with nodes, by who dialled", _by(
            Counter(tunnel.direction for tunnel in tunnels)), ["direction"])
        yield _one("streams", "Streams that are open", sum(tunnel.streams for tunnel in tunnels))
        yield Series("stream_bytes", "Bytes that streams brought and took, on connections that nodes opened",
                     {("in",): brought, ("out",): taken}, ["direction"], counter=True)
        yield Series("http_requests", "Requests that were answered, by door and class of status",
                     dict(self._answered), ["door", "status"], counter=True)

    def _engines(self) -> Iterator[Series]:
        """What is known now; the rest is done where the text is written."""
        nodes, last = self._nodes(), self._told.last()
        return _of_engines({node.name: self._mesh.sessions.state(node) for node in nodes},
                           {node.name: last[node.id] for node in nodes if node.id in last})

    async def _documents(self) -> list[Series]:
        stages, verdicts = Counter[str](), Counter(dict.fromkeys(VERDICTS, 0))
        for document in self._configuration.all():
            stages[document.stage] += 1
            said = self._configuration.describe(document)
            verdicts.update({verdict: said[verdict] for verdict in VERDICTS})
            await asyncio.sleep(0)  # each goes through all engines
        return [Series("documents", "Configuration documents, by stage of their roll-out", _by(stages), ["stage"]),
                Series("document_engines", "Engines of all documents, by what became of those there", _by(verdicts),
                       ["verdict"])]

    async def _store(self) -> list[Series]:
        began = time.monotonic()
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(STORE_S):
                await self._cluster.store.now()
                took = time.monotonic() - began
                tokens = Counter(token.state for token, _ in await self._tokens.tokens())
                return [_one("store_up", "Whether the store answers", 1),
                        _one("store_read_seconds", "How long one read of the store just took", took),
                        Series("tokens", "One-time tokens that are kept, by state", _by(
                            {"open": 0, "reserved": 0} | tokens), ["state"])]
        return [_one("store_up", "Whether the store answers", 0)]


def _of_engines(states: Mapping[str, str], last: Mapping[str, Sequence[float]]) -> Iterator[Series]:
    yield Series("engines", "Engines, by state", _by({"up": 0, "late": 0, "down": 0} | Counter(
        states.values())), ["state"])
    yield Series("engine_up", "Whether an engine is connected here and not late",
                 {(name,): state == "up" for name, state in states.items()}, ["engine"])
    for place, name in enumerate(NAMES):
        told: Values = {(engine,): values[place] for engine, values in last.items() if not isnan(values[place])}
        yield Series(f"engine_{name}", METRICS[name].text, told, ["engine"], counter=METRICS[name].counter)


def _one(name: str, text: str, value: float) -> Series:
    return Series(name, text, {(): value})


def _by(counts: Mapping[Any, int]) -> Values:
    return {(str(label),): count for label, count in counts.items()}
