"""What is said, signed and believed: the vectors byte for byte, and everything that must not be believed."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from fairlead.enrol.exchange import (
    HOST_NAMESPACE,
    MOST_REQUEST_BYTES,
    SERVER_NAMESPACE,
    USER_NAMESPACE,
    Claim,
    Submission,
    answer,
    believe,
    prove,
)
from fairlead.enrol.token import NAMESPACE as TOKEN_NAMESPACE
from fairlead.enrol.token import Token
from fairlead.keys.ssh import PrivateKey, PublicKey, signed_form
from fairlead.keys.wire import b64, from_b64, sha256, string
from fairlead.nodes.node import Endpoint
from tests.unit.enrol.test_anchor import ANCHOR
from tests.unit.enrol.test_bundle import HOSTILE
from tests.world import VECTORS, denied

JOINS = VECTORS["joins"]
TOKEN = Token.decode(VECTORS["token"]["string"])
TOKEN_KEY = TOKEN.key(ANCHOR.cluster_uuid)
CONTROLLER, HOST, USER = (PrivateKey.from_seed(bytes.fromhex(VECTORS["keys"][name]["seed"]))
                          for name in ("controller_host", "joiner_host", "joiner_user"))
NAMESPACES = {"token": TOKEN_NAMESPACE, "host": HOST_NAMESPACE, "user": USER_NAMESPACE, "server": SERVER_NAMESPACE}


def claim_of(fields: dict[str, Any]) -> Claim:
    def raw(name: str) -> bytes:
        return bytes.fromhex(fields[name])

    endpoint = fields.get("endpoint")
    return Claim(
        UUID(bytes=raw("cluster_uuid")), raw("anchor_hash"), raw("token_id"), raw("certificate_hash"), fields["role"],
        fields["node"], PublicKey.from_blob(raw("host_key")), PublicKey.from_blob(raw("user_key")), raw("nonce"),
        endpoint and Endpoint((endpoint["address"],), endpoint["api_port"], endpoint["portal_port"],
                              endpoint["ssh_port"]), fields["software"])


ENGINE, FOLLOWER = (claim_of(join["fields"]) for join in JOINS)
REQUEST: dict[str, Any] = JOINS[0]["request"]
T = ENGINE.transcript()


@pytest.mark.parametrize("join", JOINS, ids=["engine", "controller"])
def test_vectors(join: dict[str, Any]) -> None:
    claim = claim_of(join["fields"])
    transcript, core = claim.transcript(), join["core_text"].encode()
    assert transcript.hex() == join["transcript"]
    assert sha256(transcript).hex() == join["transcript_sha256"]
    assert claim.keys_hash.hex() == join["keys_hash"]
    for name, signed in join["signed_data"].items():
        message = string(transcript) + string(core) if name == "server" else transcript
        assert signed_form(NAMESPACES[name], message).hex() == signed
    # what a node sends
    assert json.loads(prove(claim, token=TOKEN_KEY, host=HOST, user=USER)) == join["request"]
    # what a Controller reads
    submission = Submission.parse(json.dumps(join["request"]).encode())
    assert submission.claim(ANCHOR.cluster_uuid) == claim
    assert submission.transcript(ANCHOR.cluster_uuid) == transcript
    assert TOKEN_KEY.public.verifies(TOKEN_NAMESPACE, transcript, submission.proofs.token)
    assert claim.host_key.verifies(HOST_NAMESPACE, transcript, submission.proofs.host)
    assert claim.user_key.verifies(USER_NAMESPACE, transcript, submission.proofs.user)
    # what it answers, and what the node believes
    assert json.loads(answer(core, transcript, "ctl-1", CONTROLLER)) == join["reply"]
    believed, exact = believe(json.dumps(join["reply"]).encode(), claim, ANCHOR)
    assert exact == core
    assert (believed.node, believed.role, believed.internal_address) == (claim.node, claim.role, "127.64.1.7")


@pytest.mark.parametrize("case", VECTORS["token_proof_of_first_join_must_fail_for"], ids=lambda case: case["what"])
def test_a_token_proof_is_good_for_its_own_transcript_only(case: dict[str, str]) -> None:
    proof = from_b64(REQUEST["token_proof"])
    assert TOKEN_KEY.public.verifies(TOKEN_NAMESPACE, T, proof)
    assert not TOKEN_KEY.public.verifies(TOKEN_NAMESPACE, bytes.fromhex(case["transcript"]), proof)


def test_those_transcripts_are_ours() -> None:
    """The refused transcripts are what this code makes of the changed claims."""
    thief_host, thief_user = (PrivateKey.from_seed(sha256(b"fairlead test vector: thief " + name + b" key")).public
                              for name in (b"host", b"user"))
    elsewhere = Endpoint(("192.0.2.66",), 443, 8443, 22)
    made = [replace(ENGINE, certificate_hash=sha256(b"other leaf")), replace(ENGINE, node="se-8"),
            replace(ENGINE, role="controller", endpoint=elsewhere), replace(ENGINE, host_key=thief_host),
            replace(ENGINE, user_key=thief_user), replace(ENGINE, host_key=ENGINE.user_key, user_key=ENGINE.host_key),
            replace(ENGINE, token_id=bytes(16)), replace(ENGINE, anchor_hash=bytes(32)),
            replace(ENGINE, nonce=bytes(32)), replace(ENGINE, cluster_uuid=UUID(int=0)),
            replace(ENGINE, role="engines", node="e-7")]  # type: ignore[arg-type]
    assert [claim.transcript().hex() for claim in made] == [
        case["transcript"] for case in VECTORS["token_proof_of_first_join_must_fail_for"]]


# -- the request ------------------------------------------------------------------------------------------------------

def sent(**changes: object) -> bytes:
    return json.dumps(REQUEST | changes).encode()


PLACE = JOINS[1]["request"]["endpoint"]
MALFORMED: dict[str, bytes] = {
    "empty": b"", "null": b"null", "list": b"[]", "text": b'"x"', "two": sent() + b"{}", "cut": sent()[:-1],
    "not UTF-8": b'{"v":"\xff"}', "too large": sent() + b" " * MOST_REQUEST_BYTES, "deep": b'{"a":' * 1500,
    "brackets": b"[" * 8000, "depth 3": sent(endpoint=PLACE | {"address": ["x"]}), "a list": sent(software=["x"]),
    "unknown field": sent(x=1), "repeated field": sent().replace(b'"v": 1', b'"v": 1, "v": 1'),
    "repeated within": json.dumps(JOINS[1]["request"]).encode().replace(b'"ssh_port"', b'"ssh_port": 22, "ssh_port"'),
    "v as text": sent(v="1"), "v as float": sent(v=1.0), "v as true": sent(v=True), "v missing": sent(v=None),
    "v not a number": sent().replace(b'"v": 1', b'"v": NaN'),
    "role": sent(role="admin"), "role as number": sent(role=1),
    "software long": sent(software="x" * 65), "software not ASCII": sent(software="é"),
    "software with newline": sent(software="x\n"), "software with escape": sent(software="\x1b[2J"),
    "engine with endpoint": sent(endpoint=PLACE), "controller without": sent(role="controller"),
    "endpoint without port": sent(role="controller", endpoint={"address": "x"}),
    "endpoint with port 0": sent(role="controller", endpoint=PLACE | {"ssh_port": 0}),
    "endpoint with port 65536": sent(role="controller", endpoint=PLACE | {"api_port": 65536}),
    "endpoint with more": sent(role="controller", endpoint=PLACE | {"x": 1}),
    "endpoint for a shell": sent(role="controller", endpoint=PLACE | {"address": "$(id)"}),
    "endpoint with newline": sent(role="controller", endpoint=PLACE | {"address": "x\n"}),
    "endpoint without address": sent(role="controller", endpoint=PLACE | {"address": ""}),
    **{f"{name} missing": json.dumps({k: v for k, v in REQUEST.items() if k != name}).encode()
       for name in REQUEST if name != "v"},
    **{f"{name} as number": sent(**{name: 1}) for name in REQUEST if name != "v"},
    **{f"{name} with a byte more": sent(**{name: b64(from_b64(REQUEST[name]) + b"\0")})
       for name in ("token_id", "anchor", "certificate", "nonce", "token_proof", "host_proof", "user_proof")},
    **{f"{name} in loose base64": sent(**{name: REQUEST[name].rstrip("=") + change})
       for name in ("token_id", "anchor") for change in ("", "\n=", "====")},
    **{f"node: {what}": sent(node=name) for what, name in HOSTILE.items()},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_is_refused_before_any_token(what: str) -> None:
    assert denied(lambda: Submission.parse(MALFORMED[what])) == "FL-JOIN-FORMAT"


@pytest.mark.parametrize("version", [0, 2, -1, 10**4000])
def test_another_version(version: int) -> None:
    assert denied(lambda: Submission.parse(sent(v=version))) == "FL-JOIN-VERSION"


def test_keys_are_judged_after_the_token() -> None:
    """A bad key has a transcript like any other, so that the token is proven first."""
    small = "ssh-ed25519 " + b64(string("ssh-ed25519") + string(bytes(32)))
    for line in (small, "ssh-rsa AAAA", "ssh-ed25519 ?", "", REQUEST["host_key"] + " x", REQUEST["user_key"]):
        submission = Submission.parse(sent(host_key=line))
        assert len(submission.transcript(ANCHOR.cluster_uuid)) > 200
        assert denied(partial(submission.claim, ANCHOR.cluster_uuid)) == "FL-JOIN-KEYS"


# -- the reply --------------------------------------------------------------------------------------------------------

CORE: dict[str, Any] = json.loads(JOINS[0]["core_text"])


def reply(signer: str = "ctl-1", key: PrivateKey = CONTROLLER, claim: Claim = ENGINE, **changes: object) -> bytes:
    return answer(json.dumps(CORE | changes).encode(), claim.transcript(), signer, key)


def wrapped(change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    return json.dumps(change(json.loads(reply()))).encode()


THEM = CORE["controllers"][0]
INCREDIBLE: dict[str, bytes] = {
    "another signer": reply(signer="ctl-2"), "another key": reply(key=HOST), "nobody": reply(signer=""),
    "for another nonce": reply(claim=replace(ENGINE, nonce=bytes(32))),
    "for another certificate": reply(claim=replace(ENGINE, certificate_hash=bytes(32))),
    "for another cluster": reply(claim=replace(ENGINE, cluster_uuid=UUID(int=0))),
    "core changed": wrapped(lambda r: r | {"core": b64(json.dumps(CORE | {"node_id": "another"}).encode())}),
    "signature of the request": wrapped(lambda r: r | {"signature": REQUEST["host_proof"]}),
    "no signature": wrapped(lambda r: r | {"signature": ""}), "v 2": wrapped(lambda r: r | {"v": 2}),
    "a field more": wrapped(lambda r: r | {"x": 1}), "a field less": wrapped(lambda r: {"v": 1}),
    "another node": reply(node="se-8"), "another role": reply(role="controller"),
    "other keys": reply(keys_hash=FOLLOWER.keys_hash.hex()), "a Controller's user": reply(user="avictlruser"),
    "root": reply(user="root"),
    "another host key for ctl-1": reply(controllers=[THEM | {"host_key": HOST.public.line}]),
    "no Controllers": reply(controllers=[]), "nine of them": reply(controllers=[THEM] * 9),
    "result": reply(result="ok"),
    "core no JSON": answer(b"{", T, "ctl-1", CONTROLLER), "core deep": answer(b"[" * 40_000, T, "ctl-1", CONTROLLER),
    "core a list": answer(b"[]", T, "ctl-1", CONTROLLER),
    "empty": b"", "no JSON": b"<html>", "a list": b"[]", "too large": reply(x="x" * 65536),
    "an error page": b'{"error":"x","code":"FL-X"}',
}


@pytest.mark.parametrize("what", INCREDIBLE)
def test_what_is_not_believed(what: str) -> None:
    assert denied(lambda: believe(INCREDIBLE[what], ENGINE, ANCHOR)) == "FL-JOIN-PEER"


def test_a_core_may_say_more_than_we_understand() -> None:
    believed, exact = believe(reply(later="x", controllers=[
        THEM | {"later": 1}, THEM | {"name": "ctl-2", "host_key": HOST.public.line}]), ENGINE, ANCHOR)
    assert [c.name for c in believed.controllers] == ["ctl-1", "ctl-2"]
    assert json.loads(exact)["later"] == "x"


def test_while_a_host_key_rotates_both_are_believed() -> None:
    both = replace(ANCHOR, controllers=(*ANCHOR.controllers, replace(ANCHOR.controllers[0], host_key=HOST.public)))
    for key in (CONTROLLER, HOST):
        believe(reply(key=key, controllers=[THEM | {"host_key": key.public.line}]), ENGINE, both)
