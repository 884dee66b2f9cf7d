"""The flows of the secure channel, driven by a Python SDK that others wrote, as its users would write them.

Log in, make and import certificates, point the secure channel to one, generate a token, join a real engine with it,
watch its mapping and its status, and remove it.
"""

import importlib
import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fairlead.client.control import ControlClient
from tests.interop.test_avisdk import PASSWORD, Sdk, sdk
from tests.processes import Daemon, Result, Site, a_view, fairlead, until

__all__ = ["sdk"]


def ok(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, (answer.status_code, answer.text)
    return answer.json() if answer.content else None


def why(answer: Any) -> Any:
    """What a refusal says; the SDK's own reader raises."""
    return json.loads(answer.text)


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def organisation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An organisation's CA: a root and an intermediate, made with stock openssl."""
    folder = tmp_path_factory.mktemp("pki")
    (folder / "ca.cnf").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n")
    (folder / "leaf.cnf").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "subjectAltName=IP:127.0.0.1\n")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
            "/CN=Org Root", "-keyout", "root.key", "-out", "root.pem", cwd=folder)
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Org Issuing",
            "-keyout", "mid.key", "-out", "mid.csr", cwd=folder)
    openssl("x509", "-req", "-in", "mid.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "30", "-extfile",
            "ca.cnf", "-out", "mid.pem", cwd=folder)
    return folder


def sign(folder: Path, request: str) -> str:
    (folder / "leaf.csr").write_text(request)
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "mid.pem", "-CAkey", "mid.key", "-days", "30", "-extfile",
            "leaf.cnf", "-out", "leaf.pem", cwd=folder)
    return (folder / "leaf.pem").read_text()


def point(session: Any, certificate: str | None) -> Any:
    """The way of the Ansible collection and of Terraform: read, change, put."""
    config = ok(session.get("systemconfiguration"))
    config["secure_channel_configuration"]["sslkeyandcertificate_refs"] = (
        [f"/api/sslkeyandcertificate?name={certificate}"] if certificate else [])
    return session.put("systemconfiguration", data=config)


def join(sdk: Sdk, site: Site, token: str, name: str, cluster_uuid: str) -> tuple[Daemon, Result]:
    """An engine that joins as an appliance does: by what its environment says."""
    engine = site.daemon("engine", name, site.folder / name, a_view())
    environment = {"AVICNTRL": f"127.0.0.1:{sdk.controller.ports['portal']}", "AVICNTRL_AUTHTOKEN": token,
                   "AVICNTRL_CLUSTERUUID": cluster_uuid}
    return engine, fairlead("engine", "join", "--from-env", "--name", name, "--view", engine.view, state=engine.state,
                            env=environment)


def test_1_certificates_are_made_imported_and_asked_for(sdk: Sdk, organisation: Path) -> None:
    session = sdk.session()
    own = ok(session.post("sslkeyandcertificate", data={
        "name": "own", "type": "SSL_CERTIFICATE_TYPE_SYSTEM", "certificate": {
            "self_signed": True, "days_until_expire": 90, "subject": {"common_name": "portal.example.com"}},
        "key_params": {"algorithm": "SSL_KEY_ALGORITHM_EC",
                       "ec_params": {"curve": "SSL_KEY_EC_CURVE_SECP384R1"}}}), 201)
    assert (own["certificate"]["self_signed"], own["status"]) == (True, "SSL_CERTIFICATE_FINISHED")
    assert own["certificate"]["subject"]["common_name"] == "portal.example.com"
    assert own["key_params"]["ec_params"]["curve"] == "SSL_KEY_EC_CURVE_SECP384R1"
    asked = ok(session.post("sslkeyandcertificate", data={"name": "org", "certificate": {
        "self_signed": False, "subject": {"common_name": "ctl.example.com", "organization": "Org"}}}), 201)
    assert asked["status"] == "SSL_CERTIFICATE_PENDING"
    pending = ok(session.get(f"sslkeyandcertificate/{asked['uuid']}"))
    pending["certificate"]["certificate"] = sign(organisation, pending["certificate"]["certificate_signing_request"])
    pending["ca_certs"] = [{"certificate": (organisation / name).read_text()} for name in ("mid.pem", "root.pem")]
    done = ok(session.put(f"sslkeyandcertificate/{asked['uuid']}", data=pending))
    assert (done["status"], done["certificate"]["issuer"]["common_name"]) == ("SSL_CERTIFICATE_FINISHED", "Org Issuing")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=bought", "-keyout", "b.key",
            "-out", "b.pem", cwd=organisation)
    bought = {"name": "bought", "certificate": {"certificate": (organisation / "b.pem").read_text()},
              "key": (organisation / "b.key").read_text()}
    assert ok(session.post("sslkeyandcertificate", data=bought), 201)["key_params"]["algorithm"] == (
        "SSL_KEY_ALGORITHM_RSA")
    assert session.post("sslkeyandcertificate", data=bought).status_code == 409
    wrong = bought | {"name": "wrong", "key": (organisation / "mid.key").read_text()}
    assert why(session.post("sslkeyandcertificate", data=wrong))["code"] == "FL-CERT-KEY"
    listed = session.get("sslkeyandcertificate")
    assert {one["name"] for one in listed.json()["results"]} == {
        "own", "org", "bought", "System-Default-Secure-Channel-Cert", "System-Default-Portal-Cert"}
    assert "PRIVATE" not in listed.text
    again = ok(session.put(f"sslkeyandcertificate/{done['uuid']}", data=dict(done, name="org-2")))
    assert (again["name"], again["certificate"]["certificate"]) == ("org-2", done["certificate"]["certificate"])
    ok(session.put(f"sslkeyandcertificate/{done['uuid']}", data=dict(again, name="org")))


