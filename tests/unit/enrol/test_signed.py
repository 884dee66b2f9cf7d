"""Answers to a joined node count with a host key that it pins, each of two while a Controller changes its own."""

import json
from typing import Any
from uuid import UUID

import pytest

from fairlead.base.errors import FairleadError
from fairlead.client.https import Incoming, Outgoing
from fairlead.enrol import signed
from fairlead.enrol.exchange import CoreController
from fairlead.enrol.trust import Trust
from fairlead.keys import http
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64
from fairlead.pki.authority import Authority
from fairlead.pki.certificate import der_of

NOW = 1_700_000_000_000_000
CLUSTER = UUID(int=1)
AUTHORITY = Authority.create(CLUSTER, NOW)
LEAF = der_of(AUTHORITY.issue_portal(CLUSTER, ["192.0.2.1"], NOW).certificate_pem)
PRESENT, NEXT, OTHER, USER = (PrivateKey.from_seed(letter * 32) for letter in (b"p", b"n", b"o", b"u"))


def trust(host_key: PrivateKey, next_host_key: PrivateKey | None) -> Trust:
    controller = CoreController(
        name="ctl-1", address="192.0.2.1", portal_port=8443, ssh_port=22, internal_address="127.64.0.1",
        host_key=host_key.public.line, user_key="u", node_id="c",
        next_host_key=next_host_key.public.line if next_host_key is not None else "")
    return Trust(cluster_uuid=CLUSTER, node="se-1", node_id="id", role="engine", user="aviseuser",
                 internal_address="127.64.1.0", ca_certificates=[b64(der_of(AUTHORITY.certificate_pem))],
                 tls_name="portal.example", controllers=[controller])


@pytest.mark.parametrize(("pinned", "signer", "counts"), [
    ((PRESENT, None), PRESENT, True), ((PRESENT, NEXT), PRESENT, True), ((PRESENT, NEXT), NEXT, True),
    ((NEXT, None), PRESENT, False), ((PRESENT, None), NEXT, False), ((PRESENT, NEXT), OTHER, False)], ids=range(6))
async def test_who_answers(pinned: tuple[PrivateKey, PrivateKey | None], signer: PrivateKey, counts: bool,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(_address: str, _port: int, _context: Any, _name: str, build: Any, **_: Any) -> Incoming:
        sent: Outgoing = build(LEAF)
        host = sent.headers["host"]
        asked = http.Request("POST", f"https://{host}{sent.path}", [
            (name, value) for name, value in sent.headers.items() if name != "host"], sent.body)
        body = json.dumps({"asked": json.loads(sent.body)["op"]}).encode()
        headers = http.sign_response(200, body, "application/json", request=asked, key=signer, created=NOW // 1_000_000)
        return Incoming(200, list(headers.items()), body, LEAF)

    monkeypatch.setattr(signed, "request", request)
    asking = signed.call(trust(*pinned), USER, NOW, {"v": 1, "op": "read"})
    if counts:
        assert await asking == {"asked": "read"}
    else:
        with pytest.raises(FairleadError) as refused:
            await asking
        assert refused.value.code.startswith("FL-SIG-")
