"""Questions to all other Controllers at once: nobody is waited for, who is silent is named."""

import asyncio
from typing import Any

import pytest

from fairlead.base.errors import Refused
from fairlead.fleet import others as rooms
from fairlead.link.engines import LINKED, Linked, OfEngine
from fairlead.nodes.node import Node
from tests.unit.fleet.ring import CTL_3, Ring
from tests.unit.nodes.test_policy import CTL_1, CTL_2

ASKED = OfEngine(engine="id-se-1")


def saying(answer: Any) -> Any:
    async def say(_asking: Node, _op: str, _fields: dict[str, Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return say


async def test_all_others_are_asked_and_this_one_is_not() -> None:
    ring = Ring(answers={"ctl-2": saying({"linked": True}), "ctl-3": saying({"linked": False})})
    heard = await ring.others(CTL_1).all(LINKED, ASKED, Linked)
    assert {name: one.linked for name, one in heard.answers.items()} == {"ctl-2": True, "ctl-3": False}
    assert heard.silent == ()
    assert sorted(ring.asked) == [("ctl-1", "ctl-2", LINKED), ("ctl-1", "ctl-3", LINKED)]


@pytest.mark.parametrize("answer", [
    Refused("FL-PEER-QUESTION", "an older one does not know that"), {}, {"linked": 1}, {"linked": True, "more": 1},
    None])
async def test_who_does_not_answer_so_that_it_is_understood_is_silent(answer: Any) -> None:
    ring = Ring(answers={"ctl-2": saying(answer), "ctl-3": saying({"linked": True})})
    heard = await ring.others(CTL_1).all(LINKED, ASKED, Linked)
    assert (list(heard.answers), heard.silent) == (["ctl-3"], ("ctl-2",))


async def test_nobody_is_waited_for_longer_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "LOOK_S", 0.1)
    ring = Ring(answers={"ctl-1": saying({"linked": True}), "ctl-3": saying({"linked": True})}, deaf={"ctl-3"})
    async with asyncio.timeout(5):
        heard = await ring.others(CTL_2).all(LINKED, ASKED, Linked)
    assert (list(heard.answers), heard.silent) == (["ctl-1"], ("ctl-3",))


async def test_who_is_no_longer_in_the_cluster_is_not_asked() -> None:
    ring = Ring(answers={"ctl-2": saying({"linked": True})})
    del ring.directory.nodes[CTL_3.id]
    assert (await ring.others(CTL_1).all(LINKED, ASKED, Linked)).silent == ()