def test_2_what_the_seed_forbids_is_refused_with_the_way_to_go(sdk: Sdk) -> None:
    session = sdk.session()
    default = session.get_object_by_name("sslkeyandcertificate", "System-Default-Secure-Channel-Cert")
    own = session.get_object_by_name("sslkeyandcertificate", "own")
    edited = session.put(f"sslkeyandcertificate/{default['uuid']}", data=dict(default, name="mine"))
    replaced = session.put(f"sslkeyandcertificate/{default['uuid']}",
                           data=dict(default, certificate=own["certificate"]))
    for answer in (edited, replaced, session.delete(f"sslkeyandcertificate/{default['uuid']}")):
        assert (answer.status_code, why(answer)["code"]) == (400, "FL-CERT-DEFAULT")
        assert "secure_channel_configuration" in why(answer)["remedy"]
    made = ok(session.post("cloud", data={"name": "vcenter", "vtype": "CLOUD_VCENTER"}), 201)
    refused = point(session, "own")
    assert (refused.status_code, why(refused)["code"]) == (400, "FL-CHANNEL-PRECONDITION")
    assert "vcenter" in why(refused)["error"]
    assert session.delete(f"cloud/{made['uuid']}").status_code == 204


@pytest.mark.parametrize("certificate", ["own", "org", None])
def test_3_an_engine_joins_by_a_token_through_each_certificate(sdk: Sdk, tmp_path: Path,
                                                               certificate: str | None) -> None:
    session, name = sdk.session(), f"se-{certificate or 'default'}"
    before = ok(session.get("securetoken-generate"))["auth_token"]
    ok(point(session, certificate))
    named = ok(session.get("systemconfiguration?include_name="))["secure_channel_configuration"]
    assert named["sslkeyandcertificate_refs"][0].endswith(f"#{certificate or 'System-Default-Secure-Channel-Cert'}")
    if certificate is not None:
        used = session.get_object_by_name("sslkeyandcertificate", certificate)
        in_use = session.delete(f"sslkeyandcertificate/{used['uuid']}")
        assert in_use.status_code == 409
        assert "Cannot delete, object is referred by: ['SystemConfiguration" in why(in_use)["error"]
    assert session.get("securechanneltoken", params={"name": before}).count() == 0, "what named the old one is revoked"

    cloud = session.get_object_by_name("cloud", "Default-Cloud")
    token = ok(session.get(f"securetoken-generate?cloud_uuid={cloud['uuid']}"))["auth_token"]
    found = session.get("securechanneltoken", params={"name": token}).json()
    assert (found["count"], found["results"][0]["name"], found["results"][0]["in_use"]) == (1, token, False)
    assert 0 < found["results"][0]["expiry_time"] - time.time() <= 600
    assert token not in session.get("securechanneltoken").text
    with Site(tmp_path) as site:
        cluster_uuid = ok(session.get("cluster"))["uuid"]
        engine, joined = join(sdk, site, token, name, cluster_uuid)
        joined.done()
        engine.start()
        mapping = until(lambda: connected(session, name), "the engine is connected")
        assert (mapping["uuid"], mapping["is_controller"]) == (mapping["name"], False)
        assert mapping["local_ip"].startswith("127.64.1.")
        assert ok(session.get(f"securechannelmapping/{mapping['uuid']}"))["pub_key"] == mapping["pub_key"]
        listed = session.get("securechannel").json()["results"]
        assert mapping["uuid"] in {one["uuid"] for one in listed}, "by its old path as well"
        seen = ok(session.get(f"serviceengine/{mapping['uuid']}?include_name=&join_subresources=runtime"))
        assert (seen["name"], seen["runtime"]["se_connected"]) == (name, True)
        assert seen["cloud_ref"].endswith("#Default-Cloud")
        assert session.get("securechanneltoken", params={"name": token}).json()["results"][0]["in_use"] is True
        refused = point(session, "bought")
        assert (why(refused)["code"], name in why(refused)["error"]) == ("FL-CHANNEL-PRECONDITION", True)
        join(sdk, site, token, "se-2", cluster_uuid)[1].refused("FL-JOIN-CONFLICT", alone=False)
        assert ok(session.get(f"securechannelmapping/{mapping['uuid']}"))["status"] == "SECURE_CHANNEL_AUTH_ERRORS"
        assert session.delete(f"securechannelmapping/{mapping['uuid']}").status_code == 204
        engine.ended()
        assert session.get("serviceengine").count() == 0
        assert session.get(f"securechannelmapping/{mapping['uuid']}").status_code == 404


