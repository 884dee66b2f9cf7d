"""Roll-outs: what breaks everywhere breaks once, what breaks on many is halted, and nobody is waited for in vain."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from fairlead.fleet.documents import Document
from fairlead.fleet.rollout import PATIENCE, Score, Standing, Verdict, step, verdict
from fairlead.link.messages import Held
from tests.unit.fleet.test_documents import DOCUMENT, fleet

NOW = 1000
NODES = fleet(100)
FIRST = replace(DOCUMENT, stage="first", since=NOW)


def standing(verdicts: Mapping[str, Verdict], otherwise: Verdict = "behind") -> list[Standing]:
    return [Standing(node, verdicts.get(node.id, otherwise), "no") for node in NODES]


def after(document: Document, connected: Sequence[Standing], now: int) -> Document | None:
    said = [one.verdict for one in connected if document.reaches(one.node)]
    return step(document, Score(len(said), said.count("refused"), said.count("behind")), lambda: connected, now)


def reached(document: Document) -> list[str]:
    return [node.id for node in NODES if document.reaches(node)]


def test_it_goes_to_one_then_to_some_then_to_all() -> None:
    one = after(FIRST, standing({}), NOW)
    assert one is not None
    assert one.first
    assert reached(one) == [one.first]
    assert after(one, standing({}), NOW) is None, "it is waited for"
    some = after(one, standing({one.first: "applied"}), NOW)
    assert some is not None
    assert some.stage == "some"
    assert 2 < len(reached(some)) < 40
    assert after(some, standing({one.first: "applied"}), NOW) is None
    everybody = after(some, standing(dict.fromkeys(reached(some), "applied")), NOW)
    assert everybody is not None
    assert everybody.stage == "all"
    assert after(everybody, standing({NODES[4].id: "behind"}, "applied"), NOW) is None
    done = after(everybody, standing({}, "applied"), NOW)
    assert done is not None
    assert (done.stage, done.former) == ("done", None)
    assert after(done, standing({}, "refused"), NOW) is None


def test_what_the_first_refuses_goes_no_further() -> None:
    one = after(FIRST, standing({}), NOW)
    assert one is not None
    halted = after(one, standing({one.first: "refused"}, "applied"), NOW)
    assert halted is not None
    assert halted.stage == "halted"
    assert "refused it: no" in halted.why
    assert after(halted, standing({}, "applied"), NOW) is None


def test_what_breaks_on_half_of_them_is_halted_at_a_tenth() -> None:
    some = replace(FIRST, stage="some", first="id-0")
    chosen = reached(some)
    half: dict[str, Verdict] = {node: "refused" if n % 2 else "applied" for n, node in enumerate(chosen)}
    halted = after(some, standing(half), NOW)
    assert halted is not None
    assert halted.stage == "halted"
    assert f"of {len(chosen)} failed" in halted.why


@pytest.mark.parametrize(("refused", "stage"), [(10, "done"), (11, "halted")])
def test_a_few_may_refuse_it(refused: int, stage: str) -> None:
    everybody = replace(FIRST, stage="all")
    found = after(everybody, standing({node.id: "refused" for node in NODES[:refused]}, "applied"), NOW)
    assert found is not None
    assert found.stage == stage


def test_the_silent_are_waited_for_and_not_for_ever() -> None:
    everybody = replace(FIRST, stage="all")
    silent: dict[str, Verdict] = {node.id: "behind" for node in NODES[:5]}
    assert after(everybody, standing(silent, "applied"), NOW + PATIENCE) is None
    late = after(everybody, standing(silent, "applied"), NOW + PATIENCE + 1)
    assert late is not None
    assert late.stage == "done"
    many = after(everybody, standing({node.id: "behind" for node in NODES[:11]}, "applied"), NOW + PATIENCE + 1)
    assert many is not None
    assert (many.stage, "did not answer" in many.why) == ("halted", True)
    one = replace(FIRST, first="id-3")
    assert after(one, standing({}), NOW + PATIENCE) is None
    hung = after(one, standing({}), NOW + PATIENCE + 1)
    assert hung is not None
    assert hung.stage == "halted"


def test_without_anybody_it_waits_and_another_is_first_when_the_first_goes() -> None:
    assert after(FIRST, [], NOW) is None
    one = replace(FIRST, first="gone")
    other = after(one, standing({}), NOW + 5)
    assert other is not None
    assert (other.first != "gone", other.stage, other.since) == (True, "first", NOW + 5)


def test_a_verdict_is_of_this_revision() -> None:
    held = Held(kind="files", name="motd", revision=7, digest=DOCUMENT.digest, since=1)
    assert verdict(DOCUMENT, None) == "behind"
    assert verdict(DOCUMENT, held) == "applied"
    assert verdict(DOCUMENT, held.model_copy(update={"revision": 6})) == "behind"
    assert verdict(DOCUMENT, held.model_copy(update={"digest": "0" * 64})) == "behind"
    assert verdict(DOCUMENT, held.model_copy(update={"revision": 3, "tried": 7})) == "refused"
    assert verdict(DOCUMENT, held.model_copy(update={"revision": 3, "tried": 6})) == "behind"
