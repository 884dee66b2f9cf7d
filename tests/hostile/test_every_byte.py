"""Every message of the trust protocol with any of its bytes changed, or cut off anywhere: none means anything else.

A changed message is refused, or it is one that says the very same; each such exception is named here with its reason.
Cutting stands for everything shorter, a changed bit for everything else of the same length: what the messages' parsers
do with other input is the fuzzers' business. In `make test` two bits of each byte are changed: the lowest, and the one
that makes capitals of small letters. `make test-all` changes all eight.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import pytest

from fairlead.base.clock import SystemClock
from fairlead.base.errors import FairleadError
from fairlead.enrol import anchor as anchors
from fairlead.enrol import bundle as bundles
from fairlead.enrol import join as joining
from fairlead.enrol import request as requests
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import PATH, CoreController, believe
from fairlead.enrol.join import Joiner
from fairlead.enrol.request import JoinRequest
from fairlead.enrol.token import Token
from fairlead.keys import http
from fairlead.keys.seal import new_recipient, recipient_public
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import sha256
from fairlead.link import frames
from fairlead.nodes.node import Endpoint
from fairlead.store.protocol import MARK
from fairlead.transport.tunnel import Tunnel
from tests.unit.fleet.test_commit import Office, ask
from tests.world import Answer, Machine, World, denied, open_world

LETTER_CASE = 0x20
Bits = tuple[int, ...]
T = TypeVar("T")


@pytest.fixture(params=[(0x01, LETTER_CASE), pytest.param(tuple(1 << n for n in range(8)), marks=pytest.mark.whole)],
                ids=["two bits", "all bits"])
def bits(request: pytest.FixtureRequest) -> Bits:
    return cast("Bits", request.param)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


def flips(data: bytes, bits: Bits) -> Iterator[tuple[int, bytes]]:
    """Each message that differs in one bit, and where."""
    for at, byte in enumerate(data):
        for bit in bits:
            yield at, data[:at] + bytes([byte ^ bit]) + data[at + 1:]


def harmed(data: bytes, bits: Bits) -> Iterator[tuple[int, bytes]]:
    """The same, and each that is cut off."""
    yield from flips(data, bits)
    for at in range(len(data)):
        yield at, data[:at]


def outcome(work: Callable[[], T]) -> T | str:
    """What *work* gives, or the code with which it refuses."""
    try:
        return work()
    except FairleadError as refusal:
        return refusal.code


async def standing(world: World) -> dict[str, bytes]:
    """Everything in the store but the audit log, what is counted, and the time."""
    return {r.key: r.value for r in (await world.store.list("")).records
            if not r.key.startswith(("audit", "enrol/refusals/")) and r.key != MARK}


# -- joining ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("role", ["engine", "controller"])
async def test_a_join_request_that_was_harmed_anywhere_reserves_nothing(
        world: World, bits: Bits, role: Literal["engine", "controller"]) -> None:
    endpoint = Endpoint(("192.0.2.11",), 443, 8443, 22) if role == "controller" else None
    bundle, machine = await world.export(role), Machine()
    body = machine.body(machine.claim(bundle, world.certificate, "n-1", endpoint=endpoint), bundle)
    before, codes = await standing(world), set[str]()
    for number, (at, other) in enumerate(harmed(body, bits)):
        # each from another address: who fails often from one is only served last, which would take its time here
        answer = await world.post(other, f"198.18.{number >> 8}.{number & 255}")
        assert answer.status in (400, 403, 426), at
        codes.add(answer.code)
    assert codes == {"FL-JOIN-FORMAT", "FL-JOIN-VERSION", "FL-JOIN-REFUSED", "FL-JOIN-PROOF"}
    assert await standing(world) == before
    assert {record.event for record in await world.audited()} == {"token.issued", "join.refused"}
    assert (await world.post(body)).status == 200


async def test_a_reply_that_was_harmed_anywhere_is_not_believed(world: World, bits: Bits) -> None:
    bundle, machine = await world.export(), Machine()
    claim = machine.claim(bundle, world.certificate)
    reply = (await world.post(machine.body(claim, bundle))).body
    (controller,) = bundle.anchor.controllers
    # one bit away there is another Controller of the same bundle, which did not sign this
    neighbour = replace(controller, name="ctl-0", host_key=PrivateKey.generate().public)
    anchor = replace(bundle.anchor, controllers=(controller, neighbour))
    for at, other in harmed(reply, bits):
        assert denied(partial(believe, other, claim, anchor)) == "FL-JOIN-PEER", at
    assert believe(reply, claim, anchor)[0].keys_hash == claim.keys_hash.hex()


async def test_a_commit_that_was_harmed_anywhere_commits_nothing(world: World, bits: Bits) -> None:
    bundle, machine = await world.export(), Machine()
    core = await world.exchange(bundle, machine)

    class Proven(Office):
        """The real one; the key that the connection has proven is the machine's."""

        async def commit(self, fingerprint: str, message: dict[str, Any]) -> int:
            return await world.enrolment.commit(machine.user.public.fingerprint, message)

    frame = frames.encode({"v": 1, "op": "commit", "token_id": bundle.token.id.hex(), "node_id": core.node_id,
                           "keys_hash": core.keys_hash})
    before, codes = await standing(world), set[object]()
    for _, other in harmed(frame, bits):
        codes.add((await ask(Proven(), other)).get("error"))
    assert codes == {"FL-JOIN-FORMAT", "FL-JOIN-REFUSED", "FL-LINK-FRAME"}
    assert await standing(world) == before
    assert (await ask(Proven(), frame))["result"] == "committed"


