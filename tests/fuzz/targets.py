"""What is thrown at every decoder of ours that reads somebody else's bytes, and what must be true afterwards.

A target takes bytes. It may end in two ways: something was understood (true), or it was refused with a stable code
(false). Any other exception, a hang or a large appetite is a finding, and so is a property that does not hold: what is
understood is written back as the same, has one spelling, and can be used; what verifies was really signed.

Raw bytes hardly ever get past a hash or a signature. So most targets also build the valid envelope around what came:
the pin and the check sum of a token, the seal of a bundle, the signature of the key that would have signed it.
"""

import asyncio
import contextlib
import io
import ipaddress
import json
import random
import re
import struct
import tomllib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from fairlead.audit.log import RefusalCounter, decode_head, encode_head, network_of
from fairlead.audit.record import Entry, chain, verify
from fairlead.audit.record import decode as decode_record
from fairlead.base import configuration, strict
from fairlead.base.clock import SECOND, rfc3339
from fairlead.base.errors import FairleadError
from fairlead.cli.allowed import COMMANDS, check, words
from fairlead.client.https import Incoming
from fairlead.controller.settings import ControllerSettings
from fairlead.engine.settings import EngineSettings
from fairlead.enrol import anchor as anchors
from fairlead.enrol import bundle as bundles
from fairlead.enrol import join, state
from fairlead.enrol import request as requests
from fairlead.enrol.anchor import Anchor, AnchorController
from fairlead.enrol.exchange import (
    HOST_NAMESPACE,
    USER_NAMESPACE,
    Claim,
    Core,
    Submission,
    answer,
    believe,
    prove,
)
from fairlead.enrol.redeem import TOKENS, TRUST_REVISION, Enrolment
from fairlead.enrol.state import TokenRecord
from fairlead.enrol.token import NAMESPACE as TOKEN_NAMESPACE
from fairlead.enrol.token import Token
from fairlead.fleet import commit as fleet_commit
from fairlead.keys import http
from fairlead.keys.http import Request, Response
from fairlead.keys.seal import hpke_seal, recipient_public
from fairlead.keys.ssh import KeyRefused, PrivateKey, PublicKey
from fairlead.keys.wire import b64, sha256, string
from fairlead.link import frames, messages
from fairlead.mesh import plan as plans
from fairlead.nodes import records
from fairlead.nodes.address import View
from fairlead.nodes.name import check_name
from fairlead.nodes.node import Endpoint, Node, split_address
from fairlead.nodes.records import KeyEntry
from fairlead.nodes.service import check_label, check_who, parse_target
from fairlead.pki import certificate as certificates
from fairlead.pki.verify import PortalTrust
from fairlead.portal import application
from fairlead.store.protocol import Record
from fairlead.upgrade import manifest as manifests
from fairlead.upgrade.seen import Seen
from fairlead.upgrade.verify import read_root
from fairlead.upgrade.verify import verify as verify_bundle
from fairlead.upgrade.wheel import Room, Wheel
from fairlead.users.keys import read_line
from tests.fuzz.channel import channel, packet
from tests.unit.enrol.test_anchor import ANCHOR
from tests.unit.enrol.test_exchange import CONTROLLER, ENGINE, FOLLOWER, HOST, JOINS, TOKEN, TOKEN_KEY, USER
from tests.unit.keys.test_http import REQUEST, RESPONSE, sign
from tests.unit.upgrade.ground import NOW as UPGRADE_NOW
from tests.unit.upgrade.ground import Publisher, opened
from tests.world import START, VECTORS

R = TypeVar("R")
_CODE = re.compile(r"FL-[A-Z0-9]+(-[A-Z0-9]+)*")
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError, RecursionError,
              x509.InvalidVersion)
"""How the envelope's maker here, not the product, fails at fields of which no envelope can be made."""


def attempt(read: Callable[[], R]) -> R | None:
    """What *read* returns, or None when it refuses as it should: with a stable code, in one printable line."""
    try:
        return read()
    except FairleadError as error:
        refused = error
    assert _CODE.fullmatch(refused.code), refused.code
    assert refused.line().isprintable()
    return None


def same(one: object, other: object) -> bool:
    """Whether two JSON values are the same, a bool and an integer never."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def plain(text: bytes) -> Any:
    """What was understood, as a reader of its own sees it: UTF-8, no field twice, numbers that are, whole texts."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), "a field is said twice"
        return dict(pairs)

    value = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


