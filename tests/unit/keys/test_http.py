"""Signed HTTP: the vectors byte for byte, and every way around the signature that we could think of."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.keys import http
from fairlead.keys.http import Request, Response
from fairlead.keys.ssh import PrivateKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "join-v1.json").read_text())
GIVEN = VECTORS["http"]
USER, HOST, OTHER = (PrivateKey.from_seed(bytes.fromhex(VECTORS["keys"][name]["seed"]))
                     for name in ("joiner_user", "controller_host", "joiner_host"))
CREATED = 1_767_225_600
REQUEST = Request(GIVEN["request"]["method"], GIVEN["request"]["url"], tuple(GIVEN["request"]["headers"].items()),
                  GIVEN["request"]["body"].encode())
RESPONSE = Response(GIVEN["response"]["status"], tuple(GIVEN["response"]["headers"].items()),
                    GIVEN["response"]["body"].encode())


def with_header(message: Any, name: str, change: Callable[[str], str]) -> Any:
    return replace(message, headers=tuple((n, change(v) if n == name else v) for n, v in message.headers))


def _cut(part: str, text: str) -> str:
    return text.replace(part, "", 1)


def code(call: Callable[..., object], *given: object, **more: object) -> str:
    with pytest.raises(Refused) as caught:
        call(*given, **more)
    return caught.value.code


def sign(url: str = REQUEST.url, body: bytes = REQUEST.body, **more: Any) -> Request:
    headers = http.sign_request("POST", url, body, "application/json", key=USER, to="c/n", created=CREATED,
                                nonce=bytes(range(16)), **more)
    return Request("POST", url, tuple(headers.items()), body)


def test_vectors_are_produced_byte_for_byte() -> None:
    signed = http.read_request(REQUEST)
    made = http.sign_request(REQUEST.method, REQUEST.url, REQUEST.body, "application/json", key=USER, to=signed.to,
                             created=CREATED, nonce=signed.nonce)
    assert made == GIVEN["request"]["headers"]
    made = http.sign_response(RESPONSE.status, RESPONSE.body, "application/json", request=REQUEST, key=HOST,
                              created=CREATED + 1)
    assert made == GIVEN["response"]["headers"]


def test_vectors_are_verified() -> None:
    signed = http.read_request(REQUEST)
    assert (signed.keyid, signed.created) == (USER.public.fingerprint, CREATED)
    assert signed.to == GIVEN["request"]["headers"]["fairlead-to"]
    http.verify_request(REQUEST, USER.public)
    http.verify_response(RESPONSE, REQUEST, HOST.public)


CHANGED: dict[str, Request] = {
    "another method": replace(REQUEST, method="PUT"),
    "another path": replace(REQUEST, url=REQUEST.url.replace("know", "now")),
    "another query": replace(REQUEST, url=REQUEST.url + "&x=1"),
    "another authority": replace(REQUEST, url=REQUEST.url.replace("ctl-1", "ctl-2")),
    "another recipient": with_header(REQUEST, "fairlead-to", lambda v: v[:-1] + "1"),
    "another nonce": with_header(REQUEST, "signature-input", lambda v: v.replace('nonce="t', 'nonce="A')),
    "another created": with_header(REQUEST, "signature-input", lambda v: v.replace("=1767", "=1768")),
    "another body": replace(REQUEST, body=REQUEST.body + b" "),
}


def test_every_change_that_the_vectors_name_is_refused() -> None:
    for what, request in CHANGED.items():
        assert code(http.verify_request, request, USER.public) == "FL-SIG-BAD", what
    shown = Response(200, REQUEST.headers, REQUEST.body)
    assert code(http.verify_response, shown, REQUEST, USER.public) == "FL-SIG-FORMAT"
    assert code(http.verify_response, RESPONSE, sign(), HOST.public) == "FL-SIG-BAD"
    assert {*CHANGED, "request shown as response", "response to another request"} == set(GIVEN["must_be_refused"])


def test_changed_responses_are_refused() -> None:
    for response in (replace(RESPONSE, status=201), replace(RESPONSE, body=b'{"ok":false}'),
                     with_header(RESPONSE, "content-type", lambda v: "text/html")):
        assert code(http.verify_response, response, REQUEST, HOST.public) == "FL-SIG-BAD"


def test_another_key_is_refused_even_where_it_signed_well() -> None:
    assert code(http.verify_request, REQUEST, OTHER.public) == "FL-SIG-BAD"
    assert code(http.verify_response, RESPONSE, REQUEST, OTHER.public) == "FL-SIG-BAD"
    headers = http.sign_response(200, b"{}", "application/json", request=REQUEST, key=OTHER, created=CREATED)
    others = Response(200, tuple(headers.items()), b"{}")
    assert code(http.verify_response, others, REQUEST, HOST.public) == "FL-SIG-BAD"


def test_a_message_is_only_verified_under_the_key_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.keys.ssh.PublicKey.fingerprint", OTHER.public.fingerprint)
    lying = sign()  # signed by USER, naming OTHER
    monkeypatch.undo()
    assert http.read_request(lying).keyid == OTHER.public.fingerprint
    for key in (USER, OTHER):
        assert code(http.verify_request, lying, key.public) == "FL-SIG-BAD"


@pytest.mark.parametrize("request_", [
    with_header(REQUEST, "signature-input", lambda v: v.replace(' "@query"', "")),
    with_header(REQUEST, "signature-input", lambda v: v.replace('"@method" "@authority"', '"@authority" "@method"')),
    with_header(REQUEST, "signature-input", lambda v: v.replace(';tag="fairlead-request-v1"', "")),
    with_header(REQUEST, "signature-input", lambda v: v + ";expires=1"),
    with_header(REQUEST, "signature-input", lambda v: v.replace(";created", "; created")),
    with_header(REQUEST, "signature-input", lambda v: v.replace("created=1", "created=01")),
    with_header(REQUEST, "signature-input", lambda v: v + ", " + v.replace("fl=", "x=")),
    with_header(REQUEST, "signature-input", lambda v: v + "\n"),
    with_header(REQUEST, "signature-input", lambda v: v.replace('5kEhg"', '5kEhh"')),  # loose bits of base64url
    with_header(REQUEST, "signature", lambda v: v + ", x=:AAAA:"),
    with_header(REQUEST, "signature", lambda v: v.replace("BA==:", "BB==:").replace("gEBw==:", "gEBx==:")),
    with_header(REQUEST, "signature", lambda v: v.replace("fl=", "FL=")),
    with_header(REQUEST, "content-digest", lambda v: v.replace("sha-256", "sha-512")),
    with_header(REQUEST, "content-digest", lambda v: v + ", sha-512=:AAAA:"),
    replace(REQUEST, headers=(*REQUEST.headers, ("Fairlead-To", "x/y"))),
    replace(REQUEST, headers=(*REQUEST.headers, ("Content-Encoding", "gzip"))),
    replace(REQUEST, headers=(*REQUEST.headers, ("SIGNATURE", dict(REQUEST.headers)["signature"]))),
    replace(REQUEST, headers=tuple(h for h in REQUEST.headers if h[0] != "content-type")),
    replace(REQUEST, url=REQUEST.url.replace("https://", "https://admin@")),
    replace(REQUEST, url=REQUEST.url + "#x"),
    replace(REQUEST, url="/node/v1/acknowledge?kind=haproxy"),
])
def test_shape_is_compared_as_text(request_: Request) -> None:
    assert code(http.read_request, request_) == "FL-SIG-FORMAT"
    assert code(http.verify_request, request_, USER.public) == "FL-SIG-FORMAT"


def test_a_narrower_response_signature_is_refused() -> None:
    for cut in (' "signature";req;key="fl"', ' "fairlead-to";req', ";req"):
        narrow = with_header(RESPONSE, "signature-input", partial(_cut, cut))
        assert code(http.verify_response, narrow, REQUEST, HOST.public) == "FL-SIG-FORMAT"


def test_empty_body_and_bare_url_round_trip() -> None:
    request = sign("https://127.64.0.1:8443/", b"")
    http.verify_request(request, USER.public)
    headers = http.sign_response(503, b"", "application/json", request=request, key=HOST, created=CREATED)
    http.verify_response(Response(503, tuple(headers.items()), b""), request, HOST.public)
    assert code(http.verify_request, replace(request, body=b"x"), USER.public) == "FL-SIG-BAD"


def test_a_forwarded_request_covers_whom_it_is_for() -> None:
    request = sign(on_behalf="engine-7")
    assert http.read_request(request, forwarded=True).on_behalf == "engine-7"
    http.verify_request(request, USER.public, forwarded=True)
    other = with_header(request, "fairlead-on-behalf", lambda v: "engine-8")
    assert code(http.verify_request, other, USER.public, forwarded=True) == "FL-SIG-BAD"
    assert code(http.read_request, request) == "FL-SIG-FORMAT"  # only on its own route
    added = replace(REQUEST, headers=(*REQUEST.headers, ("fairlead-on-behalf", "engine-7")))
    assert code(http.read_request, added, forwarded=True) == "FL-SIG-FORMAT"
    headers = http.sign_response(200, b"{}", "application/json", request=request, key=HOST, created=CREATED)
    http.verify_response(Response(200, tuple(headers.items()), b"{}"), request, HOST.public)


def test_recipient() -> None:
    signed = http.read_request(REQUEST)
    http.check_recipient(signed, signed.to)
    assert code(http.check_recipient, signed, http.recipient("other", "node")) == "FL-SIG-RECIPIENT"


def test_freshness_is_by_the_time_handed_in() -> None:
    now, start = CREATED * SECOND, (CREATED - 1000) * SECOND
    http.check_fresh(CREATED, now + 60 * SECOND, start)
    http.check_fresh(CREATED, now - 10 * SECOND, start)
    for far in (1, 4_102_444_800):  # 1970 and 2100 by this machine's clock: no matter
        headers = http.sign_request("GET", REQUEST.url, b"", "text/plain", key=USER, to="c/n", created=far,
                                    nonce=bytes(16))
        http.verify_request(Request("GET", REQUEST.url, tuple(headers.items()), b""), USER.public)
    for at, started in ((now + 60 * SECOND + 1, start), (now - 10 * SECOND - 1, start),
                        (now, now), (now + SECOND, now + SECOND - 1)):
        assert code(http.check_fresh, CREATED, at, started) == "FL-SIG-STALE"
    http.check_fresh(CREATED + 1, now + SECOND, now + SECOND - 1)
