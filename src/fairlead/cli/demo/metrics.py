"""The demo's witness: a stock Prometheus beside ctl-1 reads a stock exporter beside se-2, through the tunnel."""

import json
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from fairlead.base import files
from fairlead.cli.demo.report import Absent
from fairlead.cli.stage.machine import get, until
from fairlead.cli.stage.processes import Started
from fairlead.cli.stage.stage import LOOPBACK, Stage

PATIENCE_S = 40.0
"""Prometheus heeds what it discovers each five seconds."""


def prometheus(stage: Stage) -> str:
    """Prometheus finds the exporter, reads it and ctl-1, and is refused when its token is revoked."""
    programs = [shutil.which(name) for name in ("prometheus", "prometheus-node-exporter")]
    if None in programs:
        raise Absent("Prometheus")
    folder = stage.folder / "prometheus"
    folder.mkdir()
    started: list[Started] = []
    try:
        started.append(_exporter(stage))
        token = _token(stage, folder)
        (folder / "prometheus.yml").write_text(_configuration(stage, folder))
        started.append(stage.processes.start("prometheus", [
            "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{stage.port('prometheus')}"], stage.folder / "prometheus.log"))
        until("Prometheus reads ctl-1 and the exporter on se-2", lambda: _ask(stage, "up") == {
            "fairlead": 1.0, "exporters": 1.0}, PATIENCE_S)
        until("the exporter's numbers are there", lambda: _ask(stage, "node_load1{engine='se-2'}"))
        engines = _ask(stage, "sum by (job) (fairlead_engine_up)")["fairlead"]
        stage.fairlead("user", "token", "revoke", token, "--all", on="ctl-1").done()
        until("Prometheus is refused", lambda: _ask(stage, "up{job='fairlead'}") == {"fairlead": 0.0})
    finally:
        for process in started:
            stage.processes.end(process)
    return (f"it found se-2's exporter at ctl-1 by itself and read it through the tunnel, up == 1; ctl-1 tells it of "
            f"{engines:.0f} engines that are up; with its token revoked it is refused")


def _exporter(stage: Stage) -> Started:
    """One that runs, on se-2's loopback, and is declared. Raises Failed."""
    place = f"{LOOPBACK}:{stage.port('node-exporter')}"
    started = stage.processes.start("node-exporter", [
        "prometheus-node-exporter", f"--web.listen-address={place}", "--collector.disable-defaults",
        "--collector.loadavg"], stage.folder / "node-exporter.log")
    stage.fairlead("service", "add", "node-exporter", "--node", "se-2", "--port", str(stage.port("metrics")),
                   "--target", place, "--allow", "controllers", "--scrape", "/metrics", on="ctl-1").done()
    return started


def _token(stage: Stage, folder: Path) -> str:
    """The id of a token that reads metrics; its text, and the cluster's CA, are in *folder*. Raises FairleadError."""
    from fairlead.client.afar import Afar, Context
    password, chosen = folder / "password", secrets.token_urlsafe(24)
    files.write_private(password, chosen.encode())
    ca = stage.fairlead("cluster", "ca", on="ctl-1").done().out
    (folder / "ca.pem").write_text(ca)
    stage.fairlead("user", "add", "prometheus", "--role", "viewer", "--password-file", str(password), on="ctl-1").done()
    session = Afar(Context(f"https://{LOOPBACK}:{stage.port('ctl-1 api')}", ca, "prometheus")).log_in(chosen)
    made = Afar(session).post("/api/apitoken", {"scope": ["metrics:read"], "days": 1})
    files.write_private(folder / "token", made["token"].encode())
    return str(made["id"])


def _configuration(stage: Stage, folder: Path) -> str:
    """The guide's, as JSON, which is YAML."""
    place = f"{LOOPBACK}:{stage.port('ctl-1 api')}"
    known = {"authorization": {"type": "Bearer", "credentials_file": str(folder / "token")},
             "tls_config": {"ca_file": str(folder / "ca.pem")}}
    return json.dumps({"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": [
        {"job_name": "fairlead", "scheme": "https", "static_configs": [{"targets": [place]}], **known},
        {"job_name": "exporters", "http_sd_configs": [{"url": f"https://{place}/api/prometheus/targets", **known}]}]})


def _ask(stage: Stage, query: str) -> dict[str, float]:
    """What Prometheus knows, by job."""
    body = get(LOOPBACK, stage.port("prometheus"), f"/api/v1/query?query={quote(query)}")
    with suppress(ValueError, KeyError, TypeError):  # it is starting
        return {row["metric"]["job"]: float(row["value"][1]) for row in json.loads(body or b"")["data"]["result"]}
    return {}
