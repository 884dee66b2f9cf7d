"""The API of a Controller with a thousand engines, beside nginx, the web framework alone, and Argon2id alone.

A real Controller, of whose engines one runs and the others stand in the store as if they had joined. What it answers is
recorded once: nginx, with one worker, serves it from a file, which is what these clients can get at all, and a minimal
application makes JSON of it again, which is what the framework costs. All speak TLS 1.3 on loopback and share the
machine with the clients; of log-ins the bare comparison of the password is the most that there can be. Rounds are
interleaved, and the order changes with each. Nothing of this may change, or later figures do not compare with earlier
ones.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.cli.bench import peers
from fairlead.cli.bench.load import Counter
from fairlead.cli.bench.peers import LOAD, Absent, Ground, Peer
from fairlead.cli.bench.population import settle
from fairlead.cli.bench.requests import THERE, Connection, Task
from fairlead.cli.bench.rows import rotated
from fairlead.cli.bench.served import ASKED, LISTS, MANY, Served, beside
from fairlead.cli.program import FAIRLEAD
from fairlead.cli.stage.machine import answers, until
from fairlead.cli.stage.processes import Failed, Started
from fairlead.cli.stage.stage import LOOPBACK, Stage
from fairlead.users.accounts import new_password

WARM_S = 0.3
LOGINS_LONGER, BESIDE_LONGER = 5, 3
"""What is rare takes so many times as long."""
FOREVER_S = 3600.0
"""Of a load that is ended when what is measured beside it is done."""
PATHS = {"list": "/api/serviceengine?page_size=1000", "nodes": "/api/node", "version": "/api/version",
         "status": "/api/cluster/status", "one": "/api/serviceengine/{uuid}"}
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers, and how each thing is asked there."""

    port: int
    certificates: str
    requests: dict[str, str] = field(repr=False)


