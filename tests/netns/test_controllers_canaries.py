"""A cluster lives, changes its leader, is backed up and treated badly; then every secret lies in its own place only.

Looked for as on one Controller (`tests.scenarios.test_21_canaries`), and besides in all that etcd keeps, in its
command line and in its environment.
"""

import asyncio
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from fairlead.controller import secrets as sealing
from fairlead.enrol import bundle as bundles
from fairlead.enrol.trust import load
from fairlead.keys.wire import from_b64
from fairlead.pki.certificate import der_of
from fairlead.pki.verify import client_context
from fairlead.store.etcd import EtcdStore
from fairlead.store.gateway import Gateway
from tests.hostile.canaries import Canaries, Watcher, places
from tests.netns.controllers import Town, cluster
from tests.processes import Daemon, Result, fairlead, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]

ADMIN = "not asked for in these tests"  # which is the password of every town
PASSPHRASE = "canary, canary, sing no more"
WRONG = "canary that opens nothing"


class Life:
    """A town, what its commands have printed, and its secrets."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.canaries = Canaries()
        self.printed: list[str] = []
        for name, secret in (("password", ADMIN), ("passphrase", PASSPHRASE), ("wrong passphrase", WRONG)):
            self.canaries.add(name, secret)

    def run(self, at: str, *arguments: object, given: str | None = None) -> Result:
        """A command at that node; what it prints is kept."""
        done = self.town[at].cli(*arguments, given=given)
        self.printed += [done.out, done.err]
        return done

    def export(self, at: str, role: str, name: str) -> Path:
        """A plain bundle whose secrets are looked for from now on."""
        file = self.town.site.folder / f"{name}.bundle"
        self.run(at, "bundle", "export", "--role", role, "--node", name, "--output", file).done()
        self.canaries.add_bundle(name, bundles.decode(file.read_bytes()))
        return file

    def join(self, at: str, role: str, name: str) -> Daemon:
        """That node joins by a bundle of that Controller, and runs; it says all that it can."""
        file, made = self.export(at, role, name), self.town.node(role, name)
        address = ["--address", self.town.net.hosts[name].address] if role == "controller" else []
        self.run(name, role, "join", file, "--name", name, *address).done()
        made.configure(log_level="debug")
        return made.start()


def test_no_secret_of_a_cluster_is_where_it_does_not_belong(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with cluster(tmp_path / "site", controllers=1, spare=("ctl-2", "se-1")) as town, Watcher(tmp_path) as watcher:
        life = Life(town)
        founded(life, tmp_path / "copied")
        operated(life)
        audits = [life.run(at, "audit", "list", "--json", "--limit", 10_000).done().out for at in ("ctl-1", "ctl-2")]
        for daemon in town.nodes.values():
            daemon.stop()

        canaries, site = life.canaries, town.site.folder
        assert len(canaries.names) > 25
        logs = [daemon.log for daemon in town.nodes.values()]
        assert all(len(log) > 1000 for log in logs)
        assert '"etcd.said"' in logs[0]
        assert canaries.find("\n".join([*life.printed, *logs, *audits])) == set(), "1. nobody has said one"

        etcds = {line for line, _ in watcher.seen if b"--data-dir" in line}
        assert len(etcds) >= 2, "each member; its leash has the same arguments, for milliseconds, and may go unseen"
        shown = b"\n".join(line + b"\n" + environ for line, environ in watcher.seen)
        assert canaries.find(shown) == set(), "2. none is in a command line or an environment, etcd's neither"

        kept = {f"{name}/etcd/data/{what}" for name in ("ctl-1", "ctl-2") for what in ("member/snap/db", "member/wal")}
        assert all((site / one).exists() for one in kept)
        assert places(canaries, site) == {
            **{f"{node}/keys/{one}": {f"{node} {one}"} for node in ("ctl-1", "ctl-2", "se-1")
               for one in ("host", "user")},
            **{f"{node}/etcd/member.pem": {f"{node} etcd TLS"} for node in ("ctl-1", "ctl-2")},
            "ctl-1/node.key": {"node key", "ctl-1 node key"}, "ctl-2/node.key": {"ctl-2 node key"},
            "certificate/client.key": {"client TLS"}, "identity": {"identity"},
            "se-9.bundle": {"se-9 token"},
        }, "3. each file that may hold one holds its own only: no backup, and nothing that etcd keeps"
        for node in town.nodes.values():
            for file in (node.state, *node.state.rglob("*")):
                mode = 0o700 if file.is_dir() else 0o600
                assert stat.S_IMODE(file.stat().st_mode) == mode, f"4. {file} is open to others"


def founded(life: Life, copied: Path) -> None:
    """A second Controller makes a cluster of it; an engine joins by a bundle that the follower handed to the leader."""
    town, one = life.town, life.town["ctl-1"]
    one.configure(log_level="debug")
    one.signal(signal.SIGHUP)
    life.canaries.add_controller("ctl-1", one.state, copied)
    two = life.join("ctl-1", "controller", "ctl-2")
    town.until_well("ctl-1", "ctl-2")
    assert town.status("ctl-2")["leader"] == "ctl-1", "what the follower issues is handed over"
    engine = life.join("ctl-2", "engine", "se-1")
    until(lambda: all(node.node("se-1").get("state") == "up" for node in (one, two)), "the engine is up at both")
    life.canaries.add_node("se-1", engine.state)
    for node in (one, two):
        life.canaries.add_member(node.name, node.state)
    folder = town.site.folder / "certificate"
    life.run("ctl-2", "cluster", "client-certificate", "--output", folder).done()
    life.canaries.add_pem("client TLS", (folder / "client.key").read_bytes())
    with town.net.hosts["ctl-2"].inside():
        life.canaries.add_pem("ctl-2 API TLS", asyncio.run(api_key(two, folder)))


async def api_key(node: Daemon, certificate: Path) -> bytes:
    """The key of that Controller's API certificate, which lies in the store, sealed."""
    context = client_context([der_of((certificate / "ca.pem").read_bytes())])
    context.load_cert_chain(certificate / "client.pem", certificate / "client.key")
    trust = load(node.state)
    gateway = Gateway([f"https://{trust.internal_address}:2379"], context)
    store = EtcdStore(gateway)
    try:
        cluster_key = await sealing.open_cluster_key(store, node.state, trust.node_id)
        place = f"{sealing.CERTIFICATES}{sealing.API}/{trust.node_id}"
        return (await sealing.open_certified(store, cluster_key, place)).key_pem
    finally:
        await store.close()
        await gateway.close()


