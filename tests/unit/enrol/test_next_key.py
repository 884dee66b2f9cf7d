"""Next user keys are proven by the node that made them, on the connection that it is about, and by nothing else."""

from dataclasses import replace
from uuid import UUID

import pytest

from fairlead.base.errors import Refused
from fairlead.enrol import next_key
from fairlead.enrol.exchange import USER_NAMESPACE as JOIN_USER
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64
from tests.world import denied

CLUSTER, OTHER = UUID(int=7), UUID(int=8)
HOST, NEXT, THIEF = (PrivateKey.from_seed(seed * 32) for seed in (b"h", b"n", b"t"))
SESSION, NONCE = b"s" * 32, b"n" * 32


def test_an_offer_is_believed_for_its_node_and_rotation() -> None:
    offer = next_key.offer(CLUSTER, "id-1", "r1", NEXT, HOST)
    assert next_key.check(offer, CLUSTER, "id-1", "r1", HOST.public.line) == NEXT.public


@pytest.mark.parametrize(("cluster", "node", "rotation"), [
    (OTHER, "id-1", "r1"), (CLUSTER, "id-2", "r1"), (CLUSTER, "id-1", "r2"), (CLUSTER, "id-1r1", "")])
def test_an_offer_counts_for_no_other_node_rotation_or_cluster(cluster: UUID, node: str, rotation: str) -> None:
    offer = next_key.offer(CLUSTER, "id-1", "r1", NEXT, HOST)
    assert denied(lambda: next_key.check(offer, cluster, node, rotation, HOST.public.line)) == "FL-KEY-PROOF"


def test_nobody_registers_a_key_that_he_does_not_hold() -> None:
    message = next_key.form(CLUSTER, "id-1", "r1", NEXT.public)
    seen = replace(next_key.offer(CLUSTER, "id-1", "r1", NEXT, HOST),
                   user_proof=b64(THIEF.sign(next_key.USER_NAMESPACE, message)))
    assert denied(lambda: next_key.check(seen, CLUSTER, "id-1", "r1", HOST.public.line)) == "FL-KEY-PROOF"


def test_who_has_the_old_user_key_alone_gives_the_node_no_next_one() -> None:
    offer = next_key.offer(CLUSTER, "id-1", "r1", NEXT, THIEF)
    assert denied(lambda: next_key.check(offer, CLUSTER, "id-1", "r1", HOST.public.line)) == "FL-KEY-PROOF"


def test_proofs_of_one_kind_are_none_of_another() -> None:
    message = next_key.form(CLUSTER, "id-1", "r1", NEXT.public)
    good = next_key.offer(CLUSTER, "id-1", "r1", NEXT, HOST)
    swapped = replace(good, host_proof=b64(HOST.sign(next_key.USER_NAMESPACE, message)))
    of_join = replace(good, user_proof=b64(NEXT.sign(JOIN_USER, message)))
    for offer in (swapped, of_join, replace(good, key="ssh-rsa AAAA"), replace(good, host_proof="?"),
                  next_key.offer(CLUSTER, "id-1", "r1", HOST, HOST)):
        assert denied(lambda offer=offer: next_key.check(  # type: ignore[misc]
            offer, CLUSTER, "id-1", "r1", HOST.public.line)) == "FL-KEY-PROOF"


def test_a_connection_is_proven_by_both_ends_own_values() -> None:
    proof = next_key.prove(NEXT, CLUSTER, "ctl", "id-1", SESSION, b64(NONCE))
    assert next_key.proven(NEXT.public, proof, CLUSTER, "ctl", "id-1", SESSION, NONCE)
    for cluster, controller, node, session, nonce in (
            (OTHER, "ctl", "id-1", SESSION, NONCE), (CLUSTER, "ctl2", "id-1", SESSION, NONCE),
            (CLUSTER, "ctl", "id-2", SESSION, NONCE), (CLUSTER, "ctl", "id-1", b"t" * 32, NONCE),
            (CLUSTER, "ctl", "id-1", SESSION, b"m" * 32)):
        assert not next_key.proven(NEXT.public, proof, cluster, controller, node, session, nonce)
    assert not next_key.proven(THIEF.public, proof, CLUSTER, "ctl", "id-1", SESSION, NONCE)
    assert not next_key.proven(NEXT.public, "?", CLUSTER, "ctl", "id-1", SESSION, NONCE)


@pytest.mark.parametrize(("session", "nonce"), [(b"", b64(NONCE)), (SESSION, b64(b"short")), (SESSION, "?")])
def test_nothing_is_signed_that_would_bind_nothing(session: bytes, nonce: str) -> None:
    with pytest.raises(Refused, match="challenge"):
        next_key.prove(NEXT, CLUSTER, "ctl", "id-1", session, nonce)
    assert not next_key.proven(NEXT.public, b64(NEXT.sign(
        next_key.CONNECTION_NAMESPACE, next_key.connection_form(CLUSTER, "ctl", "id-1", b"", NONCE))),
        CLUSTER, "ctl", "id-1", b"", NONCE)