def connected(session: Any, name: str) -> Any:
    for engine in ok(session.get("serviceengine"))["results"]:
        if engine["name"] == name:
            mapping = ok(session.get(f"securechannelmapping/{engine['uuid']}"))
            return mapping if mapping["status"] == "SECURE_CHANNEL_CONNECTED" else None
    return None


def test_4_a_clients_own_token_is_kept_and_joins_nothing(sdk: Sdk, tmp_path: Path) -> None:
    session = sdk.session()
    made = ok(session.post("securechanneltoken", data={
        "name": "0f1e-mine", "metadata": [{"key": "a", "val": "b"}]}), 201)
    assert made["name"] == "0f1e-mine"
    assert {"key": "code", "val": "FL-TOKEN-FOREIGN"} in made["metadata"]
    assert session.post("securechanneltoken", data={"name": "0f1e-mine"}).status_code == 409
    assert "0f1e-mine" not in session.get("securechanneltoken").text
    assert session.get_object_by_name("securechanneltoken", "0f1e-mine")["uuid"] == made["uuid"]
    with Site(tmp_path) as site:
        join(sdk, site, "0f1e-mine", "se-9", ok(session.get("cluster"))["uuid"])[1].refused("FL-TOKEN-PREFIX")
    assert session.delete("securechanneltoken/0f1e-mine").status_code == 204
    assert session.get("securechanneltoken", params={"name": "0f1e-mine"}).json()["count"] == 0


def test_5_a_token_lives_as_long_as_the_setting_says_and_is_revoked(sdk: Sdk) -> None:
    session = sdk.session()
    ok(session.patch("controllerproperties", data={"replace": {"secure_channel_se_token_timeout": 45}}))
    token = ok(session.get("securetoken-generate"))["auth_token"]
    found = session.get("securechanneltoken", params={"name": token}).json()["results"][0]
    assert 2690 <= found["expiry_time"] - time.time() <= 2701
    assert session.delete(f"securechanneltoken/{token}").status_code == 204
    assert found["uuid"] not in session.get("securechanneltoken").text
    ok(session.patch("controllerproperties", data={"delete": {"secure_channel_se_token_timeout": 45}}))
    assert ok(session.get("controllerproperties"))["secure_channel_se_token_timeout"] == 10