def operated(life: Life) -> None:
    """Backups of both kinds, tokens in every state, another leader, and what is refused."""
    town, site = life.town, life.town.site.folder
    life.export("ctl-2", "engine", "se-9")
    revoked = life.export("ctl-2", "engine", "se-8")
    life.run("ctl-2", "token", "revoke", bundles.decode(revoked.read_bytes()).token.id.hex()).done()
    late = town.nodes["se-8"] = town.site.daemon("engine", "se-8", site / "se-8", town["se-1"].view)
    late.before = town["se-1"].before
    life.run("se-8", "engine", "join", revoked, "--name", "se-8").refused("FL-JOIN-REVOKED", alone=False)
    revoked.unlink(missing_ok=True)
    del town.nodes["se-8"]  # it never ran

    life.run("ctl-2", "backup", "create", "--output", site / "under-words", "--passphrase-file", "-",
             given=PASSPHRASE).done()
    recipient = fairlead("backup", "key", "--output", site / "identity").done().out.strip()
    life.canaries.add("identity", from_b64((site / "identity").read_text().split()[-1]))
    life.run("ctl-1", "backup", "create", "--output", site / "to-a-recipient", "--recipient", recipient).done()
    show = ("backup", "show", site / "under-words", "--passphrase-file", "-")
    shown, refused = fairlead(*show, given=PASSPHRASE).done(), fairlead(*show, given=WRONG)
    refused.refused("FL-BACKUP-SEALED")
    life.printed += [recipient, shown.out, shown.err, refused.err]

    node = town["ctl-2"]
    node.stop()
    for file in (node.state / "node.key", node.state / "etcd" / "member.pem", node.state / "trust.json"):
        good = file.read_bytes()
        file.write_bytes(good[::-1])
        ended(node)
        file.write_bytes(good)
    node.start()
    town.until_well("ctl-1", "ctl-2")
    until(lambda: town["ctl-2"].node("se-1").get("state") == "up", "the engine is back")
    for words in ("cluster status", "status", "node list", "token list", "tunnel list"):
        for form in ((), ("--json",)):
            life.run("ctl-2", *words.split(), *form).done()
    for row in town["ctl-2"].listed("token"):
        life.run("ctl-2", "token", "show", row["id"]).done()


def ended(node: Daemon) -> None:
    """It runs until it finds that a file is damaged, and ends or says so."""
    node.start(ready=False)
    until(lambda: not node.runs or seen(node), "it finds the damage")
    node.stop()


def seen(node: Daemon) -> Any:
    return node.get("/api/status")["problems"]
