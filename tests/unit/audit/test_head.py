"""Signed heads: what is none, whose it is, and what a chain is to it."""

from dataclasses import replace

import pytest

from fairlead.audit.head import Judged, SignedHead, check, decode, insist, judge, sign
from fairlead.audit.record import AuditRecord, Entry, Head, chain
from fairlead.base.errors import Refused
from fairlead.keys.ssh import PrivateKey, armoured
from tests.world import denied

KEY = PrivateKey.from_seed(bytes(32))
CLUSTER = "5f0c7f5e-0000-4000-8000-000000000001"


def signed(head: Head, key: PrivateKey = KEY, generation: str = "aa", node: str = "ctl-1") -> SignedHead:
    return sign(key, cluster_uuid=CLUSTER, generation=generation, node=node, head=head, time=1_000_000)


def records(*events: str) -> list[AuditRecord]:
    made: list[AuditRecord] = []
    for event in events:
        made.append(chain(made[-1] if made else None, Entry(event, "se-1", "admin"), "ctl-1", 1_000_000))
    return made


def states(heads: list[SignedHead], held: list[AuditRecord], generation: str = "aa") -> list[str]:
    hashes = {record.seq: record.head().hash for record in held}
    return [one.state for one in judge(heads, hashes.get, generation)]


def test_a_head_is_read_back_as_it_was_and_is_its_nodes() -> None:
    head = signed(records("a", "b")[-1].head())
    assert decode(head.text()) == head
    check(head, KEY.public, cluster_uuid=CLUSTER, node="ctl-1")
    assert armoured(KEY.public, "fairlead-audit-head-v1", head.signature).startswith("-----BEGIN SSH SIGNATURE-----")


def test_attack_every_flipped_byte_is_found() -> None:
    text = signed(records("a")[-1].head()).text().encode()
    for at in range(len(text)):
        for bit in (1, 0x20, 0x80):
            flipped = bytes([*text[:at], text[at] ^ bit, *text[at + 1:]])
            said = flipped.decode(errors="surrogateescape")
            assert denied(lambda said=said: check(  # type: ignore[misc]
                decode(said), KEY.public, cluster_uuid=CLUSTER, node="ctl-1")) == "FL-AUDIT-HEAD", (at, bit)


def test_attack_every_shorter_text_is_none() -> None:
    text = signed(records("a")[-1].head()).text()
    assert {denied(lambda end=end: decode(text[:end])) for end in range(len(text))} == {"FL-AUDIT-HEAD"}  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "1", "x" * 3000, '{"signature":1}', '{"signature":"AA=="}'])
def test_other_texts_are_none(text: str) -> None:
    assert denied(lambda: decode(text)) == "FL-AUDIT-HEAD"


def test_attack_a_head_of_another_key_node_or_cluster_is_none_of_this_node() -> None:
    head = signed(Head(3, "0" * 64))
    for other in (signed(head.head, PrivateKey.generate()), signed(head.head, node="ctl-2"),
                  replace(head, signature=KEY.sign("fairlead-other", head.signed()))):
        assert denied(lambda other=other: check(  # type: ignore[misc]
            other, KEY.public, cluster_uuid=CLUSTER, node="ctl-1")) == "FL-AUDIT-HEAD"
    assert denied(lambda: check(head, KEY.public, cluster_uuid="another", node="ctl-1")) == "FL-AUDIT-HEAD"


def test_a_chain_agrees_was_cut_or_is_another() -> None:
    whole = records("a", "b", "c", "d")
    heads = [signed(record.head()) for record in whole]
    assert states(heads, whole) == ["agrees"] * 4
    assert states(heads, whole[:2]) == ["agrees", "agrees", "ahead", "ahead"]
    assert states(heads, records("a", "x", "c", "d", "e")) == ["agrees", "differs", "differs", "differs"]
    assert states(heads, records("a", "b", "d")) == ["agrees", "agrees", "differs", "ahead"], "one was taken out"


def test_a_restored_backup_is_no_cut_chain() -> None:
    whole = records("a", "b", "c")
    heads = [signed(record.head()) for record in whole]
    assert states(heads, whole[:2], "bb") == ["agrees", "agrees", "earlier"]
    assert states(heads, records("a", "b", "restored"), "bb") == ["agrees", "agrees", "earlier"]


def test_the_lowest_record_that_is_wrong_is_named() -> None:
    def judged(*each: tuple[int, str]) -> list[Judged]:
        return [Judged(signed(Head(seq, "0" * 64)), state) for seq, state in each]  # type: ignore[arg-type]

    insist({"se-1": judged((3, "agrees"), (9, "earlier"))})
    with pytest.raises(Refused, match="record 7 of ctl-1 is missing, which se-2 was shown") as cut:
        insist({"se-1": judged((3, "agrees"), (9, "ahead")), "se-2": judged((7, "ahead"))})
    assert cut.value.code == "FL-AUDIT-CUT"
    with pytest.raises(Refused, match="record 8 of ctl-1 is not the one that se-2 was shown") as fork:
        insist({"se-1": judged((9, "differs"), (7, "ahead")), "se-2": judged((8, "differs"))})
    assert fork.value.code == "FL-AUDIT-FORK"
    twice = [Judged(signed(Head(3, line * 64)), "differs") for line in "ab"]  # evidence holds two of one number
    assert denied(lambda: insist({"se-1": twice})) == "FL-AUDIT-FORK"


def test_attack_a_head_has_one_text() -> None:
    text = signed(Head(3, "0" * 64)).text()
    for other in (text + "\n", " " + text, text.replace(",", ", "), text.replace('"seq":3', '"seq":3.0'),
                  text.replace('"seq":3', '"seq":true'), text.replace("}", ',"more":1}')):
        assert denied(lambda other=other: decode(other)) == "FL-AUDIT-HEAD"  # type: ignore[misc]
