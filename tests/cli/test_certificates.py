"""What the commands about certificates ask of the API, and that they show no key."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from fairlead.base.errors import FairleadError
from fairlead.cli import certificates
from fairlead.cli.main import application
from fairlead.client.api import Api

PATH = "/api/sslkeyandcertificate"
KEY = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
OBJECT = {"name": "own", "uuid": "sslkeyandcertificate-1", "type": "SSL_CERTIFICATE_TYPE_SYSTEM", "key": KEY,
          "status": "SSL_CERTIFICATE_FINISHED", "in_use_by": ["secure channel"],
          "certificate": {"certificate": "PEM\n", "certificate_signing_request": "REQUEST\n", "self_signed": True,
                          "subject": {"distinguished_name": "CN=own\x1b[2J"}, "not_after": "2030-01-01 00:00:00",
                          "issuer": {"distinguished_name": "CN=own"}, "days_until_expire": 90,
                          "expiry_status": "SSL_CERTIFICATE_GOOD"}}


class Fake(Api):
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []

    def _send(self, method: str, path: str, **content: Any) -> Any:
        self.asked.append((method, path, content.get("json", content.get("params"))))
        if method == "GET":
            wanted = content["params"].get("name", "own")
            return {"count": 1, "results": [OBJECT] if wanted == "own" else []}
        return OBJECT


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(certificates, "client", lambda *_: made)
    return made


def cert(*arguments: object) -> None:
    application()(args=["cert", *map(str, arguments)], standalone_mode=False)


def test_nothing_that_is_listed_or_shown_is_a_key(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("list",), ("list", "--json"), ("show", "own"), ("show", "own", "--json")):
        cert(*arguments)
        said = capsys.readouterr()
        assert "own" in said.out
        assert "PRIVATE" not in said.out + said.err
        assert "secret" not in said.out + said.err
        assert "\x1b" not in said.out
    cert("list", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row.keys() == {"name", "uuid", "type", "status", "subject", "issuer", "not_after", "days_until_expire",
                          "expiry_status", "self_signed", "in_use_by"}
    assert (row["type"], row["status"], row["expiry_status"]) == ("system", "finished", "good")


def test_making_one_or_a_request(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    cert("create", "--name", "own", "--common-name", "ctl", "--san", "a.example", "--san", "192.0.2.1",
         "--key-type", "rsa-3072", "--days", 30, "--country", "SE", "--region", "Skåne")
    method, path, body = fake.asked[-1]
    params = {"algorithm": "SSL_KEY_ALGORITHM_RSA", "rsa_params": {"key_size": "SSL_KEY_3072_BITS"}}
    assert (method, path) == ("POST", PATH)
    assert body == {"name": "own", "type": "SSL_CERTIFICATE_TYPE_SYSTEM", "format": "SSL_PEM", "key_params": params,
                    "certificate": {"self_signed": True, "days_until_expire": 30, "key_params": params,
                                    "subject": {"common_name": "ctl", "country": "SE", "state": "Skåne"},
                                    "subject_alt_names": ["a.example", "192.0.2.1"]}}
    cert("csr", "--name", "own", "--common-name", "ctl", "--key-type", "ec-p384")
    assert fake.asked[-1][2]["certificate"]["self_signed"] is False
    assert fake.asked[-1][2]["key_params"]["ec_params"] == {"curve": "SSL_KEY_EC_CURVE_SECP384R1"}
    assert capsys.readouterr().out == "REQUEST\n"


def test_bringing_one(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("c", "CERT"), ("k", KEY), ("ca", "CHAIN"), ("p", "open sesame\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "p12").write_bytes(b"\x30\x80\xff")
    cert("import", "--name", "own", "--certificate", tmp_path / "c", "--key", tmp_path / "k", "--chain",
         tmp_path / "ca", "--passphrase-file", tmp_path / "p")
    assert fake.asked == [("POST", PATH, {
        "name": "own", "type": "SSL_CERTIFICATE_TYPE_SYSTEM", "format": "SSL_PEM", "key": KEY,
        "key_passphrase": "open sesame", "certificate": {"certificate": "CERT"},
        "ca_certs": [{"certificate": "CHAIN"}]})]
    cert("import", "--name", "own", "--pkcs12", tmp_path / "p12")
    assert fake.asked[-1][2] == {
        "name": "own", "type": "SSL_CERTIFICATE_TYPE_SYSTEM", "format": "SSL_PKCS12", "certificate_base64": True,
        "certificate": {"certificate": base64.b64encode(b"\x30\x80\xff").decode()}}
    cert("import", "--name", "own", "--certificate", tmp_path / "c")  # of a request, whose key is there
    assert fake.asked[-1][:2] == ("PUT", f"{PATH}/sslkeyandcertificate-1")
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err
    with pytest.raises(FairleadError) as refused:
        cert("import", "--name", "own", "--certificate", tmp_path / "p12")
    assert refused.value.code == "FL-CERT-FORMAT"
    for wrong in ((), ("--pkcs12", tmp_path / "p12", "--key", tmp_path / "k")):
        with pytest.raises(typer.BadParameter):
            cert("import", "--name", "own", *wrong)


def test_renewing_deleting_and_using_one(fake: Fake) -> None:
    for command, asked in (("renew", ("POST", f"{PATH}/sslkeyandcertificate-1/renew", None)),
                           ("delete", ("DELETE", f"{PATH}/sslkeyandcertificate-1", None)),
                           ("use", ("PATCH", "/api/systemconfiguration", {
                               "replace": {"secure_channel_configuration": {
                                   "sslkeyandcertificate_refs": [f"{PATH}/sslkeyandcertificate-1"]}}}))):
        cert(command, "own")
        assert fake.asked[-1] == asked
        assert fake.asked[-2] == ("GET", PATH, {"name": "own"})
        with pytest.raises(FairleadError) as refused:
            cert(command, "other")
        assert refused.value.code == "FL-CERT-UNKNOWN"
