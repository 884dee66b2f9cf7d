"""What the machine shows of us: three ports, folders that nobody else reads, no secret in a log or process list."""

import base64
import contextlib
import ipaddress
import json
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead.base.sockets import listening
from tests.processes import Daemon, Site, ask, echo, free_port, serving, until

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests

PASSWORD = "canary-in-a-coal-mine"


@dataclass(frozen=True)
class Place:
    controller: Daemon
    engine: Daemon
    token: str
    joined: str
    """What the join printed."""


@contextlib.contextmanager
def cores() -> Iterator[None]:
    """What is started here may leave core files of any size, as far as this process can grant it."""
    soft, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, most))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Site(tmp_path_factory.mktemp("site")) as site, serving(echo) as target, cores():
        controller = site.controller(everywhere=True, password=PASSWORD)
        bundle = site.bundle(controller)
        token = str(json.loads(bundle.read_text())["token"])
        engine = site.daemon("engine", "se-1", site.folder / "se-1", "127.253.0.0/20")
        done = engine.cli("engine", "join", bundle, "--name", "se-1", "--view", engine.view).done()
        engine.start()
        port = free_port()
        controller.cli("service", "add", "db", "--role", "controller", "--port", port, "--target",
                       f"127.0.0.1:{target}", "--allow", "engines").done()
        assert until(lambda: ask(engine.see("127.64.0.1"), port), "the service is reached") == b"?"
        yield Place(controller, engine, token, done.out + done.err)


def listeners(pid: int) -> set[tuple[str, int]]:
    """Where a process listens, by the inodes of its own sockets (proc(5))."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            own.add(str(descriptor.readlink()))
    return {(str(one.address), one.port) for name in ("tcp", "tcp6")
            for one in listening(Path(f"/proc/{pid}/net/{name}").read_text()) if f"socket:[{one.inode}]" in own}


def test_1_nothing_but_the_three_ports_listens_off_loopback(place: Place) -> None:
    controller, engine = listeners(place.controller.pid), listeners(place.engine.pid)
    outside = {(host, port) for host, port in controller if not ipaddress.ip_address(host).is_loopback}
    assert outside == {(host, port) for host in ("0.0.0.0", "::") for port in place.controller.ports.values()}
    assert engine, "it listens for its service"
    assert all(ipaddress.ip_address(host).is_loopback for host, _ in engine)


def test_2_nothing_in_a_state_folder_is_open_to_others(place: Place) -> None:
    for state in (place.controller.state, place.engine.state):
        found = [state, *state.rglob("*")]
        assert len(found) > 8
        open_to_others = [path for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]
        assert not open_to_others
        assert all(path.lstat().st_uid == state.stat().st_uid for path in found)


def test_no_daemon_leaves_a_core_file(place: Place) -> None:
    for daemon in (place.controller, place.engine):
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        allowed = "1" if resource.getrlimit(resource.RLIMIT_CORE)[1] else "0"
        assert line.removeprefix("Max core file size").split()[:2] == [allowed] * 2, line


def test_3_no_secret_is_in_a_log_or_a_process_list(place: Place) -> None:
    said = [place.controller.log, place.engine.log, place.joined,
            *(Path(f"/proc/{daemon.pid}/cmdline").read_text() for daemon in (place.controller, place.engine))]
    secrets = [PASSWORD, place.token, place.token[30:60]]
    secrets += ["".join(key.read_text().splitlines()[2:-1])[:60]
                for daemon in (place.controller, place.engine) for key in (daemon.state / "keys").glob("*[!b]")]
    secrets.append(base64.b64encode((place.controller.state / "node.key").read_bytes()).decode())
    assert len(secrets) == 8
    assert all(len(text) > 100 for text in said[:3])
    assert [secret for secret in secrets if any(secret in text for text in said)] == []


def test_4_attack_the_store_and_the_engine_hold_no_secret_in_the_clear(place: Place) -> None:
    store = b"".join(file.read_bytes() for file in place.controller.state.glob("store.db*"))
    engine = b"".join(file.read_bytes() for file in place.engine.state.rglob("*") if file.is_file())
    key = (place.controller.state / "node.key").read_bytes()
    for secret in (PASSWORD.encode(), place.token.encode(), place.token[30:60].encode(), b"PRIVATE KEY", key):
        assert secret not in store
        assert secret == b"PRIVATE KEY" or secret not in engine
