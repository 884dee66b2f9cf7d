"""A stock Prometheus on the Controller's machine, configured as the guide says, finds an exporter on an engine and
reads it through the tunnel; nobody else reads anything, and an engine that lies does so under its own name only."""

import asyncio
import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.enrol.trust import USER_KEY, load, load_key
from fairlead.keys import http
from fairlead.link import frames
from fairlead.link.messages import SUBSYSTEM, Hello, MetricsWanted, Plan, from_controller
from fairlead.mesh.dialling import dialling
from fairlead.pki.verify import unverified_context
from fairlead.transport.way import Stock
from tests.conftest import need
from tests.processes import Daemon, Site, fairlead, free_port, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]

PASSWORD = "admin-of-the-cluster-1"
GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
ABSURD = [
    '{"kind":"metrics","values":{"load1":NaN}}', '{"kind":"metrics","values":{"load1":1e999}}',
    '{"kind":"metrics","values":{"load1":1e300}}', '{"kind":"metrics","values":{"up":1}}',
    '{"kind":"metrics","values":{"load1":77},"engine":"se-1"}',
    '{"kind":"metrics","values":{"load1{engine=\\"se-1\\"}":77}}',
    json.dumps({"kind": "metrics", "values": {f"x{number}": 1.0 for number in range(200_000)}})]


