"""The heads that a witness keeps: which it takes, which it sets aside, and that it cannot be made to forget."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

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
    folder = tmp_path / "witness"
    witness = Witness(folder, CLUSTER)
    assert witness.keep(head(4).text(), "ctl-1", KEY.public) == "kept"
    assert witness.keep(head(3, "b", time=9).text(), "ctl-1", KEY.public) == "contradiction"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert Witness(folder, CLUSTER).heads == witness.heads == [head(4), head(3, "b", time=9)]
    assert not Witness(folder, "another cluster").heads
    assert witness.told("ctl-1") == [head(4).text(), head(3, "b", time=9).text()]
    assert witness.told("ctl-2") == []


def test_attack_only_what_the_pinned_key_has_signed_is_kept(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", CLUSTER)
    forged = head(4, key=PrivateKey.generate())
    assert denied(lambda: witness.keep(forged.text(), "ctl-1", KEY.public)) == "FL-AUDIT-HEAD"
    assert denied(lambda: witness.keep(head(4).text(), "ctl-2", KEY.public)) == "FL-AUDIT-HEAD"
    assert not witness.heads


def test_a_node_that_changes_its_host_key_is_believed_with_both(tmp_path: Path) -> None:
    witness, following = Witness(tmp_path / "witness", CLUSTER), PrivateKey.generate()
    assert witness.keep(head(4).text(), "ctl-1", KEY.public) == "kept"
    assert witness.keep(head(5, key=following).text(), "ctl-1", KEY.public, following.public) == "kept"
    assert denied(lambda: witness.keep(head(6).text(), "ctl-1", following.public)) == "FL-AUDIT-HEAD"
    assert Witness(tmp_path / "witness", CLUSTER).heads == [head(4), head(5, key=following)], "what was said stays said"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"{}", b'{"kept":["x"],"evidence":[]}'])
def test_a_damaged_file_is_set_aside_and_costs_the_others_nothing(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "witness"
    witness = Witness(folder, CLUSTER)
    witness.keep(head(4).text(), "ctl-1", KEY.public)
    (folder / "ctl-2.json").write_bytes(content)
    (folder / "ctl-2.json").chmod(0o600)
    with capture_logs() as said:
        assert witness.heads == [head(4)]
    assert said[0]["code"] == "FL-STATE-DAMAGED"
    assert (folder / "ctl-2.damaged").read_bytes() == content


def test_a_file_with_heads_of_another_node_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "witness"
    witness = Witness(folder, CLUSTER)
    witness.keep(head(4).text(), "ctl-1", KEY.public)
    (folder / "ctl-1.json").rename(folder / "ctl-9.json")
    assert witness.told("ctl-9") == []


@pytest.mark.parametrize("node", ["../keys/host", "a/b", "", ".x", "A"])
def test_attack_no_name_leads_to_another_file(tmp_path: Path, node: str) -> None:
    assert denied(lambda: Witness(tmp_path / "witness", CLUSTER).shown(node)) == "FL-AUDIT-HEAD"


def test_there_is_a_bound_and_who_left_is_forgotten(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", CLUSTER, most_nodes=3)
    for number in range(5):
        name = f"ctl-{number}"
        witness.keep(sign(KEY, cluster_uuid=CLUSTER, generation="aa", node=name, head=Head(1, "a" * 64),
                          time=10).text(), name, KEY.public)
    assert len(witness.heads) == 3
    assert witness.told("ctl-4")
    witness.retain(["ctl-3"])
    assert {one.node for one in witness.heads} == {"ctl-3"}