def test_6_people_and_their_roles(sdk: Sdk) -> None:
    session = sdk.session()
    role = session.get_object_by_name("role", "viewer")
    made = ok(session.post("user", data={
        "name": "vera", "password": "the password of vera", "full_name": "Vera V", "access": [
            {"role_ref": f"/api/role/{role['uuid']}", "tenant_ref": "/api/tenant?name=admin"}]}), 201)
    assert (made["role"], made["is_superuser"], "password" in made) == ("viewer", False, False)
    vera = sdk.session("vera", "the password of vera")
    assert vera.get("serviceengine").status_code == 200
    for refused in (vera.post("user", data={"name": "eve", "role": "admin", "password": "x" * 20}),
                    vera.put(f"user/{made['uuid']}", data=dict(made, is_superuser=True)),
                    vera.patch("systemconfiguration", data={"replace": {"docker_mode": True}}),
                    vera.get("securetoken-generate")):
        assert (refused.status_code, why(refused)["code"]) == (403, "FL-PERMISSION")
    ok(session.put(f"user/{made['uuid']}", data=dict(made, password="another password of vera", email="v@example.com")))
    with pytest.raises(sdk.api.APIError, match="Invalid credentials"):
        sdk.session("vera", "the password of vera")
    assert session.delete(f"user/{made['uuid']}").status_code == 204


def test_6b_what_would_silently_do_nothing_is_refused(sdk: Sdk) -> None:
    session = sdk.session()
    made = ok(session.post("user", data={"name": "bob", "role": "admin", "password": "the password of bob"}), 201)
    refused: tuple[dict[str, Any], ...] = (
        {"is_superuser": False}, {"access": []}, {"username": "x"}, {"role": "viewer", "password": "x"})
    for body in refused:
        assert session.put(f"user/{made['uuid']}", data={"name": "bob"} | body).status_code == 400, body
    assert ok(session.get(f"user/{made['uuid']}"))["role"] == "admin"
    ok(session.put(f"user/{made['uuid']}", data={"name": "bob", "role": "operator", "is_superuser": False}))
    stale = session.put(f"user/{made['uuid']}", data=dict(made, email="b@example.com"))
    assert stale.status_code == 412
    assert session.delete(f"user/{made['uuid']}").status_code == 204


def test_6c_a_certificate_that_says_anything_is_listed_and_goes_again(sdk: Sdk, organisation: Path) -> None:
    session = sdk.session()
    names = ",".join(f"DNS:n{n}.example.com" for n in range(300))
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9000", "-subj",
            "/CN=" + "c" * 60 + "/O=" + "o" * 60, "-addext", f"subjectAltName={names}", "-keyout", "far.key", "-out",
            "far.pem", cwd=organisation)
    made = ok(session.post("sslkeyandcertificate", data={
        "name": "far", "certificate": {"certificate": (organisation / "far.pem").read_text()},
        "key": (organisation / "far.key").read_text()}), 201)
    assert made["certificate"]["days_until_expire"] > 3650
    read = session.get_object_by_name("sslkeyandcertificate", "far")
    ok(session.put(f"sslkeyandcertificate/{made['uuid']}", data=dict(read, created_by="me")))
    assert ok(session.get(f"sslkeyandcertificate/{made['uuid']}"))["created_by"] == "me"
    assert session.delete(f"sslkeyandcertificate/{made['uuid']}").status_code == 204


def test_6d_names_in_any_script_and_changes_at_once(sdk: Sdk) -> None:
    session = sdk.session()
    made = session.post("cloud", data={"name": "云 a#b"})
    assert (made.status_code, made.headers["location"].isascii()) == (201, True)
    uuid = made.json()["uuid"]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda n: session.patch(f"cloud/{uuid}", data={"replace": {f"f{n}": n}}), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {name for name in ok(session.get(f"cloud/{uuid}")) if name.startswith("f")} == {f"f{n}" for n in range(6)}
    assert session.delete(f"cloud/{uuid}").status_code == 204


def test_7_old_and_wrong_clients_are_answered_in_the_words_that_they_know(sdk: Sdk) -> None:
    session = sdk.session()
    old = session.get("systemconfiguration", api_version="16.4.2")
    assert old.headers["AVI_API_VERSION"] == "16_4_2"
    assert "secure_channel_configuration" not in old.json()
    with pytest.raises(Exception, match="Invalid version"):
        session.get_object_by_name("cloud", "Default-Cloud", api_version="1.0")
    assert session.get("cloud", tenant="nobody").status_code == 404
    assert session.get("cloud", tenant="*").status_code == 200
    stale = ok(session.get("controllerproperties"))
    ok(session.put("controllerproperties", data=dict(stale, api_idle_timeout=20)))
    assert session.put("controllerproperties", data=dict(stale, api_idle_timeout=30)).status_code == 412
    ok(session.put("controllerproperties", data={"api_idle_timeout": 15}))
    cloud = session.get_object_by_name("cloud", "Default-Cloud")
    assert "Cannot delete system default object" in session.delete(f"cloud/{cloud['uuid']}").text
    assert why(session.delete("systemconfiguration/default"))["error"] == "Method 'DELETE' not allowed"
    assert session.post("systemconfiguration", data={}).status_code == 405


