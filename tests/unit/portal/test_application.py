"""The portal as an application: three routes, and answers that tell strangers nothing."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.base.clock import MINUTE, SECOND
from fairlead.enrol.exchange import MOST_REQUEST_BYTES, PATH, believe, prove
from fairlead.keys import http
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, sha256
from fairlead.nodes import records
from fairlead.nodes.node import Endpoint
from fairlead.store.protocol import Compare, Operation, Outcome, Put, StoreUnavailable
from tests.unit.enrol.test_exchange import MALFORMED
from tests.world import Answer, Machine, World, denied, open_world, refusal, tampered


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


# -- routes -----------------------------------------------------------------------------------------------------------

ELSEWHERE = [
    ("GET", "/", b""), ("GET", PATH, b""), ("HEAD", PATH, b""), ("PUT", PATH, b""), ("DELETE", PATH, b""),
    ("OPTIONS", PATH, b""), ("POST", PATH, b"x=1"), ("POST", PATH + "/", b""), ("POST", PATH.upper(), b""),
    ("POST", PATH + "/anchor/" + "0" * 64, b""), ("GET", PATH + "/anchor", b""), ("GET", PATH + "/anchor/", b""),
    ("GET", PATH + "/anchor/" + "0" * 64, b"x"), ("GET", PATH + "/anchor/" + "0" * 64, b""),
    ("GET", PATH + "/anchor/" + "g" * 64, b""), ("GET", PATH + "/anchor/" + " 0" * 32, b""),
    ("GET", PATH + "/anchor/../../etc/passwd", b""), ("POST", "/api/login", b""), ("GET", "/docs", b""),
    ("GET", PATH + "/trust/4", b""), ("GET", PATH + "/trust/" + "0" * 64, b""),
    ("GET", PATH + "/trust/" + "0" * 64 + "/x", b""), ("GET", PATH + "/trust/" + "0" * 64 + "/4", b""),
    ("POST", PATH + "/trust/" + "0" * 64 + "/4", b""), ("GET", PATH + "/trust/" + "0" * 64 + "/4", b"x"),
    ("GET", "/openapi.json", b""), ("post", PATH, b""), ("POST", "//api/securekeyexchange", b"")]


async def test_all_else_is_404_before_any_body_is_read(world: World) -> None:
    for method, path, query in ELSEWHERE:
        answer = await world.call(method, path, [b"x" * 10_000], query=query)
        assert (answer.status, answer.reads) == (404, 0), (method, path, query)


async def test_the_anchor_of_a_pin(world: World) -> None:
    bundle = await world.export()
    before = await world.revision()
    answer = await world.call("GET", f"{PATH}/anchor/{bundle.anchor.hash.hex()}", headers=[])
    assert (answer.status, answer.body) == (200, bundle.anchor.encode())
    assert sha256(answer.body) == bundle.token.pin
    assert answer.header("content-type") == "application/octet-stream"
    assert await world.revision() == before


async def test_trust_statements_for_who_knows_a_root(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.portal, "_statements",
                        lambda root, number: [f"after {number}"] if root[0] == "a" else None)
    before = await world.revision()
    answer = await world.call("GET", f"{PATH}/trust/{'a' * 64}/4", headers=[])
    assert (answer.status, json.loads(answer.body), answer.reads) == (200, {"statements": ["after 4"]}, 0)
    assert (await world.call("GET", f"{PATH}/trust/{'b' * 64}/4", headers=[])).status == 404
    assert await world.revision() == before


# -- before any token is looked at ------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/jsonx", "application/json, text/plain",
                                  "multipart/form-data"])
async def test_only_json(world: World, kind: str | None) -> None:
    headers = [] if kind is None else [("content-type", kind)]
    answer = await world.call("POST", PATH, [b"{}"], headers=headers)
    assert (answer.status, answer.code, answer.reads) == (415, "FL-JOIN-FORMAT", 0)


async def test_two_content_types_are_none(world: World) -> None:
    answer = await world.call("POST", PATH, [b"{}"], headers=[("content-type", "application/json"),
                                                              ("content-type", "text/plain")])
    assert answer.status == 415


async def test_a_large_body_is_read_no_further_than_the_limit(world: World) -> None:
    answer = await world.call("POST", PATH, [b"x" * 1000] * 50)
    assert (answer.status, answer.code, answer.reads) == (413, "FL-JOIN-FORMAT", MOST_REQUEST_BYTES // 1000 + 1)


async def test_a_body_that_breaks_off(world: World) -> None:
    answer = await world.call("POST", PATH, [b"{", b""])
    assert (answer.status, answer.code) == (400, "FL-JOIN-FORMAT")


async def test_malformed(world: World) -> None:
    before = await world.revision()
    for what, body in MALFORMED.items():
        answer = await world.post(body)
        assert (answer.status, answer.code) == (400 if len(body) <= MOST_REQUEST_BYTES else 413, "FL-JOIN-FORMAT"), what
    assert await world.revision() == before


async def test_another_version(world: World) -> None:
    answer = await world.post(b'{"v":2}')
    assert (answer.status, answer.code) == (426, "FL-JOIN-VERSION")


# -- strangers --------------------------------------------------------------------------------------------------------

async def test_unknown_and_wrong_look_alike_to_the_byte_and_write_nothing(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    spent, spent_machine = await world.export(), Machine()
    await world.join("se-2", spent_machine, spent)
    claim = machine.claim(bundle, world.certificate)
    before = await world.revision()
    wrong = prove(claim, token=PrivateKey.generate(), host=machine.host, user=machine.user)
    relayed = prove(replace(claim, certificate_hash=bytes(32)), token=PrivateKey.generate(), host=machine.host,
                    user=machine.user)
    requests = [
        wrong, relayed, tampered(wrong, role="controller", endpoint={"address": "x", "api_port": 1, "portal_port": 1,
                                                                     "ssh_port": 1}),
        tampered(wrong, host_key="ssh-rsa AAAA"), tampered(wrong, user_key=machine.host.public.line),
        prove(replace(claim, token_id=bytes(16)), token=bundle.token.key(world.cluster_uuid), host=machine.host,
              user=machine.user),
        prove(replace(claim, token_id=spent.token.id), token=PrivateKey.generate(), host=spent_machine.host,
              user=spent_machine.user),
        tampered(machine.body(claim, bundle), token_proof=b64(bytes(64)))]
    answers = [await world.post(request) for request in requests]
    assert {(a.status, a.body, tuple(a.headers)) for a in answers} == {
        (403, answers[0].body, tuple(answers[0].headers))}
    assert json.loads(answers[0].body) == {"error": "the join was refused", "code": "FL-JOIN-REFUSED", "remedy": ""}
    assert await world.revision() == before
    assert len(world.refusals.flush(world.clock.now() + MINUTE)) == 1


# -- the exchange -----------------------------------------------------------------------------------------------------

async def test_the_exchange(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    claim = machine.claim(bundle, world.certificate)
    answer = await world.post(machine.body(claim, bundle))
    assert (answer.status, answer.header("content-type"), answer.header("cache-control")) == (
        200, "application/json", "no-store")
    core, exact = believe(answer.body, claim, bundle.anchor)
    assert core.result == "reserved"
    for secret in (bundle.token.secret.hex(), bundle.token.encode(), b64(bundle.token.secret)):
        assert secret.encode() not in answer.body + exact


async def test_a_proof_that_somebody_relays_fails_with_an_alarm(world: World) -> None:
    """The man in the middle has a certificate of his own, even one of the same root."""
    bundle, machine = await world.export(), Machine()
    theirs = machine.body(machine.claim(bundle, sha256(b"the certificate of somebody in between")), bundle)
    answer = await world.post(theirs)
    assert (answer.status, answer.code) == (403, "FL-JOIN-RELAY")
    assert (await world.token(bundle)).state == "open"
    records_ = [r for r in await world.audited() if r.details.get("code") == "FL-JOIN-RELAY"]
    assert [r.by for r in records_] == ["192.0.2.7"]
    # swapping the certificate in the request makes every proof wrong
    assert (await world.post(tampered(theirs, certificate=b64(world.certificate)))).code == "FL-JOIN-REFUSED"


class Down:
    """A store's transactions while its disk is full."""

    async def append_with(self, compare: list[Compare], then: list[Operation], entries: object) -> Outcome:
        raise StoreUnavailable("the disk is full")


