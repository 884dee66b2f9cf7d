"""People at a Controller: from afar, with a session and a role; and what guessing, planting and stealing come to."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from fairlead.pki.verify import unverified_context
from tests.processes import Daemon, Result, Site, fairlead

pytestmark = pytest.mark.timeout(400)

PASSWORD = "admin-of-the-cluster-1"


@dataclass(frozen=True)
class Office:
    """A Controller, and somebody's machine from which it is operated."""

    controller: Daemon
    home: Path
    ca: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.controller.ports['api']}"

    def afar(self, *arguments: object, given: str | None = None, who: str = "me") -> Result:
        """One command on that machine, where no node is."""
        env = {"XDG_CONFIG_HOME": str(self.home / who), "SSL_CERT_FILE": "/nonexistent",
               "HTTPS_PROXY": "http://127.0.0.1:1"}
        return fairlead(*arguments, given=given, env=env)

    def login(self, name: str, password: str, who: str = "me", ca: Path | None = None) -> Result:
        return self.afar("login", self.url, "--ca", ca or self.ca, "--user", name, "--password-file", "-",
                         given=password, who=who)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        controller = site.controller(password=PASSWORD)
        home = site.folder / "home"
        home.mkdir()
        ca = home / "ca.pem"
        ca.write_text(controller.cli("cluster", "ca").done().out)
        yield Office(controller, home, ca)


def test_1_the_admin_logs_in_from_afar_and_operates(office: Office) -> None:
    assert "admin is logged in" in office.login("admin", PASSWORD).done().err
    context = office.home / "me" / "fairlead" / "context.json"
    assert stat.S_IMODE(context.stat().st_mode) == 0o600
    assert PASSWORD not in context.read_text()
    assert [node["name"] for node in office.afar("node", "list", "--json").done().json] == ["ctl"]
    office.afar("user", "add", "jane", "--role", "viewer", "--password-file", "-", given="the password of jane").done()
    made = office.afar("user", "add", "olga", "--role", "operator").done()
    assert "shown this once" in made.err
    assert {(u["name"], u["role"]) for u in office.afar("user", "list", "--json").done().json} == {
        ("admin", "admin"), ("jane", "viewer"), ("olga", "operator")}


def test_2_a_viewer_looks_and_changes_nothing(office: Office) -> None:
    office.login("jane", "the password of jane", "jane").done()
    assert office.afar("node", "list", "--json", who="jane").done().json
    for command in (("user", "list"), ("user", "add", "eve", "--role", "admin"), ("node", "remove", "ctl"),
                    ("bundle", "export", "--role", "engine"), ("user", "role", "jane", "--role", "admin"),
                    ("audit", "list")):
        office.afar(*command, who="jane").refused("FL-PERMISSION", alone=False)
    assert "eve" not in office.afar("user", "list").done().out


def test_2b_roles_change_and_people_go(office: Office) -> None:
    office.afar("user", "add", "tom", "--role", "viewer", "--password-file", "-", given="the password of tom").done()
    office.afar("user", "add", "empty", "--role", "viewer", "--password-file", "-", given="").refused("FL-PASSWORD")
    office.afar("user", "role", "tom", "--role", "operator").done()
    assert ("tom", "operator") in {(u["name"], u["role"]) for u in office.afar("user", "list", "--json").done().json}
    office.afar("user", "remove", "tom").done()
    office.login("tom", "the password of tom", "tom").refused("FL-LOGIN")


def test_3_a_new_password_and_a_log_out_end_sessions_at_once(office: Office) -> None:
    office.afar("user", "password", "jane", "--password-file", "-", given="another password of jane").done()
    office.afar("node", "list", who="jane").refused("FL-LOGIN")
    office.login("jane", "another password of jane", "jane").done()
    stolen = json.loads((office.home / "jane" / "fairlead" / "context.json").read_text())
    office.afar("logout", who="jane").done()
    office.afar("logout", who="jane").refused("FL-CONTEXT")
    thief = office.home / "thief" / "fairlead"
    thief.mkdir(parents=True, mode=0o700)
    (thief / "context.json").touch(mode=0o600)
    (thief / "context.json").write_text(json.dumps(stolen))
    office.afar("node", "list", who="thief").refused("FL-LOGIN")