# -- what joins -------------------------------------------------------------------------------------------------------

_SEALED = VECTORS["sealed_bundle"]
_ASKED, _RECIPIENT = bytes.fromhex(_SEALED["request_encoded"]), bytes.fromhex(_SEALED["recipient_private"])


def bundle(data: bytes) -> bool:
    """A bundle's file: as it is, under the pin that its fields need, and sealed."""
    found = False
    for text in (data, _pinned(data)):
        read = attempt(partial(bundles.decode, text))
        sealed = _sealed(text)
        if len(sealed) <= bundles.MOST_BYTES:
            assert read == attempt(partial(bundles.unseal, sealed, _ASKED, _RECIPIENT))
        if read is not None:
            found = True
            again = read.encode()
            assert bundles.decode(again) == read
            assert same(_written(again), _written(text)), "understood, but not as it was written"
            assert json.dumps(bundles.summary(read)).isascii()
    return attempt(partial(bundles.unseal, data, _ASKED, _RECIPIENT)) is not None or found


def _pinned(data: bytes) -> bytes:
    """The same bundle with the token that its fields need, where they make an anchor."""
    try:
        fields = json.loads(data)
        ders = [c.public_bytes(Encoding.DER)
                for c in x509.load_pem_x509_certificates(fields["ca_certificate"].encode())]
        anchor = Anchor(UUID(fields["cluster_uuid"]), tuple(fields["join_versions"]), tuple(ders), tuple(
            AnchorController(c["name"], c["address"], c["portal_port"], c["tls_name"],
                             PublicKey.from_line(c["host_key"])) for c in fields["controllers"]))
        made = Token(TOKEN.id, TOKEN.secret, anchor.hash).encode()
        return data.replace(fields["token"].encode(), made.encode()) if fields["token"] else data
    except _MALFORMED:
        return data


def _sealed(text: bytes) -> bytes:
    digest = sha256(_ASKED)
    closed = hpke_seal(recipient_public(_RECIPIENT), string(bundles.SEAL_LABEL) + string(digest), text)
    return json.dumps({"fairlead_sealed_bundle": 1, "request": b64(digest), "sealed": b64(closed)}).encode()