async def test_a_store_that_does_not_answer_is_503_with_a_time_to_come_back(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, machine = await world.export(), Machine()
    monkeypatch.setattr(world.enrolment, "_audit", Down())
    answer = await world.post(machine.body(machine.claim(bundle, world.certificate), bundle))
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "FL-JOIN-UNAVAILABLE", "2")
    assert b"disk" not in answer.body
    monkeypatch.undo()
    assert (await world.post(machine.body(machine.claim(bundle, world.certificate), bundle))).status == 200


# -- signed calls -----------------------------------------------------------------------------------------------------

async def joined(world: World) -> Machine:
    machine = Machine()
    await world.join("se-1", machine)
    return machine


async def told(world: World, request: http.Request) -> tuple[int, str]:
    """Status and code of an answer that this Controller signed for this request."""
    answer = await world.ask(request)
    return answer.status, str(world.believed(answer, request).get("code", ""))


async def test_read(world: World) -> None:
    machine = await joined(world)
    request = world.signed({"op": "read"}, machine.user)
    before = await world.revision()
    answer = await world.ask(request)
    core = world.believed(answer, request)
    assert (answer.status, core["result"], core["node"], core["internal_address"], core["commit_within_s"]) == (
        200, "committed", "se-1", "127.64.1.0", 0)
    assert [c["node_id"] for c in core["controllers"]] == [world.controller.id]
    assert await world.revision() == before


