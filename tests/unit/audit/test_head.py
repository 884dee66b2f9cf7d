"""Signed heads: whose they are, and what a witness that has seen others makes of them."""

import pytest

from fairlead.audit.head import NAMESPACE, Held, Said, SignedHead, check, held_from, judge, said_from
from fairlead.base.errors import Refused
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import b64, from_b64

KEY, OTHER = PrivateKey.from_seed(b"k" * 32), PrivateKey.from_seed(b"o" * 32)
CLUSTER, NODE_ID = "7e0e5ba0-0000-4000-8000-000000000001", "n-1"


def head(seq: int, mark: str = "a", generation: str = "g1", key: PrivateKey = KEY) -> SignedHead:
    return SignedHead(cluster=CLUSTER, node_id=NODE_ID, node="ctl", generation=generation, seq=seq, hash=mark * 64,
                      time=1_000_000 + seq).signed(key)


def counts(of: SignedHead, cluster: str = CLUSTER, node_id: str = NODE_ID) -> bool:
    try:
        check(of, KEY.public, cluster, node_id)
    except Refused as refusal:
        return refusal.code != "FL-AUDIT-HEAD"
    return True


def test_a_head_is_its_nodes_only() -> None:
    good = head(5)
    assert counts(good)
    assert not counts(head(5, key=OTHER))
    assert not counts(good, cluster="another")
    assert not counts(good, node_id="n-2")
    for changes in ({"seq": 6}, {"hash": "b" * 64}, {"time": 1}, {"generation": "g2"}, {"node": "ctl-2"},
                    {"node_id": "n-2"}, {"cluster": "x"}, {"signature": ""}, {"signature": "?"}):
        assert not counts(good.model_copy(update=changes)), changes


def test_a_signature_for_anything_else_is_no_head() -> None:
    bare = head(5)
    for namespace in (f"{NAMESPACE}x", "fairlead-join-v1", "file", ""):
        assert not counts(bare.model_copy(update={"signature": b64(KEY.sign(namespace, bare.message()))})), namespace


def test_whatever_bit_of_the_signature_is_turned_it_does_not_count() -> None:
    good = head(5)
    signature = from_b64(good.signature)
    for place in range(len(signature)):
        turned = bytearray(signature)
        turned[place] ^= 1
        assert not counts(good.model_copy(update={"signature": b64(bytes(turned))})), place


@pytest.mark.parametrize(("held", "said", "follows", "verdict"), [
    (None, head(5), True, "first"),
    (head(5), head(5), True, "same"),
    (head(5), head(6), True, "fresh"),
    (head(5), head(6), False, "fork"),  # an older copy that went on
    (head(5), head(4), True, "cut"),
    (head(5), head(5, "b"), True, "fork"),
    (head(5), head(1, "b", "g2"), True, "anew"),
    (head(5), head(9, "b", "g0"), True, "fork"),  # a generation that has ended
])
def test_what_a_witness_makes_of_a_head(held: SignedHead | None, said: SignedHead, verdict: str, *,
                                        follows: bool) -> None:
    assert judge(held, frozenset(["g0"]), said, follows=follows) == verdict


def test_messages_are_read_as_they_were_written_and_nothing_else_is() -> None:
    for held in (Held(head=None), Held(head=head(5))):
        assert held_from(held.model_dump()) == held
    said = Said(head=head(5), follows=True)
    assert said_from(said.model_dump()) == said
    for read in (held_from, said_from):
        broken: list[object] = [{}, [], {"head": 1}, said.model_dump() | {"more": 1},
                                {"head": head(5).model_dump() | {"seq": -1}}]
        for bad in broken:
            with pytest.raises(Refused, match="cannot be understood"):
                read(bad)
