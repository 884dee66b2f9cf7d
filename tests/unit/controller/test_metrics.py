"""What Prometheus is told: in its own words, under names that nobody chooses, and only what may be reached."""

import asyncio
import math
from array import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlead.controller import metrics
from fairlead.controller.exposition import Series, exposition
from fairlead.controller.metrics import Numbers
from fairlead.link.metrics import NAMES
from fairlead.nodes.address import View
from fairlead.nodes.service import Service
from fairlead.store.protocol import StoreUnavailable
from tests.unit.nodes.test_policy import CTL_1, SE_1, SE_2

EXPORTER = Service("exporter", "role:engine", 9100, "127.0.0.1", 9100, ("controllers",), "/metrics")
TUNNEL = SimpleNamespace(direction="in", streams=2)


class Controller:
    """Everybody who knows a number, and what they say."""

    def __init__(self) -> None:
        self.states = {"se-1": "up", "se-2": "down"}
        self.said: dict[str, array[float]] = {}
        self.broken: Exception | None = None
        self.reads = 0
        nodes = {node.id: node for node in (CTL_1, SE_1, SE_2)}
        self.directory = SimpleNamespace(nodes=nodes, services={"exporter": EXPORTER})
        mesh: Any = SimpleNamespace(
            me=CTL_1, directory=self.directory, supervisor=SimpleNamespace(routes=[]),
            sessions=SimpleNamespace(tunnels=[TUNNEL], carried=(10, 20), state=lambda node: self.states[node.name]))
        document = SimpleNamespace(stage="done")
        self.numbers = Numbers(
            version="1", view=View.parse("127.65.0.0/16"), mesh=mesh, tokens=cast("Any", self),
            cluster=cast("Any", SimpleNamespace(leading=True, store=self)), told=cast("Any", self),
            configuration=cast("Any", SimpleNamespace(all=lambda: [document, document], describe=lambda _: {
                "applied": 3, "refused": 1, "behind": 0})),
            answered={("api", "2xx"): 7, ("portal", "4xx"): 1}, problems=lambda: ["x"], stalled=lambda: 0.25,
            ends=lambda: {"root-ca": 1.5e9})

    async def now(self) -> int:
        self.reads += 1
        if self.broken:
            raise self.broken
        return 0

    async def tokens(self) -> Any:
        return [(SimpleNamespace(state="open"), 0), (SimpleNamespace(state="redeemed"), 0)]

    def last(self) -> Any:
        return dict(self.said)

    async def found(self) -> dict[tuple[str, ...], float]:
        """By name and the values of labels."""
        text = await self.numbers.exposition()
        return {(sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text) for sample in family.samples}


def told(**values: float) -> "array[float]":
    return array("d", [values.get(name, math.nan) for name in NAMES])


async def test_a_controller_in_numbers() -> None:
    controller = Controller()
    controller.said = {SE_1.id: told(load1=0.5, cpu_seconds=3.0), "of nobody": told(load1=9.0)}
    found = await controller.found()
    expected = {
        ("fairlead_build_info", "1"): 1, ("fairlead_leading",): 1, ("fairlead_problems",): 1,
        ("fairlead_loop_stall_seconds",): 0.25, ("fairlead_certificate_expires_seconds", "root-ca"): 1.5e9,
        ("fairlead_tunnels", "in"): 1, ("fairlead_streams",): 2, ("fairlead_stream_bytes_total", "in"): 10,
        ("fairlead_stream_bytes_total", "out"): 20, ("fairlead_http_requests_total", "api", "2xx"): 7,
        ("fairlead_http_requests_total", "portal", "4xx"): 1, ("fairlead_engines", "up"): 1,
        ("fairlead_engines", "late"): 0, ("fairlead_engines", "down"): 1, ("fairlead_engine_up", "se-1"): 1,
        ("fairlead_engine_up", "se-2"): 0, ("fairlead_engine_load1", "se-1"): 0.5,
        ("fairlead_engine_cpu_seconds_total", "se-1"): 3, ("fairlead_documents", "done"): 2,
        ("fairlead_document_engines", "applied"): 6, ("fairlead_document_engines", "refused"): 2,
        ("fairlead_document_engines", "behind"): 0, ("fairlead_store_up",): 1, ("fairlead_tokens", "open"): 1,
        ("fairlead_tokens", "reserved"): 0, ("fairlead_tokens", "redeemed"): 1}
    ours = {key: value for key, value in found.items() if key[0].startswith("fairlead_")}
    assert 0 <= ours.pop(("fairlead_store_read_seconds",)) < 1
    assert ours == expected
    assert found["process_resident_memory_bytes",] > 0


async def test_without_the_store_the_rest_is_told() -> None:
    controller = Controller()
    controller.broken = StoreUnavailable("no quorum")
    found = await controller.found()
    assert (found["fairlead_store_up",], found["fairlead_leading",]) == (0, 1)
    assert ("fairlead_tokens", "open") not in found


async def test_attack_however_many_ask_it_is_written_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = Controller()
    texts = await asyncio.gather(*(controller.numbers.exposition() for _ in range(50)))
    assert (len(set(texts)), controller.reads) == (1, 1)
    monkeypatch.setattr(metrics, "MOST_OFTEN_S", 0.0)
    await controller.found()
    assert controller.reads == 2


def test_attack_no_label_becomes_a_line() -> None:
    text = exposition([Series("x", "X", {('a"} 1\nfairlead_up 1\n\\',): 1.0}, ["engine"])])
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples
             if sample.name.startswith("fairlead")]
    assert [(sample.name, sample.labels) for sample in found] == [
        ("fairlead_x", {"engine": 'a"} 1\nfairlead_up 1\n\\'})]


def test_exporters_are_found_where_this_controller_reaches_them() -> None:
    assert Controller().numbers.targets() == [
        {"targets": [f"127.65.1.{node.internal_address.rpartition('.')[2]}:9100"], "labels": {
            "__metrics_path__": "/metrics", "engine": node.name, "service": "exporter"}} for node in (SE_1, SE_2)]


@pytest.mark.parametrize("change", [
    {"scrape": ""}, {"allow": ("ctl-2",)}, {"allow": ("engines",)}, {"owner": "role:controller"}, {"owner": "ctl-1"},
    {"owner": "se-9"}])
def test_attack_what_is_no_exporter_or_may_not_be_reached_is_not_found(change: dict[str, Any]) -> None:
    controller = Controller()
    controller.directory.services = {"exporter": replace(EXPORTER, **change)}
    assert controller.numbers.targets() == []


def test_an_engine_that_is_frozen_is_not_found() -> None:
    controller = Controller()
    controller.directory.nodes[SE_2.id] = replace(SE_2, state="frozen")
    assert [row["labels"]["engine"] for row in controller.numbers.targets()] == ["se-1"]
