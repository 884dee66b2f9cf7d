"""A Controller as the witness of its engines' journals: each says where its own ends, and hears of its own only."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.audit.head import sign
from fairlead.audit.record import Entry, Head
from fairlead.audit.witness import Witness
from fairlead.fleet.journals import Journals
from fairlead.keys.ssh import PrivateKey
from fairlead.link.messages import JournalHead, JournalHeads, JournalHeadsWanted, JournalWanted
from fairlead.nodes.node import Node
from tests.unit.nodes.test_policy import SE_1, SE_2

KEYS = {node.id: PrivateKey.from_seed(node.id.encode().ljust(32)) for node in (SE_1, SE_2)}
CLUSTER = "5f0c7f5e-0000-4000-8000-000000000001"


@dataclass
class House:
    nodes: dict[str, Node] = field(default_factory=lambda: {
        node.id: replace(node, host_key=KEYS[node.id].public.line) for node in (SE_1, SE_2)})
    entries: list[Entry] = field(default_factory=list)
    told: list[tuple[str, Any]] = field(default_factory=list)

    async def append(self, *entries: Entry) -> None:
        self.entries += entries

    async def tell(self, node_id: str, message: Any) -> None:
        self.told.append((node_id, message))


def text(node: Node, seq: int, line: str = "a", by: Node | None = None) -> str:
    return sign(KEYS[(by or node).id], cluster_uuid=CLUSTER, generation="journal", node=node.name,
                head=Head(seq, line * 64), time=seq).text()


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def journals(house: House, tmp_path: Path) -> Journals:
    return Journals(Witness(tmp_path / "w", CLUSTER), house, house, house, "ctl-1")


async def test_an_engine_is_asked_and_told_of_its_own(house: House, journals: Journals) -> None:
    await journals.greeted(SE_1.id)
    for node, seq in ((SE_1, 3), (SE_2, 9), (SE_1, 5)):
        await journals.heard(node.id, JournalHead(head=text(node, seq)))
    await journals.heard(SE_1.id, JournalHeadsWanted(number=7))
    assert house.told == [(SE_1.id, JournalWanted()), (SE_1.id, JournalHeads(number=7, heads=[
        text(SE_1, 3), text(SE_1, 5)]))]
    assert house.entries == []


async def test_attack_one_engine_says_nothing_of_anothers_journal(house: House, journals: Journals) -> None:
    for forged in (text(SE_1, 3), text(SE_1, 3, by=SE_2), text(SE_2, 3, by=SE_1), "{}", ""):
        await journals.heard(SE_2.id, JournalHead(head=forged))
    await journals.heard("nobody", JournalHead(head=text(SE_2, 3)))
    for node in (SE_1, SE_2):
        await journals.heard(node.id, JournalHeadsWanted(number=1))
    assert [message.heads for _, message in house.told] == [[], []]


async def test_a_journal_that_was_written_anew_raises_an_alarm_and_is_not_forgotten(house: House,
                                                                                    journals: Journals) -> None:
    for line in ("a", "b"):
        await journals.heard(SE_1.id, JournalHead(head=text(SE_1, 5, line)))
    assert [(entry.event, entry.subject) for entry in house.entries] == [("audit.contradiction", "se-1")]
    await journals.heard(SE_1.id, JournalHeadsWanted(number=1))
    assert house.told[0][1].heads == [text(SE_1, 5), text(SE_1, 5, "b")]