@dataclass
class Place:
    """A Controller, two engines, an exporter beside the first one, and Prometheus beside the Controller."""

    controller: Daemon
    engine: Daemon
    thief: Daemon
    folder: Path
    token: str
    prometheus: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.controller.ports['api']}"

    def operate(self, *arguments: object, given: str | None = None) -> str:
        """A command of the admin, from afar."""
        return fairlead(*arguments, given=given, env={"XDG_CONFIG_HOME": str(self.folder / "me")}).done().out

    def ask(self, path: str, **headers: str) -> httpx2.Response:
        """The Controller's API, from afar."""
        with httpx2.Client(base_url=self.url, trust_env=False, headers=headers, verify=unverified_context()) as client:
            return client.get(path)

    def query(self, text: str) -> dict[tuple[str, str], float]:
        """What Prometheus knows, by job and engine."""
        try:
            answer = httpx2.get(f"http://127.0.0.1:{self.prometheus}/api/v1/query", params={"query": text},
                                trust_env=False)
        except httpx2.TransportError:  # it is starting
            return {}
        if answer.status_code == 503:  # still
            return {}
        return {(row["metric"]["job"], row["metric"].get("engine", "")): float(row["value"][1])
                for row in answer.json()["data"]["result"]}

    def numbers(self) -> dict[tuple[str, ...], float]:
        """What /metrics says now, by name and the values of labels."""
        answer = self.ask("/metrics", authorization=f"Bearer {self.token}")
        assert answer.status_code == 200
        return {(sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(answer.text) for sample in family.samples}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    need("prometheus", "prometheus-node-exporter")
    folder = tmp_path_factory.mktemp("prometheus")
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: object) -> None:
        log = (folder / f"{command[0]}.log").open("wb")
        with log:
            started.append(subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)], stdout=log,
                                            stderr=log))

    with Site(tmp_path_factory.mktemp("site")) as site:
        controller = site.controller(password=PASSWORD)
        engine, thief = (site.engine(controller, name) for name in ("se-1", "se-2"))
        made = Place(controller, engine, thief, folder, "", free_port())
        ca = folder / "ca.pem"
        ca.write_text(controller.cli("cluster", "ca").done().out)
        made.operate("login", made.url, "--ca", ca, "--user", "admin", "--password-file", "-", given=PASSWORD)
        made.operate("user", "add", "prometheus", "--role", "viewer", "--password-file", "-", given="one that nobody")
        made.operate("login", made.url, "--ca", ca, "--user", "prometheus", "--password-file", "-",
                     given="one that nobody")
        made.token = made.operate("user", "token", "add", "--scope", "metrics:read", "--days", "1").strip()
        (folder / "fairlead.token").write_text(f"{made.token}\n")
        exporter, port = free_port(), free_port()
        start("prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{exporter}", "--collector.disable-defaults",
              "--collector.loadavg")
        controller.cli("service", "add", "node-exporter", "--node", "se-1", "--port", port, "--target",
                       f"127.0.0.1:{exporter}", "--allow", "controllers", "--scrape", "/metrics").done()
        (folder / "prometheus.yml").write_text(configuration(made))
        try:
            start("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                  f"--web.listen-address=127.0.0.1:{made.prometheus}")
            yield made
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(20)
            sys.stderr.write((folder / "prometheus.log").read_text())


def configuration(place: Place) -> str:
    """The guide's, for this place, and each second."""
    found = re.search(r"```yaml\n(scrape_configs:.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    text = found[1].replace("ctl-1.example.com:443", place.url.removeprefix("https://")).replace(
        "/etc/prometheus", str(place.folder))
    return "global: {scrape_interval: 1s, scrape_timeout: 1s}\n" + text


def test_1_an_exporter_on_an_engine_is_found_and_read_through_the_tunnel(place: Place) -> None:
    until(lambda: place.query("up") == {("fairlead", ""): 1, ("exporters", "se-1"): 1}, "both jobs are up")
    until(lambda: ("exporters", "se-1") in place.query("node_load1"), "the exporter's numbers are there")
    until(lambda: place.query("fairlead_stream_bytes_total{direction='in'} > 0"), "they came through a tunnel")
    until(lambda: place.query("fairlead_engine_up") == {("fairlead", "se-1"): 1, ("fairlead", "se-2"): 1}, "both up")


def test_2_each_engine_tells_of_itself(place: Place) -> None:
    until(lambda: len(place.query("fairlead_engine_cpu_seconds_total > 0")) == 2, "both have told")
    until(lambda: len(place.query("fairlead_engine_resident_bytes > 1000000")) == 2, "of their memory")
    until(lambda: place.query("fairlead_engine_links") == {("fairlead", "se-1"): 1, ("fairlead", "se-2"): 1}, "links")


def test_3_an_engine_that_is_away_is_seen_to_be(place: Place) -> None:
    place.engine.stop()
    until(lambda: place.query("up{job='exporters'}") == {("exporters", "se-1"): 0}, "Prometheus sees it")
    until(lambda: place.query("fairlead_engine_up == 0") == {("fairlead", "se-1"): 0}, "the Controller says it")
    until(lambda: ("fairlead", "se-1") not in place.query("fairlead_engine_load1"), "nobody knows its numbers now")
    place.engine.start()
    until(lambda: place.query("up{job='exporters'}") == {("exporters", "se-1"): 1}, "and that it is back")
    until(lambda: [row["state"] for row in place.controller.cli("node", "events", "se-1", "--json").done().json][:2]
          == ["up", "down"], "and when that was can be read")


def test_4_attack_nobody_reads_anything_without_a_token_for_it(place: Place) -> None:
    other = place.operate("user", "token", "add", "--scope", "node:read", "--days", "1").strip()
    state = place.engine.state
    trust, key = load(state), load_key(state, USER_KEY)
    for path in ("/metrics", "/api/prometheus/targets"):
        signed = http.sign_request("GET", f"{place.url}{path}", b"", "application/json", key=key, nonce=b"n" * 16,
                                   to=http.recipient(trust.cluster_uuid, str(trust.controllers[0].node_id)), created=1)
        for headers, status, code in (
                ({}, 401, "FL-LOGIN"), (signed, 401, "FL-LOGIN"),
                ({"authorization": f"Bearer {other}"}, 403, "FL-PERMISSION"),
                ({"authorization": f"Bearer {place.token[:-1]}x"}, 401, "FL-LOGIN"),
                ({"authorization": f"Bearer {key.public.line.split()[1]}"}, 401, "FL-LOGIN")):
            answer = place.ask(path, **headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code), headers


async def lie(thief: Daemon, text: str) -> None:
    """Say *text* with that engine's key on its link, once it is asked for numbers; returns when the link has ended."""
    plan = Plan.model_validate_json((thief.state / "plan.json").read_bytes())
    trust, to = load(thief.state), plan.controllers[0]
    with closing(Stock()) as way:
        tunnel = await dialling(trust.user, lambda: [load_key(thief.state, USER_KEY)], 15.0, SystemClock(), way)(
            to, to.addresses[0])
        channel, decoder = await tunnel.subsystem(SUBSYSTEM), frames.Decoder()
        hello = Hello(v=1, software="x metrics/1", instance="lies", generation="", plan_revision=0)
        await channel.send(frames.encode(hello.model_dump()))
        heard: list[Any] = []
        try:
            async with asyncio.timeout(30):
                while not any(isinstance(one, MetricsWanted) for one in heard):
                    heard += map(from_controller, decoder.feed(await channel.receive()))
                await channel.send(struct.pack(">I", len(text)) + text.encode())
                while await channel.receive():
                    pass
        except FairleadError:
            pass  # it was hung up on
        finally:
            tunnel.close("told")


def test_5_attack_an_engine_that_tells_absurd_numbers_changes_nothing_for_others(place: Place) -> None:
    until(lambda: ("fairlead_engine_load1", "se-1") in place.numbers(), "the honest one has told")
    place.thief.stop()
    for text in ABSURD:
        asyncio.run(lie(place.thief, text))
    until(lambda: place.numbers()["fairlead_engine_up", "se-2"] == 0, "its link is over")
    until(lambda: place.numbers()["fairlead_engine_up", "se-1"] == 1, "nobody else's is")
    found = place.numbers()
    assert found["fairlead_engine_load1", "se-1"] != 77
    assert not [key for key in found if key[1:] == ("se-2",) and key[0] != "fairlead_engine_up"]
    assert not [key for key in found if key[0].startswith("fairlead_engine_x")]
    refused = [record for record in place.controller.events("link.refused") if record["peer"] == "se-2"]
    assert len(refused) == len(ABSURD)
    until(lambda: place.query("up") == {("fairlead", ""): 1, ("exporters", "se-1"): 1}, "both jobs are up as before")


def test_6_attack_a_token_that_was_revoked_opens_nothing(place: Place) -> None:
    row = next(row for row in json.loads(place.operate("user", "token", "list", "--json"))
               if row["scope"] == ["metrics:read"])
    place.operate("user", "token", "revoke", row["id"])
    until(lambda: place.query("up{job='fairlead'}") == {("fairlead", ""): 0}, "Prometheus is refused")
    for path in ("/metrics", "/api/prometheus/targets"):
        assert place.ask(path, authorization=f"Bearer {place.token}").json()["code"] == "FL-LOGIN"