@dataclass(slots=True)
class Bench:
    """The servers, and what was measured of them."""

    ground: Ground
    seconds: float
    say: Callable[[str], None]
    engines: int = 1000
    servers: dict[str, Server] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    tunnel: Peer | None = None
    _sizes: dict[str, int] = field(default_factory=dict)
    _tasks: int = 0

    def start(self) -> None:
        """Start all of them. Raises Failed when ours does not start; of the others it is said."""
        self.ground.open()
        self.say(f"a Controller with {self.engines} engines is made")
        self.servers["fairlead"] = self._fairlead()
        folder = self._recorded()
        for name, way in (("framework", self._framework), ("nginx", self._nginx)):
            self.say(f"{name} is started")
            try:
                self.servers[name] = way(folder)
            except (Absent, Failed) as reason:
                self.missing[name] = str(reason)
        self.samples.update({name: {} for name in (*self.servers, "argon2")})

    def round(self, number: int) -> None:
        """Measure everything once. Raises Failed."""
        order = rotated(list(self.servers), number)
        for what in ASKED:
            for name in order:
                found = self._ask(name, what)
                self._add(name, f"{what}_per_s", found["per_s"])
                for percent in ("p50_us", "p99_us"):
                    self._add(name, f"{what}_{percent}", found[percent])
        for what in LISTS:
            for name in order:
                self._add(name, f"{what}_per_s_{MANY}", self._ask(name, what, MANY)["per_s"])
        for figure, at_a_time, threads in (("login_per_s", 1, 1), (f"login_per_s_{MANY}", MANY, 2)):
            for name in rotated(["fairlead", "argon2"], number):
                self._add(name, figure, self._ask(name, "login", at_a_time, LOGINS_LONGER)["per_s"]
                          if name == "fairlead" else self._hashes(threads))
        for load, loaded in (("bulk", self._bulk), ("logins", self._logins)):
            for name in (one for one in order if one != "framework"):
                with loaded(name):
                    self._add(name, beside(load), self._ask(name, "one", longer=BESIDE_LONGER)["p99_us"])

    def found(self, **settings: Any) -> Served:
        """All of it."""
        return Served(self.samples, self.missing, settings | {
            "seconds": self.seconds, "engines": self.engines, "bytes": self._sizes, "cores": os.cpu_count(),
            "load_average_after": round(os.getloadavg()[0], 1)})

    def close(self) -> None:
        """End everything that was started."""
        self.ground.processes.close()
        self.ground.close()

    # -- what is measured ---------------------------------------------------------------------------------------------

    def _ask(self, name: str, what: str, connections: int = 1, longer: int = 1) -> dict[str, Any]:
        task = self._task(name, what, connections, self.seconds * longer)
        said = self.ground.processes.run([*_program("requests"), str(task)]).done().out
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        if found["failed"] or not found["count"]:
            raise Failed(f"{what} of {name}: {found['count']} answers, and {found['failed'] or 'nothing else'}")
        return found

    def _hashes(self, threads: int) -> float:
        command = [*_program("hashing"), str(threads), str(self.seconds * LOGINS_LONGER), str(WARM_S)]
        return float(json.loads(self.ground.processes.run(command).done().out)["per_s"])

    @contextmanager
    def _bulk(self, name: str) -> Iterator[None]:
        assert self.tunnel is not None
        counter, (host, port) = Counter(self.ground.counter), self.tunnel.bulk
        at_first = counter.value
        sending = self.ground.start("sending", [*LOAD, "send", host, str(port), "--seconds", str(FOREVER_S),
                                                "--counter", str(self.ground.counter)], self.ground.near)
        until("bytes arrive through the tunnel", lambda: counter.value > at_first)
        began, before = time.monotonic(), counter.value
        yield
        self._add(name, "bulk_mb_per_s", (counter.value - before) / (time.monotonic() - began) / 1e6)
        self._end(sending)

    @contextmanager
    def _logins(self, _: str) -> Iterator[None]:
        task = self._task("fairlead", "login", MANY, FOREVER_S)
        log = task.with_suffix(".log")
        people = self.ground.processes.start("people", [*_program("requests"), str(task)], log)
        until("people log in", lambda: THERE in log.read_text())
        yield
        self._end(people)

    def _end(self, load: Started) -> None:
        if load.process.poll() is not None:
            raise Failed(f"{load.name} ended before its time")
        self.ground.processes.end(load)

    def _task(self, name: str, what: str, connections: int, seconds: float) -> Path:
        self._tasks += 1
        server = self.servers[name]
        return Task(LOOPBACK, server.port, server.certificates, server.requests[what], connections, seconds,
                    WARM_S).save(self.ground.folder / f"requests-{self._tasks}.json")

    def _add(self, name: str, figure: str, value: float) -> None:
        self.samples[name].setdefault(figure, []).append(value)

    # -- who answers --------------------------------------------------------------------------------------------------

    def _fairlead(self) -> Server:
        stage = Stage(self.ground.folder / "fairlead", self.ground.processes, free=self.ground.ports,
                      views=self.ground.views)
        stage.folder.mkdir()
        password, secret = new_password(), stage.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        stage.init("ctl-1", "--admin-password-file", str(secret))
        asyncio.run(settle(stage.node("ctl-1").state / "store.db", self.engines - 1))
        stage.run("ctl-1", "controller")
        stage.join(stage.export("se-1", "--node", "se-1"), "se-1").done()
        stage.run("se-1", "engine")
        self.tunnel = peers.offered(self.ground, "fairlead", stage)
        certificates = stage.folder / "ca.pem"
        certificates.write_text(stage.fairlead("cluster", "ca", on="ctl-1").done().out)
        port = stage.port("ctl-1 api")
        login = _request("POST", "/login", json.dumps({"username": "admin", "password": password}))
        connection = Connection(LOOPBACK, port, str(certificates))
        status, head, _ = connection.ask(login.encode())
        if status != 200:
            raise Failed(f"the log-in is answered with {status}")
        session = f"cookie: sessionid={head.decode().partition('sessionid=')[2].partition(';')[0]}\r\n"
        _, _, listed = connection.ask(_request("GET", PATHS["list"], more=session).encode())
        uuid = json.loads(bytes(listed))["results"][self.engines // 2]["uuid"]
        connection.close()
        return Server(port, str(certificates), {"login": login} | {
            what: _request("GET", path.format(uuid=uuid), more=session) for what, path in PATHS.items()})

    def _recorded(self) -> Path:
        """A folder with what ours answers, a file for each thing that is asked. Raises Failed."""
        folder = self.ground.folder / "recorded"
        folder.mkdir()
        ours = self.servers["fairlead"]
        connection = Connection(LOOPBACK, ours.port, ours.certificates)
        for what in PATHS:
            status, _, body = connection.ask(ours.requests[what].encode())
            if status != 200:
                raise Failed(f"{what} is answered with {status}")
            (folder / what).write_bytes(body)
            self._sizes[what] = len(body)
        connection.close()
        return folder

    def _framework(self, folder: Path) -> Server:
        certificate, key = peers.tls_pair(self.ground)
        port = next(self.ground.ports)
        started = self.ground.start("framework", [*_program("framework"), str(port), str(certificate), str(key),
                                                  str(folder)], self.ground.far)
        return self._listening(started, port, certificate)

    def _nginx(self, folder: Path) -> Server:
        tool = peers.program("nginx")
        certificate, key = peers.tls_pair(self.ground)
        port, path = next(self.ground.ports), self.ground.folder / "nginx.conf"
        path.write_text(
            (f"user {peers.user()};\n" if os.geteuid() == 0 else "") +
            f"daemon off;\nworker_processes 1;\npid {self.ground.folder}/nginx.pid;\nerror_log stderr error;\n"
            "events { worker_connections 512; }\nhttp {\naccess_log off;\ndefault_type application/json;\n" +
            "".join(f"{name}_temp_path {self.ground.folder}/{name};\n" for name in TEMPORARY) +
            f"ssl_certificate {certificate};\nssl_certificate_key {key};\nssl_protocols TLSv1.3;\n"
            "keepalive_requests 1000000000;\nkeepalive_timeout 1h;\nopen_file_cache max=16;\n"
            f"server {{ listen {LOOPBACK}:{port} ssl; root {folder}; }}\n}}\n")
        return self._listening(self.ground.start("nginx", [
            tool, "-p", str(self.ground.folder), "-e", "stderr", "-c", str(path)], self.ground.far), port, certificate)

    def _listening(self, started: Started, port: int, certificate: Path) -> Server:
        def look() -> bool:
            if started.process.poll() is not None:
                raise Failed(f"{started.name} ended: {self.ground.said(started.name)}")
            return answers(LOOPBACK, port)

        until(f"{started.name} answers", look)
        return Server(port, str(certificate), {what: _request("GET", f"/{what}") for what in PATHS})


def _program(name: str) -> tuple[str, ...]:
    return FAIRLEAD[0], "-m", f"fairlead.cli.bench.{name}"


def _request(method: str, path: str, body: str = "", more: str = "") -> str:
    """As it goes over the wire; *more*: further lines of its head."""
    length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nhost: {LOOPBACK}\r\nx-avi-version: 30.2.1\r\n{more}{length}\r\n{body}"
