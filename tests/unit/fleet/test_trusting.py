"""Who follows which trust statement: told by each engine, brought what it misses, waited for while it is here."""

from collections.abc import Sequence
from typing import Any

import pytest

from fairlead.fleet.trusting import EngineTrust
from fairlead.keys.wire import sha256
from fairlead.link.frames import Decoder
from fairlead.link.messages import (
    FOLLOWS_TRUST,
    Heartbeat,
    Trusting,
    TrustOffered,
    TrustStatements,
    from_controller,
)
from fairlead.nodes.node import Node
from tests.unit.nodes.test_policy import SE_1, SE_2
from tests.unit.pki.test_statement import CHANGE, NEW, OLD, der

KEPT = {f"{number:010d}": text for number, text in enumerate(CHANGE, 5)}


class House:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {node.id: node for node in (SE_1, SE_2)}
        self.able = {SE_1.id: FOLLOWS_TRUST, SE_2.id: ""}
        self.told: list[tuple[str, Any]] = []

    def linked(self, ability: str) -> list[str]:
        return [node_id for node_id, able in self.able.items() if not ability or able == ability]

    async def tell(self, node_id: str, message: Any) -> None:
        self.told.append((node_id, message))

    async def send(self, node_id: str, frame: bytes) -> None:
        (fields,) = Decoder().feed(frame)
        self.told.append((node_id, from_controller(fields)))


@pytest.fixture
def house() -> House:
    return House()


def trust(house: House, kept: dict[str, str] | None = None) -> EngineTrust:
    return EngineTrust(KEPT if kept is None else kept, house)


async def test_an_engine_is_brought_what_it_misses_in_order(house: House) -> None:
    one = trust(house)
    await one.greeted(SE_1.id)
    await one.heard(SE_1.id, Trusting(number=6))
    await one.heard(SE_1.id, Trusting(number=9))
    assert house.told == [(SE_1.id, TrustOffered(number=9)), (SE_1.id, TrustStatements(texts=CHANGE[2:]))]


async def test_who_is_here_is_waited_for_until_he_has_it(house: House) -> None:
    one = trust(house)
    assert one.behind(9) == {SE_1.id: "it has not acknowledged the trust statement",
                             SE_2.id: "it has not acknowledged the trust statement"}
    await one.heard(SE_1.id, Trusting(number=8))
    assert SE_1.id in one.behind(9)
    await one.heard(SE_1.id, Trusting(number=8, code="FL-DISK", words="the disk is full"))
    assert one.behind(9)[SE_1.id] == "it refuses: the disk is full"
    await one.heard(SE_1.id, Trusting(number=9))
    assert SE_1.id not in one.behind(9)
    del house.able[SE_2.id]
    assert one.behind(9) == {}, "who is not here follows when he comes back"
    one.left(SE_1.id)
    assert SE_1.id in one.behind(9), "what it said on an earlier link counts no more"


async def test_one_that_refuses_is_not_sent_it_again_and_again(house: House) -> None:
    one = trust(house)
    await one.heard(SE_1.id, Trusting(number=6, code="FL-DISK"))
    await one.heard(SE_1.id, Heartbeat(sequence=1, time=1))
    assert house.told == []


async def test_one_that_refused_is_asked_again_later(house: House) -> None:
    one = trust(house)
    await one.heard(SE_1.id, Trusting(number=6, code="FL-DISK"))
    await one.again()
    assert house.told == [(SE_1.id, TrustOffered(number=9))]


async def test_who_follows_a_number_of_another_life_of_the_store_has_acknowledged_nothing(house: House) -> None:
    one = trust(house)
    await one.heard(SE_1.id, Trusting(number=50))
    assert one.behind(9)[SE_1.id] == "it follows the trust statement 50, of another life of this store"


async def test_a_new_statement_is_brought_to_all_that_understand_it(house: House) -> None:
    kept: dict[str, str] = dict(list(KEPT.items())[:2])
    one = trust(house, kept)
    for node in (SE_1, SE_2):
        await one.heard(node.id, Trusting(number=6))
    await one.bring()
    kept |= KEPT
    await one.bring()
    await one.bring()
    assert house.told == [(SE_1.id, TrustStatements(texts=CHANGE[2:]))]


def test_those_that_are_too_old_are_named(house: House) -> None:
    assert trust(house).too_old() == {SE_2.id}


@pytest.mark.parametrize(("root", "texts"), [(sha256(der(OLD)).hex(), CHANGE[3:]), (sha256(der(NEW)).hex(), CHANGE[3:]),
                                             ("0" * 64, None)], ids=["a past one", "one of now", "none"])
def test_who_knows_no_root_of_ours_is_told_nothing(house: House, root: str, texts: Sequence[str] | None) -> None:
    assert trust(house).asked(root, 7) == texts
