"""Which engine should have which revision: alike everywhere, by stages, and only what is meant for it."""

from dataclasses import replace

import pytest

from fairlead.fleet.documents import Document, Former, Stage, assigned, body_of, decode, encode
from fairlead.nodes.node import Node
from tests.unit.nodes.test_policy import CTL_1, SE_1

OLD = Former(3, "engines", '{"old":1}')
DOCUMENT = Document("files", "motd", "engines", 7, '{"new":1}', 5, "jane", "all", former=OLD)


def fleet(count: int) -> list[Node]:
    return [replace(SE_1, id=f"id-{n}", name=f"se-{n}") for n in range(count)]


def revisions(document: Document, nodes: list[Node]) -> dict[str, int]:
    return {node.id: one.revision for node in nodes for one in assigned(node, [document])}


@pytest.mark.parametrize(("stage", "fewest", "most"), [("first", 1, 1), ("some", 60, 140), ("all", 1000, 1000),
                                                       ("done", 1000, 1000), ("halted", 1, 1)])
def test_a_stage_reaches_as_many_as_it_says(stage: Stage, fewest: int, most: int) -> None:
    nodes = fleet(1000)
    reached = revisions(replace(DOCUMENT, stage=stage, first="id-17"), nodes)
    assert fewest <= sum(revision == 7 for revision in reached.values()) <= most
    assert reached["id-17"] == 7
    assert set(reached.values()) <= {7, 3}


def test_whoever_has_it_in_a_stage_has_it_in_the_next() -> None:
    nodes = fleet(300)
    some = {node.id for node in nodes if replace(DOCUMENT, stage="some").reaches(node)}
    other = {node.id for node in nodes if replace(DOCUMENT, stage="some", revision=8).reaches(node)}
    assert some != other, "it is not always the same engines that are first"
    assert all(replace(DOCUMENT, stage="all").reaches(node) for node in nodes)


def test_whom_it_has_not_come_to_keeps_what_he_has() -> None:
    waiting = assigned(SE_1, [replace(DOCUMENT, stage="first", first="another")])[0]
    assert (waiting.revision, waiting.keep) == (3, True)
    never = assigned(SE_1, [replace(DOCUMENT, stage="first", first="another", former=None)])[0]
    assert (never.revision, never.digest, never.keep) == (0, "", True)
    other = assigned(SE_1, [replace(DOCUMENT, stage="halted", former=replace(OLD, target="se-9"))])[0]
    assert (other.revision, other.keep) == (0, True), "what was meant for others is not given out now"


def test_only_its_engines_are_told() -> None:
    by_label = replace(DOCUMENT, target="site=lab")
    assert assigned(replace(SE_1, labels={}), [by_label]) == []
    assert len(assigned(replace(SE_1, labels={"site": "lab"}), [by_label])) == 1
    assert len(assigned(SE_1, [replace(DOCUMENT, target=SE_1.name)])) == 1
    assert assigned(CTL_1, [replace(DOCUMENT, target=CTL_1.name)]) == []
    assert assigned(replace(SE_1, state="frozen"), [DOCUMENT]) == []


def test_they_are_told_in_the_order_in_which_they_were_put() -> None:
    late, early = replace(DOCUMENT, name="a", revision=9), replace(DOCUMENT, name="z", revision=8)
    assert [one.name for one in assigned(SE_1, [late, early])] == ["z", "a"]


def test_a_body_is_for_whom_it_is_assigned_to() -> None:
    mine, theirs = replace(DOCUMENT, target=SE_1.name, former=None), replace(DOCUMENT, target="se-9", body='{"x":2}')
    assert body_of(SE_1, [mine, theirs], mine.digest) == mine.body
    assert body_of(SE_1, [mine, theirs], theirs.digest) == ""
    waiting = replace(DOCUMENT, stage="first", first="another")
    assert body_of(SE_1, [waiting], waiting.digest) == ""
    assert body_of(SE_1, [waiting], OLD.digest) == OLD.body


def test_a_document_is_kept_as_it_is() -> None:
    for one in (DOCUMENT, replace(DOCUMENT, former=None, why="é")):
        assert decode(encode(one)) == one
        assert encode(decode(encode(one))) == encode(one)
