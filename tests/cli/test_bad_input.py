"""What people type, and the folders and ports that they have: each refusal is one line that says what to do."""

import os
import socket
from pathlib import Path

import pytest

from tests.conftest import need
from tests.processes import Daemon, Site, a_view, fairlead, free_port, init_arguments

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests

HOSTILE = {"command": "$(id)", "lines": "se-1\nse-2", "path": "../se-1", "terminal": "se\x1b[31m-1",
           "long": "a" * 65_536, "role": "engines"}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_refused_at_every_door(controller: Daemon, bundle: Path, tmp_path: Path, name: str) -> None:
    before = controller.listed("node")
    said = [fairlead("engine", "join", bundle, "--name", name, state=tmp_path / "se").refused("FL-NAME")]
    if name == HOSTILE["terminal"]:
        said += [fairlead("controller", "init", "--name", name, "--address", "127.0.0.1",
                          state=tmp_path / "ctl").refused("FL-NAME"),
                 fairlead("bundle", "request", "--role", "engine", "--name", name,
                          state=tmp_path / "asking").refused("FL-NAME"),
                 controller.cli("bundle", "export", "--role", "engine", "--node", name).refused("FL-NAME"),
                 controller.cli("service", "add", name, "--node", "ctl", "--port", 1, "--allow", "engines").refused(
                     "FL-NAME"),
                 controller.cli("node", "remove", name).refused("FL-NAME"),
                 controller.cli("node", "remove", "../service/db").refused("FL-NAME"),
                 controller.cli("token", "revoke", name).refused("FL-NAME")]
    assert all(line.isprintable() and len(line) < 500 for line in said)
    assert controller.listed("node") == before
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture(scope="module")
def idle(site: Site) -> Daemon:
    """A Controller that does not run."""
    made = site.daemon("controller", "idle", site.folder / "idle", a_view(), api=free_port(), portal=free_port(),
                       ssh=free_port())
    made.cli(*init_arguments(made), "--listen", "127.0.0.1").done()
    return made


@pytest.mark.parametrize("what", ["folder", "key", "settings"])
def test_a_state_folder_that_others_can_read_is_refused(idle: Daemon, what: str) -> None:
    path = {"folder": idle.state, "key": idle.state / "keys" / "host", "settings": idle.state / "fairlead.toml"}[what]
    mode = path.stat().st_mode
    path.chmod(mode | 0o055)
    try:
        assert "chmod" in idle.cli("controller", "run").refused("FL-STATE-OPEN")
    finally:
        path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_another_users_state_folder_is_refused(idle: Daemon, bundle: Path, tmp_path: Path) -> None:
    os.chown(idle.state, 65534, -1)
    try:
        for command in ("run", "destroy"):
            assert "65534" in idle.cli("controller", command).refused("FL-STATE-OWNER")
    finally:
        os.chown(idle.state, 0, -1)
    (tmp_path / "se").mkdir(mode=0o700)
    os.chown(tmp_path / "se", 65534, -1)
    fairlead("engine", "join", bundle, "--name", "se-x", state=tmp_path / "se").refused("FL-STATE-OWNER")
    assert bundle.exists()


@pytest.mark.parametrize("port", ["api", "portal", "ssh"])
def test_a_port_that_is_taken_names_the_flag_and_the_process(idle: Daemon, port: str) -> None:
    with socket.create_server(("127.0.0.1", idle.ports[port])):
        said = idle.cli("controller", "run").refused("FL-PORT-TAKEN")
    assert f"pid {os.getpid()} " in said
    assert f"--{port}-port" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else, in a network of his own")
def test_a_port_that_is_not_permitted_names_the_flag(tmp_path: Path) -> None:
    need("setpriv", "unshare")
    nobody = ["unshare", "--net", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set",
              "-all", "--"]
    state = Path(f"/tmp/fairlead-nobody-{os.getpid()}")  # pytest's own folders are not his to enter
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)
    try:
        made = fairlead("controller", "init", "--name", "ctl", "--address", "127.0.0.1", state=state, before=nobody)
        if "No module named" in made.err or "Permission denied" in made.err:
            pytest.skip("this checkout cannot be read by everybody")
        made.done()
        said = fairlead("controller", "run", state=state, before=nobody).refused("FL-PORT-PERMISSION")
        assert "--api-port" in said
        assert "CAP_NET_BIND_SERVICE" in said
    finally:
        for path in sorted(state.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        state.rmdir()


@pytest.mark.parametrize(("old", "new", "said"), [
    ("role", "colour = 1\nrole", "colour"), ("api_port = ", "api_port = 1", "api_port"), ("role", "[", "TOML")])
def test_a_settings_file_that_is_not_understood_in_full_is_refused(idle: Daemon, old: str, new: str, said: str) -> None:
    file = idle.state / "fairlead.toml"
    good = file.read_text()
    file.write_text(good.replace(old, new, 1))
    try:
        assert said in idle.cli("controller", "run").refused("FL-CONFIG")
    finally:
        file.write_text(good)


def test_wrong_usage_exits_with_2_and_no_daemon_with_1(idle: Daemon, tmp_path: Path) -> None:
    for arguments in (("engine", "join", "--name", "se-1"), ("bundle", "export", "--role", "king"), ("nonsense",),
                      ("controller", "init", "--name", "ctl"), ("service", "add", "x", "--port", "many")):
        wrong = idle.cli(*arguments)
        assert (wrong.code, "Traceback" in wrong.err) == (2, False), wrong
    idle.cli("status").refused("FL-DAEMON-DOWN")
    fairlead("status", state=tmp_path / "nowhere").refused("FL-STATE-MISSING")
    fairlead("engine", "run", state=idle.state).refused("FL-ROLE")