async def test_a_signed_call_while_the_store_does_not_even_tell_the_time(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cluster without a majority, of which engines ask why nobody lets them in."""
    machine = await joined(world)

    async def silent() -> int:
        raise StoreUnavailable("no majority")

    monkeypatch.setattr(world.portal, "_now", silent)
    assert await told(world, world.signed({"op": "read"}, machine.user)) == (503, "FL-JOIN-UNAVAILABLE")


async def test_leave(world: World) -> None:
    machine = await joined(world)
    request = world.signed({"op": "leave"}, machine.user)
    assert world.believed(await world.ask(request), request) == {"v": 1, "result": "removed"}
    assert world.directory.named("se-1") is None
    assert (await world.events("se-1"))[-1] == "node.left"
    assert await told(world, world.signed({"op": "read"}, machine.user)) == (403, "FL-NODE-REMOVED")


async def test_a_removed_node_is_told_so_under_the_pinned_key(world: World) -> None:
    machine = await joined(world)
    await world.registry.remove("se-1", "admin")
    for operation in ("read", "leave"):
        assert await told(world, world.signed({"op": operation}, machine.user)) == (403, "FL-NODE-REMOVED")


async def test_a_revoked_key_does_nothing_even_while_its_node_is_there(world: World) -> None:
    machine = await joined(world)
    entry = await world.key(machine.user.public)
    assert entry is not None
    key = records.KEYS + machine.user.public.fingerprint
    outcome = await world.store.transact([], [Put(key, records.encode(replace(entry, state="revoked")))])
    await world.directory.reached(outcome.revision)
    assert await told(world, world.signed({"op": "leave"}, machine.user)) == (
        403, "FL-KEY-RETIRED"), "the node is a member: it is not told to end"
    assert world.directory.named("se-1") is not None


async def test_a_frozen_node_is_told_so_under_the_pinned_key(world: World) -> None:
    bundle, machine = await world.export(), Machine()
    node = await world.join("se-1", machine, bundle)
    assert await refusal(world.exchange(bundle, Machine())) == "FL-JOIN-CONFLICT"
    await world.directory.reached(await world.revision())
    for operation in ("read", "leave"):
        assert await told(world, world.signed({"op": operation}, machine.user)) == (403, "FL-NODE-FROZEN")
    assert world.directory.nodes[node.id].state == "frozen"


async def test_nobody_in_between_can_tell_a_node_that_it_was_removed(world: World) -> None:
    machine = await joined(world)
    other = Machine()
    await world.join("se-2", other)
    await world.registry.remove("se-2", "admin")
    for_other = world.signed({"op": "read"}, other.user)
    answer = await world.ask(for_other)
    assert world.believed(answer, for_other)["code"] == "FL-NODE-REMOVED"
    mine = world.signed({"op": "read"}, machine.user)
    stranger = http.sign_response(403, answer.body, "application/json", request=mine, key=PrivateKey.generate(),
                                  created=world.clock.now() // SECOND)
    for headers in (answer.headers, list(stranger.items()), []):
        shown = Answer(403, headers, answer.body, 0)
        assert refused(world, shown, mine) in ("FL-SIG-BAD", "FL-SIG-FORMAT")


def refused(world: World, answer: Answer, request: http.Request) -> str:
    return denied(lambda: world.believed(answer, request))


@pytest.mark.parametrize("ahead_s", [-61, 11, -3600])
async def test_stale(world: World, ahead_s: int) -> None:
    machine = await joined(world)
    world.clock.set(100)
    created = world.clock.now() // SECOND + ahead_s
    assert await told(world, world.signed({"op": "leave"}, machine.user, created=created)) == (403, "FL-SIG-STALE")
    assert world.directory.named("se-1") is not None


async def test_what_was_signed_before_this_controller_started_is_stale(world: World) -> None:
    machine = await joined(world)
    created = world.clock.now() // SECOND - 1
    assert await told(world, world.signed({"op": "read"}, machine.user, created=created)) == (403, "FL-SIG-STALE")


async def test_a_replay_has_no_effect(world: World) -> None:
    machine = await joined(world)
    request = world.signed({"op": "read"}, machine.user)
    assert (await world.ask(request)).status == 200
    assert await told(world, request) == (403, "FL-SIG-REPLAY")
    world.clock.set(59)
    assert await told(world, request) == (403, "FL-SIG-REPLAY")


async def test_a_request_for_another_node_is_refused_before_its_key_is_looked_up(world: World) -> None:
    machine = await joined(world)
    for to in (http.recipient(world.cluster_uuid, "another"), http.recipient("another", world.controller.id), "x/y"):
        answer = await world.ask(world.signed({"op": "leave"}, machine.user, to=to))
        assert (answer.status, answer.code, answer.header("signature")) == (403, "FL-SIG-RECIPIENT", None)
    assert world.directory.named("se-1") is not None


async def test_keys_that_sign_nothing_here(world: World) -> None:
    machine = await joined(world)
    before = await world.revision()
    for key in (PrivateKey.generate(), machine.host, world.host_key):
        answer = await world.ask(world.signed({"op": "leave"}, key))
        assert (answer.status, answer.code, answer.header("signature")) == (403, "FL-SIG-KEY", None)
    assert await world.revision() == before


async def test_a_pending_key_signs_nothing_yet(world: World) -> None:
    machine = Machine()
    await world.exchange(await world.export(), machine)
    assert await told(world, world.signed({"op": "leave"}, machine.user)) == (403, "FL-SIG-KEY")


async def test_a_changed_request_is_refused_unsigned(world: World) -> None:
    machine, body = await joined(world), b'{"v":1,"op":"leave"}'
    signed = world.signed({"op": "read"}, machine.user)
    for request in (replace(signed, body=body),
                    replace(signed, headers=[(n, v) for n, v in signed.headers if n != "content-digest"]),
                    replace(signed, headers=[*signed.headers, ("content-encoding", "gzip")]),
                    replace(signed, headers=[(n, v) for n, v in signed.headers if n != "signature"])):
        answer = await world.ask(request)
        assert answer.status in (400, 403)
        assert answer.code in ("FL-SIG-BAD", "FL-SIG-FORMAT")
        assert answer.header("signature") is None
    elsewhere = await world.call("POST", PATH, [signed.body], headers=[("host", "elsewhere"), *signed.headers])
    assert elsewhere.code == "FL-SIG-BAD"
    assert world.directory.named("se-1") is not None


FORBIDDEN = [
    b"", b"null", b"[]", b"{", b"[" * 8000, b'{"v":2,"op":"leave"}', b'{"op":"leave"}', b'{"v":1}',
    b'{"v":1,"op":"announce","addresses":["x"],"api_port":1,"portal_port":2,"ssh_port":3}',
    b'{"v":1,"op":["leave"]}', b'{"v":1,"op":"destroy"}']


async def test_what_a_node_may_not_ask_for(world: World) -> None:
    machine = await joined(world)
    before = await world.revision()
    for body in FORBIDDEN:
        assert await told(world, world.signed(body, machine.user)) == (400, "FL-JOIN-FORMAT"), body
    assert await world.revision() == before


async def follower(world: World) -> Machine:
    """A second Controller that has been admitted."""
    bundle, machine = await world.export("controller"), Machine()
    core = await world.exchange(bundle, machine, "ctl-2", endpoint=Endpoint(("192.0.2.11",), 443, 8443, 22))
    await world.commit(bundle, machine, core)
    node = replace(world.directory.nodes[core.node_id], state="up")
    outcome = await world.store.transact([], [Put(records.NODES + node.id, records.encode(node))])
    await world.directory.reached(outcome.revision)
    return machine


async def test_a_controller_announces_its_addresses_and_does_not_leave_like_an_engine(world: World) -> None:
    machine = await follower(world)
    place = {"op": "announce", "addresses": ["192.0.2.12", "[2001:db8::1]:9443"], "api_port": 443, "portal_port": 8443,
             "ssh_port": 22}
    assert await told(world, world.signed(place, machine.user)) == (200, "")
    found = world.directory.named("ctl-2")
    assert found is not None
    assert found.endpoint == Endpoint(("192.0.2.12", "[2001:db8::1]:9443"), 443, 8443, 22)
    before = await world.revision()
    wrong: list[dict[str, object]] = [
        {"addresses": []}, {"addresses": ["x"] * 5}, {"addresses": ["$(id)"]}, {"addresses": None}, {"ssh_port": "x"},
        {"ssh_port": None}, {"addresses": ["x:0"]}, {"addresses": ["x\n"]}, {"ssh_port": 0}, {"api_port": 65536},
        {"portal_port": -1}, {"addresses": "192.0.2.1"}, {"ssh_port": True}]
    for bad in wrong:
        status, code = await told(world, world.signed(place | bad, machine.user))
        assert status in (400, 403), bad
        assert code in ("FL-JOIN-FORMAT", "FL-ADDRESS"), bad
    assert await told(world, world.signed({"op": "leave"}, machine.user)) == (400, "FL-JOIN-FORMAT")
    assert await world.revision() == before


async def test_one_engine_in_a_loop_uses_up_its_own_share(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.keys.replay.MOST_OF_KEY", {"engine": 5, "controller": 5})
    machine, other = await joined(world), Machine()
    await world.join("se-2", other)
    for _ in range(5):
        await world.ask(world.signed({"op": "read"}, machine.user))
    request = world.signed({"op": "read"}, machine.user)
    answer = await world.ask(request)
    assert (answer.status, world.believed(answer, request)["code"], answer.header("retry-after")) == (
        429, "FL-SIG-BUSY", "2")
    assert await told(world, world.signed({"op": "read"}, other.user)) == (200, "")
