"""What scripts rely on: the keys of every object, tables without colour in a pipe, exit codes."""

import pytest

from tests.processes import Daemon, Site, a_view, fairlead, free_port, init_arguments

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy with other tests

NODE = {"name", "role", "state", "address", "internal_address", "fingerprint", "joined_at"}
TUNNEL = {"peer", "direction", "user", "state", "since", "streams", "bytes_in", "bytes_out", "cipher", "kex",
          "transport"}
TOKEN = {"id", "role", "node", "state", "expires_at", "issued_by", "refusals"}
SERVICE = {"name", "owner", "port", "target", "allow"}
STATUS = {"node", "role", "cluster_uuid", "leader", "version", "controllers", "engines", "tunnels"}


@pytest.fixture(scope="module", autouse=True)
def service(controller: Daemon, engine: Daemon) -> str:
    controller.cli("service", "add", "db", "--node", "se-1", "--port", free_port(), "--target", "127.0.0.1:5432",
                   "--allow", "controllers").done()
    return "db"


@pytest.mark.parametrize(("what", "keys"), [("node", NODE), ("tunnel", TUNNEL), ("token", TOKEN), ("service", SERVICE)])
def test_listings_have_their_keys_and_plain_tables(controller: Daemon, what: str, keys: set[str]) -> None:
    rows = controller.cli(what, "list", "--json").done().json
    assert rows
    assert all(keys <= set(row) for row in rows)
    table = controller.cli(what, "list").done()
    assert "\x1b" not in table.out + table.err
    head, *body = table.out.splitlines()
    assert len(body) == len(rows)
    column = head.index("STATE") if "STATE" in head else head.index("OWNER")
    assert all(line[column - 1] == " " and line[column] != " " for line in body), "columns are aligned"


def test_status_is_one_object_of_the_same_keys_on_both(controller: Daemon, engine: Daemon) -> None:
    for daemon, role in ((controller, "leader"), (engine, "engine")):
        status = daemon.cli("status", "--json").done().json
        assert set(status) >= STATUS
        assert status["role"] == role
        assert status["cluster_uuid"] == controller.get("/api/status")["cluster_uuid"]
        assert {"up": 1}.items() <= status["engines"].items()
        assert status["tunnels"]["transport"] == "accelerated"
        assert {t["transport"] for t in daemon.cli("tunnel", "list", "--json").done().json} <= {"accelerated", None}
        assert "\x1b" not in daemon.cli("status").done().out


def test_objects_name_what_they_should(controller: Daemon) -> None:
    node = controller.node("se-1")
    assert (node["role"], node["state"]) == ("engine", "up")
    assert node["internal_address"].startswith("127.64.1.")
    assert node["fingerprint"].startswith("SHA256:")
    assert node["joined_at"].endswith("Z")
    assert controller.node("ctl")["role"] == "leader"
    tunnel = controller.listed("tunnel")[0]
    assert (tunnel["user"], tunnel["direction"], tunnel["state"]) == ("aviseuser", "in", "up")
    assert "gcm" in tunnel["cipher"]
    assert any(row["allow"] == ["controllers"] and row["owner"] == "se-1" for row in controller.listed("service"))


def test_hosts_names_everybody_as_this_node_sees_them(controller: Daemon, engine: Daemon) -> None:
    address = controller.node("se-1")["internal_address"]
    ctl, se = "ctl.fairlead.internal ctl", "se-1.fairlead.internal se-1"
    assert engine.cli("hosts").done().out == f"{engine.see('127.64.0.1')}  {ctl}\n{engine.see(address)}  {se}\n"
    assert f"{controller.see(address)}  {se}\n" in controller.cli("hosts").done().out


def test_init_says_what_to_type_next_and_the_state_folder_may_come_from_the_environment(site: Site) -> None:
    made = site.daemon("controller", "ctl-env", site.folder / "ctl-env", a_view(), api=1, portal=2, ssh=3)
    said = fairlead(*init_arguments(made), env={"FAIRLEAD_STATE": str(made.state)}).done()
    assert [line.split()[0] for line in said.out.splitlines()] == ["fairlead"] * 3
    assert "password" in said.err
    assert (made.state / "fairlead.toml").exists()
    assert fairlead("version", "--json").done().json["product"] == "fairlead"
