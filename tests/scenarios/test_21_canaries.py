"""A Controller and its engines live, and are treated badly; afterwards every secret lies in its own place only.

Looked for, in every spelling: in all that commands and daemons print, in command lines and environments while they
run, in the audit, the raw store and every file in every folder. Who may hold what is said file by file.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from fairlead.base.clock import SystemClock
from fairlead.enrol import bundle as bundles
from fairlead.enrol.join import JOURNAL, PENDING, Joiner
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import from_b64
from tests.hostile.canaries import Canaries, Watcher, places
from tests.processes import Daemon, Result, Site, a_view, ask, echo, fairlead, free_port, serving, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(400)]

PASSWORD = "canary-in-a-coal-mine"
SHORT = "canary-0x7f"
STRAY = "canary-put-where-it-does-not-belong"


class Life:
    """A site, what everybody in it has said, and its secrets."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.canaries = Canaries()
        self.printed: list[str] = []
        self.canaries.add("password", PASSWORD)
        self.canaries.add("short password", SHORT)
        self.canaries.add("stray", STRAY)

    def run(self, *arguments: object, state: Path | None = None, given: str | None = None,
            env: dict[str, str] | None = None) -> Result:
        """A command; what it prints is kept."""
        done = fairlead(*arguments, state=state, given=given, env=env)
        self.printed += [done.out, done.err]
        return done

    def export(self, controller: Daemon, name: str, *options: object) -> Path:
        """A plain bundle whose secrets are looked for from now on."""
        file = self.site.folder / f"{name}.bundle"
        self.run("bundle", "export", "--role", "engine", "--output", file, *options, state=controller.state).done()
        self.canaries.add_bundle(name, bundles.decode(file.read_bytes()))
        return file

    def pending(self, name: str, state: Path) -> None:
        """The secrets of a join that is not done."""
        fields = json.loads((state / PENDING / JOURNAL).read_text())
        for one in ("host", "user"):
            self.canaries.add_key(f"{name} {one}", PrivateKey.from_openssh(fields[f"{one}_key"].encode()))
        if fields["recipient"]:
            self.canaries.add(f"{name} recipient", from_b64(fields["recipient"]))


@contextlib.contextmanager
def damaged(file: Path, content: bytes) -> Iterator[None]:
    """*file* holds something else for a while."""
    good = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(good)


def test_secrets_are_found_in_their_own_places_only(tmp_path: Path) -> None:
    outside = set(Path.cwd().iterdir())
    (tmp_path / "site").mkdir()
    with Site(tmp_path / "site") as site, Watcher(tmp_path) as watcher, serving(echo) as target:
        life = Life(site)
        ctl, se1, se3 = enrolled(life)
        worked(life, ctl, se1, target)
        provoked(life, ctl, se1)
        audit = life.run("audit", "list", "--json", "--limit", 10_000, state=ctl.state).done().json
        assert len(audit) > 12
        live = b"".join(file.read_bytes() for file in ctl.state.glob("store.db*"))
        for daemon in (se1, se3, ctl):
            daemon.stop()

        canaries = life.canaries
        assert len(canaries.names) > 25
        logs = [ctl.log, se1.log, se3.log]
        assert all(len(log) > 200 for log in logs)
        assert sum(map(len, life.printed)) > 5_000
        assert canaries.find("\n".join([*life.printed, *logs])) == set(), "1. nobody has said one"
        assert canaries.find(json.dumps(audit)) == set(), "2. none is in the audit"
        assert canaries.find(live) == set(), "3. none is in the store as it lies on the disk, sealed keys and all"

        assert len(watcher.seen) > 10
        assert canaries.find(b"\n".join(line for line, _ in watcher.seen)) == set(), "4. none is in a command line"
        assert canaries.find(b"\n".join(environ for line, environ in watcher.seen if b"--from-env" not in line)) \
            == set(), "5. none is in an environment, but that of the join which was told to look there"

        assert places(canaries, site.folder) == {
            **{f"{node}/keys/{one}": {f"{node} {one}"} for node in ("ctl", "se-1", "se-2", "se-3")
               for one in ("host", "user")},
            "ctl/node.key": {"node key"},
            "by-env.bundle": {"by-env token"},
            "open.bundle": {"open token"},
            f"other/{PENDING}/{JOURNAL}": {"open token", "other host", "other user"},
        }, "6. each file that may hold one holds its own only"
        assert set(Path.cwd().iterdir()) == outside, "7. nothing was left where the commands ran, such as a core file"


def enrolled(life: Life) -> tuple[Daemon, Daemon, Daemon]:
    """A Controller, an engine that joined by a file, one by its environment, one by a sealed bundle."""
    site = life.site
    assert SHORT not in life.run("controller", "init", "--name", "no", "--address", "127.0.0.1",
                                 "--admin-password-file", "-", state=site.folder / "no", given=SHORT).refused(
                                     "FL-PASSWORD")
    ctl = site.controller(password=PASSWORD, log_level="debug")
    uuid = life.canaries.add_controller("ctl", ctl.state, site.folder / "copied")

    se1 = site.daemon("engine", "se-1", site.folder / "se-1", a_view())
    life.run("engine", "join", life.export(ctl, "by-file"), "--name", "se-1", "--view", se1.view,
             state=se1.state).done()
    by_environment(life, ctl, uuid)

    se3 = site.daemon("engine", "se-3", site.folder / "se-3", a_view())
    asked = life.run("bundle", "request", "--role", "engine", "--name", "se-3", state=se3.state).done().out
    life.pending("se-3", se3.state)
    sealed = site.folder / "sealed.bundle"
    life.run("bundle", "export", "--for", "-", "--output", sealed, state=ctl.state, given=asked).done()
    opened = Joiner(se3.state, "engine", "se-3", SystemClock()).unseal(sealed.read_bytes())
    life.canaries.add_bundle("sealed", opened)
    assert life.canaries.find(sealed.read_bytes()) == set()
    life.run("bundle", "show", sealed, "--json").done()
    life.run("engine", "join", sealed, "--name", "se-3", "--view", se3.view, state=se3.state).done()
    for engine in (se1, se3):
        life.canaries.add_node(engine.name, engine.state)
        engine.configure(log_level="debug")
        engine.start()
        until(lambda name=engine.name: ctl.node(name)["state"] == "up", "it is up")  # type: ignore[misc]
    return ctl, se1, se3


