"""Roll-outs: what breaks everywhere breaks once, what breaks on many is halted, and nobody is waited for in vain."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from fairlead.fleet.documents import Document
from fairlead.fleet.rollout import PATIENCE, Standing, Verdict, step, verdict
from fairlead.link.messages import Held
from tests.unit.fleet.test_documents import DOCUMENT, fleet

NOW = 1000
NODES = fleet(100)
FIRST = replace(DOCUMENT, stage="first", since=NOW)


def standing(verdicts: Mapping[str, Verdict], otherwise: Verdict = "behind") -> list[Standing]:
    return [Standing(node, verdicts.get(node.id, otherwise), "no") for node in NODES]


def reached(document: Document) -> list[str]:
    return [node.id for node in NODES if document.reaches(node)]


def test_it_goes_to_one_then_to_some_then_to_all() -> None:
    one = step(FIRST, standing({}), NOW)
    assert one is not None
    assert one.first
    assert reached(one) == [one.first]
    assert step(one, standing({}), NOW) is None, "it is waited for"
    some = step(one, standing({one.first: "applied"}), NOW)
    assert some is not None
    assert some.stage == "some"
    assert 2 < len(reached(some)) < 40
    assert step(some, standing({one.first: "applied"}), NOW) is None
    everybody = step(some, standing(dict.fromkeys(reached(some), "applied")), NOW)
    assert everybody is not None
    assert everybody.stage == "all"
    assert step(everybody, standing({NODES[4].id: "behind"}, "applied"), NOW) is None
    done = step(everybody, standing({}, "applied"), NOW)
    assert done is not None
    assert (done.stage, done.former) == ("done", None)
    assert step(done, standing({}, "refused"), NOW) is None


def test_what_the_first_refuses_goes_no_further() -> None:
    one = step(FIRST, standing({}), NOW)
    assert one is not None
    halted = step(one, standing({one.first: "refused"}, "applied"), NOW)
    assert halted is not None
    assert halted.stage == "halted"
    assert "refused it: no" in halted.why
    assert step(halted, standing({}, "applied"), NOW) is None


def test_what_breaks_on_half_of_them_is_halted_at_a_tenth() -> None:
    some = replace(FIRST, stage="some", first="id-0")
    chosen = reached(some)
    half: dict[str, Verdict] = {node: "refused" if n % 2 else "applied" for n, node in enumerate(chosen)}
    halted = step(some, standing(half), NOW)
    assert halted is not None
    assert halted.stage == "halted"
    assert f"of {len(chosen)} failed" in halted.why


@pytest.mark.parametrize(("refused", "stage"), [(10, "done"), (11, "halted")])
def test_a_few_may_refuse_it(refused: int, stage: str) -> None:
    everybody = replace(FIRST, stage="all")
    after = step(everybody, standing({node.id: "refused" for node in NODES[:refused]}, "applied"), NOW)
    assert after is not None
    assert after.stage == stage


def test_the_silent_are_waited_for_and_not_for_ever() -> None:
    everybody = replace(FIRST, stage="all")
    silent: dict[str, Verdict] = {node.id: "behind" for node in NODES[:5]}
    assert step(everybody, standing(silent, "applied"), NOW + PATIENCE) is None
    late = step(everybody, standing(silent, "applied"), NOW + PATIENCE + 1)
    assert late is not None
    assert late.stage == "done"
    many = step(everybody, standing({node.id: "behind" for node in NODES[:11]}, "applied"), NOW + PATIENCE + 1)
    assert many is not None
    assert (many.stage, "did not answer" in many.why) == ("halted", True)
    one = replace(FIRST, first="id-3")
    assert step(one, standing({}), NOW + PATIENCE) is None
    hung = step(one, standing({}), NOW + PATIENCE + 1)
    assert hung is not None
    assert hung.stage == "halted"


def test_without_anybody_it_waits_and_another_is_first_when_the_first_goes() -> None:
    assert step(FIRST, [], NOW) is None
    one = replace(FIRST, first="gone")
    other = step(one, standing({}), NOW + 5)
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
