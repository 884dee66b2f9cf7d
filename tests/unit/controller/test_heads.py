"""A Controller's chain against what its witnesses hold."""

from collections.abc import Sequence

from fairlead.audit.head import SignedHead
from fairlead.audit.record import AuditRecord, Entry, chain
from fairlead.controller.heads import contradiction, state_of
from tests.unit.audit.test_head import head


def a_chain(*events: str) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for time, event in enumerate(events):
        records.append(chain(records[-1] if records else None, Entry(event, "s", "b"), "ctl", time))
    return records


def seen(records: Sequence[AuditRecord], seq: int, generation: str = "g1") -> SignedHead:
    return head(seq, generation=generation).model_copy(update={"hash": records[seq - 1].head().hash})


CHAIN = a_chain(*"abcde")


def test_every_head_of_the_chain_is_in_it() -> None:
    assert [state_of(seen(CHAIN, seq), CHAIN, "g1") for seq in range(1, 6)] == ["agrees"] * 5
    assert state_of(None, CHAIN, "g1") == "none"


def test_wherever_the_tail_was_cut_it_shows() -> None:
    for length in range(5):
        assert state_of(seen(CHAIN, 5), CHAIN[:length], "g1") == "ahead", length


def test_whichever_record_was_another_it_shows_though_the_chain_is_whole() -> None:
    for place in range(5):
        forged = a_chain(*("x" if at == place else event for at, event in enumerate("abcdefgh")))
        assert state_of(seen(CHAIN, 5), forged, "g1") == "differs", place


def test_going_back_must_be_said_in_the_chain() -> None:
    assert state_of(seen(CHAIN, 5), a_chain("a", "b", "cluster.restored"), "g2") == "earlier"
    assert state_of(seen(CHAIN, 5), a_chain("a", "b", "c"), "g2") == "differs"


def test_the_lowest_record_is_named() -> None:
    refusal = contradiction("ctl", [("se-2", head(9), "ahead"), ("se-1", head(4), "differs")])
    assert (refusal.code, "se-1 has seen another record 4" in refusal.message) == ("FL-AUDIT-FORK", True)
    assert contradiction("ctl", [("se-2", head(9), "ahead")]).code == "FL-AUDIT-CUT"