def _written(text: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = plain(text)
    return {name: value for name, value in fields.items() if name != "ca_certificate"}  # PEM may be wrapped otherwise


def token(data: bytes) -> bool:
    """A token string: as it is, and 80 bytes under the right check sum with something behind."""
    texts = [data.decode("utf-8", "surrogateescape")]
    if len(data) >= 80:
        made = Token(data[:16], data[16:48], data[48:80])
        texts.append(made.encode() + data[80:].decode("utf-8", "surrogateescape"))
    found = False
    for text in texts:
        read = attempt(partial(Token.decode, text))
        if read is not None:
            found = True
            assert read.encode() == text.strip(" \t\r\n"), "a token has one spelling"
    return found


def anchor(data: bytes) -> bool:
    """An anchor's bytes under their own hash."""
    assert attempt(lambda: anchors.decode(data, bytes(32))) is None
    found = attempt(lambda: anchors.decode(data, sha256(data)))
    if found is None:
        return False
    assert found.encode() == data
    assert found.hash == sha256(data)
    attempt(PortalTrust(found.ca_certificates).context)
    return True


def asked(data: bytes) -> bool:
    """A join request's file."""
    found = attempt(lambda: requests.decode(data))
    if found is None:
        return False
    assert requests.decode(found.file()) == found
    assert same(json.loads(found.file()), plain(data))
    assert re.fullmatch("([a-z2-7]{4}-){5}[a-z2-7]{4}", found.fingerprint)
    return True


def submission(data: bytes) -> bool:
    """The body of a secure key exchange."""
    found = attempt(lambda: Submission.parse(data))
    if found is None:
        return False
    fields = plain(data)
    assert same(found.fields.model_dump(exclude_unset=True), fields)
    for name, value in (("token_id", found.token_id), ("anchor", found.anchor_hash), ("nonce", found.nonce),
                        ("certificate", found.certificate_hash), ("token_proof", found.proofs.token),
                        ("host_proof", found.proofs.host), ("user_proof", found.proofs.user)):
        assert b64(value) == fields[name], "base64 has one spelling"
    transcript = found.transcript(ANCHOR.cluster_uuid)
    claim = attempt(lambda: found.claim(ANCHOR.cluster_uuid))
    if claim is None:
        return False
    assert claim.transcript() == transcript, "two readings of one request"
    assert (claim.host_key.line, claim.user_key.line) == (fields["host_key"], fields["user_key"])
    if _proven(found, claim):
        assert claim in (ENGINE, FOLLOWER), "proven, but nobody signed it"
    mine = Claim(claim.cluster_uuid, claim.anchor_hash, claim.token_id, claim.certificate_hash, claim.role, claim.node,
                 HOST.public, USER.public, claim.nonce, claim.endpoint, claim.software)
    again = Submission.parse(prove(mine, token=TOKEN_KEY, host=HOST, user=USER))
    assert again.claim(ANCHOR.cluster_uuid) == mine
    assert _proven(again, mine)
    other = Endpoint((mine.endpoint.addresses[0] + "x",), 1, 1, 1) if mine.endpoint else Endpoint(("x",), 1, 1, 1)
    for changed in (replace(mine, node=mine.node + "x"), replace(mine, software=mine.software + "x"),
                    replace(mine, endpoint=other), replace(mine, nonce=mine.nonce[::-1] + b"x"),
                    replace(mine, role="engine" if mine.role == "controller" else "controller")):
        assert changed.transcript() != mine.transcript(), "a claim that no proof covers"
    return True


def _proven(found: Submission, claim: Claim) -> bool:
    transcript = found.transcript(claim.cluster_uuid)
    return (TOKEN_KEY.public.verifies(TOKEN_NAMESPACE, transcript, found.proofs.token)
            and claim.host_key.verifies(HOST_NAMESPACE, transcript, found.proofs.host)
            and claim.user_key.verifies(USER_NAMESPACE, transcript, found.proofs.user))


def reply(data: bytes) -> bool:
    """The reply to it: as it is, and as a core that the pinned Controller has signed."""
    raw = attempt(lambda: believe(data, ENGINE, ANCHOR))
    assert raw is None or raw[1] == JOINS[0]["core_text"].encode(), "believed, but nobody signed it"
    made = attempt(lambda: believe(answer(data, ENGINE.transcript(), "ctl-1", CONTROLLER), ENGINE, ANCHOR))
    if made is not None:
        plain(data)
    for wrong in (answer(data, FOLLOWER.transcript(), "ctl-1", CONTROLLER),
                  answer(data, ENGINE.transcript(), "ctl-1", HOST)):
        assert attempt(partial(believe, wrong, ENGINE, ANCHOR)) is None, "believed, but for another or by another"
    for found in (raw, made):
        if found is not None:
            core, _ = found
            assert (core.node, core.role, core.keys_hash) == (ENGINE.node, ENGINE.role, ENGINE.keys_hash.hex())
            assert Core.model_validate_json(core.model_dump_json()) == core
            attempt(partial(View().see, core.internal_address))
            for controller in core.controllers:  # it will be dialled
                assert PublicKey.from_line(controller.host_key)
                assert 0 < controller.ssh_port < 65536
                assert 0 < controller.portal_port < 65536
    return raw is not None or made is not None


def refusal(data: bytes) -> bool:
    """The body with which a portal, or who stands in its place, refuses: it is shown to a person."""
    found = join._refusal(Incoming(403, [], data, b""))
    assert _CODE.fullmatch(found.code), found.code
    assert found.line().isprintable()
    return found.code != "FL-PEER-PROTOCOL"


# -- the link ---------------------------------------------------------------------------------------------------------

def stream(data: bytes) -> bool:
    """A stream of frames, cut anywhere."""
    found = False
    for most in (frames.MOST_COMMIT_BYTES, frames.MOST_BYTES):
        for whole in (data, _framed(data)):
            heard, verdict = _heard([whole], most)
            for cuts in _cuts(whole):
                part, other = _heard(cuts, most)
                assert other == verdict
                # a chunk that ends in a refusal takes what was said before in the same chunk with it
                assert part == heard if verdict is None else part[:len(heard)] == heard
            for message in heard:
                with contextlib.suppress(RecursionError):  # the encoder's: it is not handed what was received
                    assert frames.Decoder(2**31).feed(frames.encode(message)) == [message]
                found = True
    if attempt(lambda: frames.Decoder().feed(_framed(data))):
        with contextlib.suppress(RecursionError):
            plain(data)
    return found


def _heard(chunks: Sequence[bytes], most: int) -> tuple[list[dict[str, Any]], str | None]:
    decoder, heard = frames.Decoder(most), list[dict[str, Any]]()
    for chunk in chunks:
        try:
            heard += decoder.feed(chunk)
        except FairleadError as refused:
            return heard, refused.code
        assert len(decoder._buffer) < 4 + most, "more is kept than a frame"
    return heard, None


def _cuts(data: bytes) -> Iterator[list[bytes]]:
    if len(data) <= 2048:
        yield [bytes([byte]) for byte in data]
    draw = random.Random(zlib.crc32(data))
    for _ in range(2):
        places = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(6)))
        yield [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def link(data: bytes) -> bool:
    """The body of one frame as a message of the link, and what is done with it."""
    heard = attempt(lambda: frames.Decoder().feed(_framed(data)))
    found = False
    readers: list[Callable[[dict[str, Any]], Any]] = [messages.from_engine, messages.from_controller]
    for read in readers if heard else []:
        message = attempt(partial(read, cast("list[dict[str, Any]]", heard)[0]))
        if message is not None:
            found = True
            [again] = frames.Decoder().feed(frames.encode(message.model_dump()))
            assert read(again) == message
            assert message.model_dump_json().encode(), "understood, but it cannot be shown"
            _use(message)
    return found


def _use(message: Any) -> None:
    match message:
        case messages.NewPlan(plan=plan):
            assert messages.Acknowledge(revision=plan.revision, problems=[])
            listeners = attempt(lambda: plans.listeners(plan, View())) or []
            assert all(0 < one.port < 65536 and ipaddress.IPv4Address(one.host).is_loopback for one in listeners)
            assert all(one.target is None or 0 < one.target[1] < 65536 for one in listeners)
            lines = attempt(lambda: plans.hosts(plan, View()))
            assert lines is None or re.fullmatch(r"(127\.[0-9.]+\t[a-z0-9-]+\.fairlead\.internal [a-z0-9-]+\n)*", lines)
        case messages.Welcome(server_time=instant) | messages.Heartbeat(time=instant):
            assert rfc3339(instant)


_COMMIT = {"v": 1, "op": "commit", "token_id": TOKEN.id.hex(), "node_id": "0b7a3a55-9a52-4d8a-9a5e-3f1f2d0c9b11",
           "keys_hash": ENGINE.keys_hash.hex()}


def commit(data: bytes) -> bool:
    """What a node says over SSH to commit its join: as a stream, and as the body of one frame."""
    return bool(max(asyncio.run(_commit([data])), asyncio.run(_commit([_framed(data)]))))


async def _commit(chunks: list[bytes]) -> bool:
    said, closed = list[bytes](), list[bool]()

    async def receive() -> bytes:
        return chunks.pop(0) if chunks else b""

    async def send(answered: bytes) -> None:
        said.append(answered)

    channel = SimpleNamespace(receive=receive, send=send, close=lambda: closed.append(True))
    peer = SimpleNamespace(fingerprint=USER.public.fingerprint, node="se-7")
    heard, _ = _heard(chunks, frames.MOST_COMMIT_BYTES)
    await fleet_commit.answer(Enrolment(cast("Any", _Store()), cast("Any", None), cast("Any", None), RefusalCounter(),
                                        cast("Any", SimpleNamespace(margin=0, fence=tuple))), cast("Any", peer),
                              cast("Any", channel))
    assert closed == [True]
    [answered] = frames.Decoder(frames.MOST_COMMIT_BYTES).feed(b"".join(said))
    if answered.get("result") != "committed":
        assert _CODE.fullmatch(answered["error"])
        return False
    assert answered["trust_revision"] == TRUST_REVISION
    assert _COMMIT.items() <= heard[0].items(), "committed, but not what was reserved"
    return True


class _Store:
    """One node that has committed: to say the same again is answered without a write."""

    def __init__(self) -> None:
        node = Node(str(_COMMIT["node_id"]), "se-7", "engine", "up", "127.64.1.0", HOST.public.line, USER.public.line,
                    START)
        self._values = {
            "keys/" + USER.public.fingerprint: records.encode(KeyEntry(
                node.id, "user", "active", TOKEN.id.hex(), USER.public.line)),
            "nodes/" + node.id: records.encode(node),
            TOKENS + TOKEN.id.hex(): state.encode(TokenRecord(
                TOKEN.id.hex(), "redeemed", "engine", "admin", START, START + 600 * SECOND, START + 660 * SECOND, "",
                "", "", keys_hash=ENGINE.keys_hash.hex()))}

    async def get(self, key: str) -> Record | None:
        value = self._values.get(key)
        return None if value is None else Record(key, value, 1, 1)

    async def now(self) -> int:
        return START


# -- signed calls -----------------------------------------------------------------------------------------------------

_FORWARDED = sign(on_behalf="6f1c2d3e-4a5b-4c6d-8e7f-0123456789ac")


def signature(data: bytes) -> bool:
    """A request, or with ``status`` a response, as JSON: as it is, and with what it says signed anew."""
    try:
        said = json.loads(data)
        headers = [(str(name), str(value)) for name, value in said["headers"]]
        body = str(said["body"]).encode("utf-8", "surrogatepass")
        if "status" in said:
            return _response(Response(int(said["status"]), headers, body))
        request = Request(str(said["method"]), str(said["url"]), headers, body)
    except _MALFORMED:
        return False
    return _request(request)


def _request(request: Request) -> bool:
    found = False
    for forwarded, signed in ((False, REQUEST), (True, _FORWARDED)):
        claims = attempt(partial(http.read_request, request, forwarded=forwarded))
        if claims is not None:
            attempt(partial(http.check_fresh, claims.created, START, START - SECOND))
            attempt(partial(http.check_recipient, claims, "c/n"))
            if _passes(partial(http.verify_request, request, USER.public, forwarded=forwarded)):
                found = True
                assert "content-encoding" not in _fields(request.headers)
                assert _said(request, forwarded=forwarded) == _said(signed, forwarded=forwarded), "nobody signed it"
        again = _signed(request, forwarded=forwarded)
        if again is not None and _passes(partial(http.verify_request, again, USER.public, forwarded=forwarded)):
            found = True
            assert "content-encoding" not in _fields(again.headers)
            for changed in _tampered(again, forwarded=forwarded):
                assert not _passes(partial(http.verify_request, changed, USER.public, forwarded=forwarded)), changed
            if not forwarded:
                fields = http.sign_response(200, b"{}", "application/json", request=again, key=CONTROLLER,
                                            created=START // SECOND)
                http.verify_response(Response(200, list(fields.items()), b"{}"), again, CONTROLLER.public)
    return found


def _response(response: Response) -> bool:
    found = _passes(lambda: http.verify_response(response, REQUEST, CONTROLLER.public))
    if found:
        told, covered = _fields(response.headers), ("content-type", "content-digest")
        assert (response.status, response.body) == (RESPONSE.status, RESPONSE.body), "nobody signed it"
        assert all(told[name] == _fields(RESPONSE.headers)[name] for name in covered), "nobody signed it"
    return found


def _passes(check: Callable[[], None]) -> bool:
    return attempt(lambda: check() or True) is True  # type: ignore[func-returns-value]


def _signed(request: Request, *, forwarded: bool) -> Request | None:
    """The same call by a node that means it: its own fields, then whatever else was there."""
    said = _fields(request.headers)
    try:
        fields = http.sign_request(
            request.method, request.url, request.body, said.get("content-type", ""), key=USER, nonce=bytes(16),
            to=said.get("fairlead-to", ""), created=START // SECOND,
            on_behalf=said.get("fairlead-on-behalf", "") if forwarded else None)
    except (ValueError, HTTPMessageSignaturesException):  # a bug of the caller, who is this function
        return None
    others = [(name, value) for name, value in request.headers if name.lower() not in fields]
    return Request(request.method, request.url, [*fields.items(), *others], request.body)


def _tampered(request: Request, *, forwarded: bool) -> Iterator[Request]:
    """The same call with one thing in it that nobody signed."""
    yield replace(request, method=request.method + "X")
    yield replace(request, url=f"{request.url}{'&' if '?' in request.url else '?'}x=1")
    yield replace(request, url=request.url.replace("://", "://x", 1))
    yield replace(request, body=request.body + b"x")
    for name in ["content-type", "fairlead-to"] + ["fairlead-on-behalf"] * forwarded:
        yield replace(request, headers=[(n, v + "x" if n == name else v) for n, v in request.headers])


def _said(request: Request, *, forwarded: bool) -> tuple[object, ...]:
    """What a request asks for, by another parser than the one that verified it."""
    url, fields = urlsplit(request.url), _fields(request.headers)
    default = {"http": "80", "https": "443"}[url.scheme]
    authority = re.sub(rf":0*({default})?$", "", url.netloc.lower())
    names = ["content-type", "content-digest", "fairlead-to", "signature-input"]
    return (request.method, authority, url.path or "/", url.query, request.body,
            *(fields[name] for name in names + ["fairlead-on-behalf"] * forwarded))


def _fields(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value.strip(" \t") for name, value in headers}


def announcement(data: bytes) -> bool:
    """What a Controller announces in a signed call: its addresses."""
    try:
        fields = strict.loads(data)
    except ValueError:
        return False
    endpoint = attempt(lambda: application.endpoint_of(fields)) if isinstance(fields, dict) else None
    if endpoint is None:
        return False
    plain(data)
    assert 1 <= len(endpoint.places) <= 4
    assert all(0 < port < 65536 and host.isprintable() for host, port in endpoint.places)
    node = Node(str(_COMMIT["node_id"]), "ctl-2", "controller", "up", "127.64.0.2", HOST.public.line,
                USER.public.line, START, endpoint)
    assert records.node_from(records.encode(node)) == node
    return True


# -- what a node keeps, and what people type --------------------------------------------------------------------------

def settings(data: bytes) -> bool:
    """``fairlead.toml`` of either role."""
    found = False
    for kind in (ControllerSettings, EngineSettings):
        read = attempt(partial(configuration.decode, data, Path("fairlead.toml"), kind))
        if read is not None:
            found = True
            assert configuration.decode(configuration.encode(read), Path("fairlead.toml"), kind) == read
            assert read.see().network.is_loopback
            for name, value in tomllib.loads(data.decode()).items():
                kept = getattr(read, name)
                assert kept == value
                assert type(kept) is type(value) or (name, type(value)) == ("keepalive_s", int), name
            if isinstance(read, ControllerSettings):
                assert all(0 < port < 65536 for _, port in read.endpoint.places)
                assert all(re.fullmatch(r"[0-9A-Fa-f:.]+(%[ -~]+)?", host) for host in read.listen)
    return found


def key(data: bytes) -> bool:
    """An SSH key: a line, a wire form, a private key's file."""
    text = data.decode("utf-8", "surrogateescape")
    found = False
    with contextlib.suppress(KeyRefused):
        assert PublicKey.from_line(text).line == text, "a key has one spelling"
        found = True
    with contextlib.suppress(KeyRefused):
        read = PublicKey.from_blob(data)
        assert PublicKey.from_line(read.line) == read
        assert not read.verifies(TOKEN_NAMESPACE, data, bytes(64))
        found = True
    with contextlib.suppress(KeyRefused):
        private = PrivateKey.from_openssh(data)
        assert PrivateKey.from_openssh(private.openssh()).public == private.public
        assert PublicKey.from_line(private.public.line) == private.public
        found = True
    return found


def certificate(data: bytes) -> bool:
    """A certificate, DER or PEM, as a portal may present it and a bundle may hold it."""
    for der in (data, attempt(lambda: certificates.der_of(data)) or b""):
        if attempt(partial(certificates.parsed, der)) is not None:
            first_last = attempt(partial(certificates.validity, der))
            assert first_last is None or (rfc3339(first_last[0]) and rfc3339(first_last[1]))
            attempt(partial(certificates.names, der))
            trust = PortalTrust((*ANCHOR.ca_certificates, der))
            attempt(trust.context)
            attempt(partial(trust.check, der, "portal"))
            return True
    return False


def audit(data: bytes) -> bool:
    """An audit journal, line by line; the end of a chain; a hostile text on record."""
    lines, kept = data.removesuffix(b"\n").split(b"\n"), []
    for line in lines:
        record = attempt(partial(decode_record, line, "line 9"))
        if record is not None:
            kept.append(record)
            assert record.encoded() == line
            assert rfc3339(record.time)
        head = attempt(partial(decode_head, line))
        assert head is None or encode_head(head) == line
    whole = attempt(lambda: verify(kept))
    if whole is not None and kept:
        assert attempt(lambda: verify(kept[:-1], whole)) is None
    text = data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace") if _is_text(data) else "\ud800"
    record = chain(None, Entry(text, text, text, {text: text, "n": len(data)}), "ctl-1", START)
    assert decode_record(record.encoded(), "here") == record
    return len(kept) == len(lines) and whole is not None


def _is_text(data: bytes) -> bool:
    try:
        return data.decode("utf-8", "surrogatepass") is not None
    except UnicodeDecodeError:
        return False


def typed(data: bytes) -> bool:
    """What people type, and what a source address looks like: addresses, targets, views, names, labels."""
    text = data.decode("utf-8", "surrogateescape")
    found = False
    splitters: list[Callable[[str], tuple[str, int]]] = [partial(split_address, default_port=8443), parse_target]
    for split in splitters:
        place = attempt(partial(split, text))
        if place is not None:
            found = True
            host, port = place
            assert 0 < port < 65536
            assert host.isascii()
            assert host.isprintable()
            assert " " not in host
            assert split(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == place
    view = attempt(lambda: View.parse(text))
    if view is not None:
        assert view.network.is_loopback
        assert View.parse(str(view.network)) == view
    readers: list[Callable[[str], object]] = [check_name, check_who, check_label]
    found |= view is not None or any(attempt(partial(read, text)) is not None for read in readers)
    network = network_of(text)
    assert network == "other" or str(ipaddress.ip_network(network)) == network
    return found


def ordered(data: bytes) -> bool:
    """What a person types over SSH: a command; and the line of his key."""
    text = data.decode("utf-8", "surrogateescape")
    line = attempt(partial(read_line, text))
    if line is not None:
        found, comment = line
        assert read_line(f"{found.line} {comment}") == (found, comment)
    said = attempt(partial(words, text))
    if said is None:
        return line is not None
    assert text.isprintable()
    assert all(word.isprintable() for word in said)

    def passes() -> bool:
        check(said)
        return True

    if not attempt(passes):
        return line is not None
    (command,) = {tuple(said[:n]) for n in (1, 2, 3)} & set(COMMANDS)
    allowed = COMMANDS[command]
    for word, before in zip(said[len(command):], said[len(command) - 1:], strict=False):
        if before in allowed.piped:
            assert word == "-"
        elif word.startswith("--") and before not in allowed.options:
            assert word.partition("=")[0] in allowed.options | allowed.flags | allowed.piped
    return True


_PUBLISHER = Publisher()
_BUILT = _PUBLISHER.bundle()


def upgrade(data: bytes) -> bool:
    """What an upgrade bundle is made of: the file, a manifest, a root, a wheel."""
    found = False
    manifest = attempt(partial(manifests.decode, data))
    if manifest is not None:
        found = True
        assert manifests.encode(manifest) == data, "a manifest has one spelling"
        assert all(re.fullmatch(r"[A-Za-z0-9_.+@=/-]+", file.path) for file in manifest.files)
        assert not any(part in {"", ".", ".."} for file in manifest.files for part in file.path.split("/"))
    if attempt(partial(read_root, data)) is not None:
        found = True
        assert plain(data)["signed"]["_type"] == "root"
        assert len(plain(data)["signatures"]) >= 2
    with opened(data) as fd:
        verified = attempt(partial(verify_bundle, fd, _PUBLISHER.roots[0], Seen(), UPGRADE_NOW))
    if verified is not None:
        found = True
        assert verified.sha256 == sha256(data).hex()
        assert data == _BUILT, "only what was built"
    wheel = attempt(lambda: Wheel("thing-1.0-py3-none-any.whl", io.BytesIO(data), Room()))
    if wheel is not None:
        found = True
        written: dict[str, bytes] = {}

        def unpacked() -> bool:
            wheel.unpack(lambda path, pieces: written.update({path: b"".join(pieces)}))
            return True

        if attempt(unpacked):
            assert sorted(written) == sorted(wheel.targets)
        assert all(not path.startswith("/") and ".." not in path.split("/") and path.isprintable()
                   for path in wheel.targets)
    return found


TARGETS: dict[str, Callable[[bytes], bool]] = {target.__name__: target for target in (
    bundle, token, anchor, asked, submission, reply, refusal, stream, link, commit, signature, announcement,
    settings, key, certificate, audit, typed, ordered, upgrade, channel, packet)}