async def test_a_commit_is_done_only_when_its_answer_says_so_whole(
        tmp_path: Path, bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may change is how the trust statement is numbered: the node does not read that, its first plan says it."""
    harmless = b'"trust_revision":1'
    frame = frames.encode({"v": 1, "result": "committed", "trust_revision": 1})
    assert frame.endswith(harmless + b"}")
    key = PrivateKey.generate()
    controller = CoreController(name="ctl-1", address="192.0.2.10", portal_port=8443, ssh_port=22, node_id="n",
                                internal_address="127.64.0.1", host_key=key.public.line, user_key=key.public.line)
    joiner = Joiner(tmp_path, "engine", "se-1", SystemClock())

    async def committed(answer: bytes) -> bool:
        async def dial(*_: object, **__: object) -> Tunnel:
            return cast("Tunnel", _Answering(answer))

        monkeypatch.setattr(joining, "dial", dial)
        try:
            await joiner._commit_with(controller, {"v": 1}, "engine", key)
        except FairleadError:
            return False
        return True

    assert await committed(frame)
    believed = {at for at, other in harmed(frame, bits) if await committed(other)}
    assert believed
    assert min(believed) >= frame.index(harmless)


class _Answering:
    """A Controller that says one thing and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self.answers = [answer, b""]

    async def subsystem(self, _: str) -> "_Answering":
        return self

    async def send(self, _: bytes) -> None: ...

    async def receive(self) -> bytes:
        return self.answers.pop(0)

    def close(self, _: str) -> None: ...


# -- signed calls -----------------------------------------------------------------------------------------------------

Lines = list[tuple[str, str]]


def changed(lines: Lines, bits: Bits) -> Iterator[tuple[str, int, Lines]]:
    """Header fields with one bit changed: where (``name`` for its value, ``name:`` for its name), and all of them.

    A field's name in other letters is the same name (RFC 9110, section 5.1) and makes the very same message: left out.
    """
    for number, (name, value) in enumerate(lines):
        for part, text in ((f"{name}:", name), (name, value)):
            for at, other in flips(text.encode(), bits):
                new = other.decode("latin-1")
                if part == name:
                    yield part, at, [*lines[:number], (name, new), *lines[number + 1:]]
                elif new.lower() != name:
                    yield part, at, [*lines[:number], (new, value), *lines[number + 1:]]


async def test_a_signed_call_that_was_harmed_anywhere_is_nobodys(world: World, bits: Bits) -> None:
    """The Controller signs its answers to whoever has signed; these get none. The letters of the host's name may
    change: it has no case (RFC 9421, section 2.2.3), and whom the call is for stands in ``Fairlead-To``."""
    machine = Machine()
    await world.join("se-1", machine)
    request = world.signed({"op": "leave"}, machine.user)
    host = next(c.tls_name for c in (await world.export()).anchor.controllers)
    lines = [("host", host), *request.headers]
    before, codes = await standing(world), set[str]()

    async def answered(lines: Lines, body: bytes) -> Answer:
        return await world.call("POST", PATH, [body], headers=lines)

    for part, at, other in changed(lines, bits):
        if part == "host" and other[0][1].lower() == host:
            http.verify_request(http.Request("POST", f"https://{other[0][1]}{PATH}", request.headers, request.body),
                                machine.user.public)
            continue
        answer = await answered(other, request.body)
        assert answer.header("signature") is None, (part, at)
        codes.add(answer.code)
    for at, body in harmed(request.body, bits):
        answer = await answered(lines, body)
        assert (answer.code, answer.header("signature")) == ("FL-SIG-BAD", None), at
    assert codes == {"FL-SIG-FORMAT", "FL-SIG-BAD", "FL-SIG-RECIPIENT", "FL-SIG-KEY", "FL-JOIN-FORMAT"}
    assert await standing(world) == before
    assert (await answered(lines, request.body)).status == 200
    assert world.directory.named("se-1") is None


async def test_a_signed_answer_that_was_harmed_anywhere_is_not_believed(world: World, bits: Bits) -> None:
    """Fields that are not covered, such as ``Content-Length``, say how the message is read, and nothing is read of
    them afterwards; an answer that ends early is none (`tests/unit/client/test_https.py`)."""
    machine = Machine()
    await world.join("se-1", machine)
    request = world.signed({"op": "read"}, machine.user)
    answer = await world.ask(request)
    covered = ("content-type", "content-digest", "signature-input", "signature")
    lines = [(name, value) for name, value in answer.headers if name in covered]

    def shown(status: int, lines: Lines, body: bytes) -> None:
        http.verify_response(http.Response(status, lines, body), request, world.host_key.public)

    shown(answer.status, lines, answer.body)
    for part, at, other in changed(lines, bits):
        assert denied(partial(shown, 200, other, answer.body)) in ("FL-SIG-BAD", "FL-SIG-FORMAT"), (part, at)
    for at, body in harmed(answer.body, bits):
        assert denied(partial(shown, 200, lines, body)) == "FL-SIG-BAD", at
    for status in {*range(100, 600)} - {200}:
        assert denied(partial(shown, status, lines, answer.body)) == "FL-SIG-BAD"


# -- what is carried by hand ------------------------------------------------------------------------------------------

UNPINNED = ("node", "expires_at", "lifetime_s")
"""What to ask for, what people read, and how long to try: the token's record at the portal decides on all three."""


async def test_a_bundle_that_was_harmed_anywhere_trusts_nobody_else(world: World, bits: Bits) -> None:
    """What it trusts (CA, Controllers, versions, token) cannot change. Where the fields that are not under the pin do,
    or the blanks between the lines of the certificate and what follows them, the trust is the same to the byte."""
    bundle = await world.export(node="se-1", lifetime_s=300)
    data = bundle.encode()
    places = [(found.start(), found[1].decode()) for found in re.finditer(rb'^ "(\w+)":', data, re.MULTILINE)]
    accepted = set[str]()
    for at, other in harmed(data, bits):
        if len(other) == len(data) - 1:
            assert bundles.decode(other) == bundle  # all that is cut off is the newline at the end
            continue
        seen = outcome(partial(bundles.decode, other))
        if isinstance(seen, str):
            assert seen.startswith(("FL-BUNDLE-", "FL-TOKEN-")), at
            continue
        assert (seen.anchor, seen.token, seen.role) == (bundle.anchor, bundle.token, bundle.role), at
        accepted.add(max((start, name) for start, name in places if start <= at)[1])
    assert accepted >= set(UNPINNED)
    assert accepted <= {*UNPINNED, "ca_certificate"}


def test_a_sealed_bundle_that_was_harmed_anywhere_does_not_open(sealed: "Sealed", bits: Bits) -> None:
    for at, other in harmed(sealed.data, bits):
        code = denied(partial(bundles.unseal, other, sealed.request, sealed.private))
        assert code in ("FL-BUNDLE-FORMAT", "FL-BUNDLE-VERSION", "FL-BUNDLE-OTHER", "FL-BUNDLE-DAMAGED"), at
    assert bundles.unseal(sealed.data, sealed.request, sealed.private) == sealed.bundle


class Sealed:
    """A bundle for one machine, and what opens it."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.request, self.private = bundle, b"the request", new_recipient()
        self.data = bundles.seal(bundle, self.request, recipient_public(self.private))


@pytest.fixture
async def sealed(world: World) -> Sealed:
    return Sealed(await world.export())


async def test_a_token_string_that_was_harmed_anywhere_is_no_token(world: World, bits: Bits) -> None:
    text = (await world.export()).token.encode().encode()
    for at, other in harmed(text, bits):
        assert denied(partial(Token.decode, other.decode("latin-1"))).startswith("FL-TOKEN-"), at


async def test_an_anchor_that_was_harmed_anywhere_is_another_one(world: World, bits: Bits) -> None:
    """Nothing of it is parsed; and even under a pin of its own no two spellings are one anchor."""
    bundle = await world.export()
    data = bundle.anchor.encode()
    for at, other in harmed(data, bits):
        assert denied(partial(anchors.decode, other, bundle.token.pin)) == "FL-ANCHOR-PIN", at
        seen = outcome(partial(anchors.decode, other, sha256(other)))
        assert seen == "FL-ANCHOR" if isinstance(seen, str) else seen.encode() == other, at


def test_a_join_request_file_that_was_harmed_anywhere_shows_another_fingerprint(bits: Bits) -> None:
    """Nothing protects it but the people who compare the fingerprint: so none may stay the same."""
    machine = Machine()
    request = JoinRequest("engine", "se-1", machine.host.public, machine.user.public,
                          recipient_public(new_recipient()))
    data, shown = request.file(), 0
    for at, other in harmed(data, bits):
        if len(other) == len(data) - 1:
            continue  # all that is cut off is the newline at the end
        seen = outcome(partial(requests.decode, other))
        if isinstance(seen, str):
            assert seen in ("FL-REQUEST", "FL-NAME"), at
            continue
        assert seen.fingerprint != request.fingerprint, at
        shown += 1
    assert shown
    assert requests.decode(data[:-1]) == request
    assert json.loads(data)["node"] == "se-1"