def test_3b_a_token_for_automation_does_what_it_names_and_ends(office: Office) -> None:
    made = office.afar("user", "token", "add", "--scope", "node:read", "--scope", "node:write", "--days", "1").done()
    token = made.out.strip()
    assert token not in made.err
    office.controller.cli("user", "token", "add", "--scope", "*").refused("FL-USER-UNKNOWN")
    listed = office.afar("user", "token", "list", "--json").done().json
    assert [(one["owner"], one["scope"]) for one in listed] == [("admin", ["node:read", "node:write"])]
    with httpx2.Client(base_url=office.url, trust_env=False, headers={"authorization": f"Bearer {token}"},
                       transport=httpx2.HTTPTransport(verify=unverified_context())) as program:
        assert program.get("/api/node").status_code == 200
        assert program.post("/api/node/ctl/label", json={"labels": ["made=by-token"]}).status_code == 200
        assert program.get("/api/service").json()["code"] == "FL-PERMISSION"
        assert program.post("/api/apitoken", json={"scope": ["*"]}).json()["code"] == "FL-PERMISSION"
        by = [r["by"] for r in office.controller.cli("audit", "list", "--json").done().json
              if r["event"] == "node.labelled"]
        assert by == [f"admin (token {listed[0]['id']})"]
        office.afar("user", "token", "revoke", listed[0]["id"]).done()
        assert program.get("/api/node").json()["code"] == "FL-LOGIN"
    assert token[-43:] not in office.controller.log


def test_3c_the_command_line_uses_a_token_until_it_is_revoked(office: Office) -> None:
    def login(text: str) -> Result:
        return office.afar("login", office.url, "--ca", office.ca, "--token-file", "-", given=text, who="ci")

    token = office.afar("user", "token", "add", "--scope", "node:read", "--days", "1").done().out.strip()
    assert "admin" not in login(token).done().err
    assert [node["name"] for node in office.afar("node", "list", "--json", who="ci").done().json] == ["ctl"]
    office.afar("service", "list", who="ci").refused("FL-PERMISSION")
    office.afar("user", "token", "list", who="ci").refused("FL-PERMISSION")
    assert "good until" in office.afar("logout", who="ci").done().err
    office.afar("logout", who="ci").refused("FL-CONTEXT")
    login(token).done()
    office.afar("user", "token", "revoke", token.split("_")[1]).done()
    office.afar("node", "list", who="ci").refused("FL-LOGIN")
    office.afar("logout", who="ci").done()
    login(token).refused("FL-LOGIN")
    assert not (office.home / "ci" / "fairlead" / "context.json").exists()
    assert token[-43:] not in office.controller.log


def test_4_attack_another_ca_is_not_believed_and_hears_no_password(office: Office, tmp_path: Path) -> None:
    with Site(tmp_path) as other:
        stranger = other.controller(password="another-cluster-entirely")
        ca = tmp_path / "other.pem"
        ca.write_text(stranger.cli("cluster", "ca").done().out)
        office.login("admin", PASSWORD, "victim", ca).refused("FL-AFAR-CA")
        assert not (office.home / "victim").exists()


def test_5_attack_guessing_closes_the_name_to_the_guesser_and_the_machine_itself_gets_in(office: Office) -> None:
    for _ in range(3):
        office.login("admin", "guess guess guess", "guesser").refused("FL-LOGIN")
    office.login("admin", PASSWORD, "guesser").refused("FL-LOGIN-LOCKED")
    assert office.afar("node", "list").done(), "who is inside stays inside"
    office.controller.cli("user", "list").done()
    events = [(r["event"], r["subject"]) for r in office.controller.cli("audit", "list", "--json").done().json]
    assert ("user.login", "admin") in events


def test_6_attack_a_session_that_was_planted_is_none_and_writes_need_their_token(office: Office) -> None:
    with httpx2.Client(base_url=office.url, trust_env=False,
                       transport=httpx2.HTTPTransport(verify=unverified_context())) as browser:
        planted = {"cookie": "sessionid=planted; avi-sessionid=planted"}
        answer = browser.post("/login", data={"username": "olga", "password": "wrong wrong wrong"}, headers=planted)
        assert answer.status_code == 401
        office.controller.cli("user", "password", "olga", "--password-file", "-", given="olga's new password").done()
        answer = browser.post("/login", data={"username": "olga", "password": "olga's new password"}, headers=planted)
        assert answer.status_code == 200
        session, csrf = answer.cookies["sessionid"], answer.cookies["csrftoken"]
        assert session != "planted"
        assert browser.get("/api/node", headers=planted).status_code == 401
        known = {"cookie": f"sessionid={session}"}
        assert browser.get("/api/node", headers=known).status_code == 200
        body = {"name": "web", "role": "controller", "port": 8080, "allow": ["engines"]}
        answer = browser.post("/api/service", json=body, headers=known)
        assert (answer.status_code, answer.text) == (401, "CSRF token missing or incorrect.")
        foreign = {"x-csrftoken": csrf, "origin": "https://evil.example"} | known
        assert browser.post("/api/service", json=body, headers=foreign).status_code == 403
        assert browser.post("/api/service", json=body, headers={"x-csrftoken": csrf} | known).status_code == 200


def test_7_attack_no_password_and_no_session_is_in_the_state_folder_or_the_log(office: Office) -> None:
    session = json.loads((office.home / "me" / "fairlead" / "context.json").read_text())["session"]
    secrets = [PASSWORD, "the password of jane", "another password of jane", session]
    for path in office.controller.state.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path
    assert not [secret for secret in secrets if secret in office.controller.log]
    assert os.environ.get("FAIRLEAD_STATE") is None
