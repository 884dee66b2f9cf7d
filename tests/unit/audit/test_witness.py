"""The heads that a witness keeps: which it takes, which it sets aside, and that it cannot be made to forget."""

from pathlib import Path

import pytest

from fairlead.audit.head import SignedHead, sign
from fairlead.audit.record import Head
from fairlead.audit.witness import MOST_EVIDENCE, MOST_KEPT, Shown, Witness, learn
from fairlead.base.clock import SECOND
from fairlead.keys.ssh import PrivateKey
from tests.world import denied

KEY = PrivateKey.from_seed(bytes(32))
CLUSTER = "5f0c7f5e-0000-4000-8000-000000000001"


def head(seq: int, line: str = "a", time: int | None = None, generation: str = "aa",
         key: PrivateKey = KEY) -> SignedHead:
    return sign(key, cluster_uuid=CLUSTER, generation=generation, node="ctl-1", head=Head(seq, line * 64),
                time=(seq if time is None else time) * SECOND)


def shown(*heads: SignedHead) -> tuple[Shown, list[str]]:
    found, news = Shown(), list[str]()
    for one in heads:
        found, what = learn(found, one)
        news.append(what)
    return found, news


def test_a_chain_that_grows_is_kept_and_what_comes_late_or_twice_is_nothing() -> None:
    found, news = shown(head(1), head(4), head(4, time=9), head(2), head(7))
    assert news == ["kept", "kept", "nothing", "nothing", "kept"]
    assert [one.seq for one in found.kept] == [1, 4, 7]
    assert not found.evidence


@pytest.mark.parametrize(("name", "against"), [
    ("another record of that number", head(4, "b")), ("a chain that was cut", head(3, "b", time=9))])
def test_attack_a_head_that_contradicts_is_evidence_and_so_is_what_it_contradicts(
        name: str, against: SignedHead) -> None:
    found, news = shown(head(1), head(4), against)
    assert news[-1] == "contradiction", name
    assert [*found.evidence] == [head(4), against]
    assert [one.seq for one in found.kept] == [1, 4]
    assert learn(found, against)[1] == "nothing", "one alarm"
    assert learn(found, head(against.seq + 1, "b", time=30))[1] == ("nothing" if against.seq < 4 else "kept")


def test_attack_what_comes_later_does_not_push_the_evidence_out() -> None:
    found, _ = shown(head(1), head(4), head(3, "b", time=9), *(head(n, "b") for n in range(10, 500)))
    assert found.evidence == (head(4), head(3, "b", time=9))
    assert len(found.kept) == MOST_KEPT


def test_attack_contradictions_without_end_have_a_bound_and_the_first_ones_stay() -> None:
    found, news = shown(head(100), *(head(n, "b", time=1000 - n) for n in range(1, 90)))
    assert news.count("contradiction") < MOST_EVIDENCE, "and so have the alarms"
    assert len(found.evidence) == MOST_EVIDENCE
    assert found.evidence[0] == head(100)


def test_old_heads_thin_out_and_none_of_the_ages_is_without() -> None:
    found, _ = shown(*(head(n) for n in range(1, 2001)))
    seqs = [one.seq for one in found.kept]
    assert (seqs[0], seqs[-1], len(seqs)) == (1, 2000, MOST_KEPT)
    for since in (10, 100, 1000):
        assert any(2000 - 2 * since < seq <= 2000 - since for seq in seqs), (since, seqs)


def test_another_generation_begins_anew_and_there_is_no_way_back() -> None:
    found, news = shown(head(9), head(5, "b", time=20, generation="bb"), head(6, "b", time=21, generation="bb"))
    assert news == ["kept", "generation", "kept"]
    assert [one.seq for one in found.kept] == [9, 5, 6]
    assert learn(found, head(10, time=30))[1] == "contradiction"


def test_it_is_on_the_disk_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "witness.json"
    witness = Witness.open(path, CLUSTER)
    assert witness.keep(head(4).text(), "ctl-1", KEY.public) == "kept"
    assert witness.keep(head(3, "b", time=9).text(), "ctl-1", KEY.public) == "contradiction"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Witness.open(path, CLUSTER).heads == witness.heads == [head(4), head(3, "b", time=9)]
    assert not Witness.open(path, "another cluster").heads


def test_attack_only_what_the_pinned_key_has_signed_is_kept(tmp_path: Path) -> None:
    witness = Witness.open(tmp_path / "witness.json", CLUSTER)
    forged = head(4, key=PrivateKey.generate())
    assert denied(lambda: witness.keep(forged.text(), "ctl-1", KEY.public)) == "FL-AUDIT-HEAD"
    assert denied(lambda: witness.keep(head(4).text(), "ctl-2", KEY.public)) == "FL-AUDIT-HEAD"
    assert not witness.heads


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"ctl-1":{}}', b'{"ctl-1":{"kept":["x"],"evidence":[]}}'])
def test_a_damaged_file_is_named_and_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "witness.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert denied(lambda: Witness.open(path, CLUSTER)) == "FL-STATE-DAMAGED"