def test_7b_the_rules_of_the_house_are_those_of_the_configuration(sdk: Sdk) -> None:
    session = sdk.session()
    url, verify, requests = f"{sdk.url}/api/cluster", sdk.ca, importlib.import_module("requests")

    def along(name: str = "admin", password: str = PASSWORD) -> Any:
        return requests.get(url, auth=(name, password), verify=verify, timeout=60)

    assert (along().status_code, along().json()["code"]) == (401, "FL-LOGIN-BASIC")
    ok(session.patch("systemconfiguration", data={"replace": {"portal_configuration": {
        "minimum_password_length": 20, "allow_basic_authentication": True}}}))
    assert along().status_code == 200
    assert along(password="wrong wrong wrong").json()["code"] == "FL-LOGIN"
    weak = session.post("user", data={"name": "tim", "role": "viewer", "password": "a" * 19})
    assert (weak.status_code, why(weak)["code"]) == (400, "FL-PASSWORD")
    profile = session.get_object_by_name("useraccountprofile", "Default-User-Account-Profile")
    ok(session.put(f"useraccountprofile/{profile['uuid']}", data=dict(profile, max_login_failure_count=0)))
    for _ in range(5):
        assert along("nobody").json()["code"] == "FL-LOGIN", "nobody is locked out"
    ok(session.patch(f"useraccountprofile/{profile['uuid']}", data={"delete": {"max_login_failure_count": 0}}))
    refused = session.patch("systemconfiguration", data={"replace": {"ssh_ciphers": ["aes128-cbc"]}})
    assert (refused.status_code, why(refused)["code"]) == (400, "FL-SSH-ALGORITHM")
    ok(session.patch("systemconfiguration", data={"replace": {"ssh_ciphers": ["aes256-gcm@openssh.com"]}}))
    ok(session.patch("systemconfiguration", data={"delete": {"ssh_ciphers": ["aes256-gcm@openssh.com"],
                     "portal_configuration": {"minimum_password_length": 0, "allow_basic_authentication": True}}}))
    assert along().json()["code"] == "FL-LOGIN-BASIC"


def test_8_from_where_people_may_come(sdk: Sdk) -> None:
    session = sdk.session()
    narrowed = {"mgmt_ip_access_control": {"api_access": {
        "match_criteria": "IS_IN", "prefixes": [{"ip_addr": {"addr": "192.0.2.0", "type": "V4"}, "mask": 24}]}}}
    ok(session.patch("systemconfiguration", data={"replace": narrowed}))
    refused = session.get("cluster")
    assert (refused.status_code, why(refused)["code"]) == (403, "FL-SOURCE")
    with pytest.raises(sdk.api.APIError, match="FL-SOURCE"):
        sdk.session()
    control = ControlClient(sdk.controller.state)
    config = control.get("/api/systemconfiguration")
    control.put("/api/systemconfiguration", {k: v for k, v in config.items() if k != "mgmt_ip_access_control"})
    assert session.get("cluster").status_code == 200


def test_9_ten_thousand_objects_are_read_page_by_page(sdk: Sdk) -> None:
    session = sdk.session()
    made: Callable[[int], Any] = lambda n: ok(session.post("cloud", data={"name": f"page-{n}"}), 201)  # noqa: E731
    uuids = [made(n)["uuid"] for n in range(7)]
    first = session.get("cloud", params={"page_size": "3"}).json()
    assert (first["count"], len(first["results"])) == (8, 3)
    assert first["next"].startswith(f"{sdk.url}/api/cloud?page=2")
    assert len(list(session.get_objects_iter("cloud", params={"page_size": "3"}))) == 8
    for uuid in uuids:
        assert session.delete(f"cloud/{uuid}").status_code == 204
    assert PASSWORD not in sdk.controller.log