def by_environment(life: Life, ctl: Daemon, uuid: UUID) -> None:
    """``se-2`` joins by three variables; a mistyped token is refused first."""
    token = json.loads(life.export(ctl, "by-env").read_text())["token"]
    state = life.site.folder / "se-2"
    env = {"AVICNTRL": f"127.0.0.1:{ctl.ports['portal']}", "AVICNTRL_CLUSTERUUID": str(uuid)}
    join = ("engine", "join", "--from-env", "--name", "se-2", "--view", a_view())
    for text, code in ((token[:-1] + ("A" if token[-1] != "A" else "B"), "FL-TOKEN-CHECKSUM"),
                       ("x" + token, "FL-TOKEN-PREFIX")):
        life.run(*join, state=state, env=env | {"AVICNTRL_AUTHTOKEN": text}).refused(code)
    life.run(*join, state=state, env=env | {"AVICNTRL_AUTHTOKEN": token}).done()
    life.canaries.add_node("se-2", state)


def worked(life: Life, ctl: Daemon, se1: Daemon, target: int) -> None:
    """Traffic, everything that can be shown, a node that goes, and a reload."""
    port = free_port()
    life.run("service", "add", "db", "--role", "controller", "--port", port, "--target", f"127.0.0.1:{target}",
             "--allow", "engines", state=ctl.state).done()
    assert until(lambda: ask(se1.see("127.64.0.1"), port), "the service is reached") == b"?"
    life.run("status", state=se1.state).done()
    life.run("tunnel", "list", "--json", state=se1.state).done()
    shown: list[tuple[str, ...]] = [
        ("node", "list"), ("node", "show", "se-1"), ("token", "list"), ("service", "list"), ("audit", "list"),
        *(("token", "show", str(row["id"])) for row in ctl.listed("token"))]
    for words in shown:
        life.run(*words, "--json", state=ctl.state).done()
    life.run(*shown[-1], state=ctl.state).done()
    life.run("audit", "list", state=ctl.state).done()
    life.run("audit", "verify", state=ctl.state).done()
    life.run("node", "remove", "se-2", state=ctl.state).done()
    ctl.signal(signal.SIGHUP)
    until(lambda: ctl.events("reload.done"), "it has reloaded")

def provoked(life: Life, ctl: Daemon, se1: Daemon) -> None:
    """Refused joins, and damaged files of every kind, a restart; at last a daemon is aborted."""
    site = life.site
    revoked = life.export(ctl, "revoked")
    life.run("token", "revoke", bundles.decode(revoked.read_bytes()).token.id.hex(), state=ctl.state).done()
    life.run("engine", "join", revoked, "--name", "se-4", state=site.folder / "late").refused(
        "FL-JOIN-REVOKED", alone=False)
    open_bundle = life.export(ctl, "open")
    other = site.folder / "other"
    life.run("engine", "join", open_bundle, "--name", "se-1", state=other).refused("FL-JOIN-NAME", alone=False)
    life.pending("other", other)
    for form in ((), ("--json",)):
        life.run("bundle", "show", open_bundle, *form).done()
    good = open_bundle.read_bytes()
    for bad in (good[:-20], b"\xff" + good, good.replace(b'"engine"', b'"king"'), good.replace(b"flj1_", b"flj9_")):
        with damaged(open_bundle, bad):
            assert life.run("engine", "join", open_bundle, "--name", "se-5", state=site.folder / "se-5").code == 1
    journal = other / PENDING / JOURNAL
    with damaged(journal, journal.read_bytes().replace(b'"node"', b'"nodes"')):
        life.run("engine", "join", open_bundle, "--name", "se-5", state=other).refused("FL-STATE-DAMAGED")

    config = ctl.state / "fairlead.toml"
    for wrong in (f'\npassword = "{STRAY}"\n', f'\nlog_level = "{STRAY}"\n', f'\n"{STRAY}\n'):
        with damaged(config, config.read_bytes() + wrong.encode()):
            refused = len(ctl.events("reload.refused"))
            ctl.signal(signal.SIGHUP)
            until(lambda: len(ctl.events("reload.refused")) > refused, "it refuses its new settings")  # noqa: B023
    ctl.stop()
    for file, bad in ((ctl.state / "node.key", (ctl.state / "node.key").read_bytes()[::-1]),
                      (ctl.state / "keys/host", (ctl.state / "keys/host").read_bytes()[:-60]),
                      (ctl.state / "trust.json", (ctl.state / "keys/host").read_bytes())):
        with damaged(file, bad):
            assert life.run("controller", "run", state=ctl.state).code == 1, file
    ctl.start()
    until(lambda: ctl.node("se-1")["state"] == "up", "the engine is back")
    se1.signal(signal.SIGABRT)
    assert se1.ended() == -signal.SIGABRT
