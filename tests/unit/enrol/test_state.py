"""The state table of the join protocol, section 6, cell by cell."""

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused
from fairlead.enrol.state import (
    COMMIT_GRACE,
    LIFETIME,
    Conflict,
    State,
    Step,
    TokenRecord,
    decode,
    encode,
    judge_commit,
    judge_exchange,
)
from tests.world import START

SAME, OTHER = "5a" * 32, "07" * 32
EXPIRES, COMMIT_BY = START + LIFETIME, START + LIFETIME + COMMIT_GRACE
OPEN = TokenRecord("00" * 16, "open", "engine", "admin", START, EXPIRES, COMMIT_BY, "11" * 32, "22" * 32, "33" * 16)
HELD = replace(OPEN, keys_hash=SAME, node_id="node", used_by="SHA256:first", used_at=START)
TOKENS: dict[str, TokenRecord] = {
    "open": OPEN,
    **{state: replace(HELD, state=state) for state in get_args(State) if state != "open"},
    "redeemed, known": replace(HELD, state="redeemed", conflict=Conflict("SHA256:second", "192.0.2.9", START)),
}
TIMES = {"at once": START, "just before expiry": EXPIRES - 1, "at expiry": EXPIRES,
         "just before commit_by": COMMIT_BY - 1, "at commit_by": COMMIT_BY, "a day later": START + 86_400 * SECOND}

R, E, F, A, C, K, L = (Step.RESERVE, Step.EXPIRE, Step.FREEZE, Step.REPEAT, Step.CONFLICT, Step.CONFLICT_KNOWN,
                       Step.LATE_USE)
USED, EXPIRED, REVOKED, FROZEN, NO = (f"FL-JOIN-{end}" for end in ("USED", "EXPIRED", "REVOKED", "FROZEN", "REFUSED"))

#                        at once  <expiry  expiry   <commit_by  commit_by  later
EXCHANGE: dict[tuple[str, str], list[Step | str]] = {
    ("open", "same"):            [R, R, E, E, E, E],
    ("open", "other"):           [R, R, E, E, E, E],
    ("reserved", "same"):        [A, A, A, A, E, E],
    ("reserved", "other"):       [F, F, F, F, E, E],
    ("redeemed", "same"):        [A, A, A, A, USED, USED],
    ("redeemed", "other"):       [C, C, L, L, L, L],
    ("redeemed, known", "same"):  [A, A, A, A, USED, USED],
    ("redeemed, known", "other"): [K, K, L, L, L, L],
    ("frozen", "same"):          [FROZEN] * 6,
    ("frozen", "other"):         [FROZEN] * 6,
    ("expired", "same"):         [EXPIRED] * 6,
    ("expired", "other"):        [EXPIRED] * 6,
    ("revoked", "same"):         [REVOKED] * 6,
    ("revoked", "other"):        [REVOKED] * 6,
}
COMMIT: dict[tuple[str, str], list[Step | str]] = {
    ("open", "same"):            [NO] * 6,
    ("reserved", "same"):        [*[Step.COMMIT] * 4, E, E],
    ("redeemed", "same"):        [A] * 6,
    ("redeemed, known", "same"): [A] * 6,
    ("frozen", "same"):          [FROZEN] * 6,
    ("expired", "same"):         [EXPIRED] * 6,
    ("revoked", "same"):         [REVOKED] * 6,
    **{(state, "other"): [NO, NO, NO, NO, NO, NO] for state in TOKENS},
}


def outcome(token: TokenRecord, keys: str, now: int, *, commit: bool = False, margin: int = 0) -> Step | str:
    try:
        return (judge_commit if commit else judge_exchange)(token, SAME if keys == "same" else OTHER, now, margin)
    except Refused as refusal:
        return refusal.code


def test_the_tables_are_whole() -> None:
    cells = set(product(TOKENS, ("same", "other")))
    assert set(EXCHANGE) == set(COMMIT) == cells


@pytest.mark.parametrize(("state", "keys"), EXCHANGE)
def test_exchange(state: str, keys: str) -> None:
    found = [outcome(TOKENS[state], keys, now) for now in TIMES.values()]
    assert found == EXCHANGE[state, keys]


@pytest.mark.parametrize(("state", "keys"), COMMIT)
def test_commit(state: str, keys: str) -> None:
    found = [outcome(TOKENS[state], keys, now, commit=True) for now in TIMES.values()]
    assert found == COMMIT[state, keys]


@pytest.mark.parametrize(("state", "keys"), EXCHANGE)
def test_a_bound_token_does_the_same_for_its_keys_and_nothing_for_others(state: str, keys: str) -> None:
    bound = replace(TOKENS[state], bound_keys_hash=SAME)
    for index, now in enumerate(TIMES.values()):
        expected = EXCHANGE[state, "same"][index] if keys == "same" else "FL-JOIN-BOUND"
        assert outcome(bound, keys, now) == expected


def test_a_margin_moves_only_what_a_transaction_must_be_in_time_for() -> None:
    margin = 4 * SECOND
    for at, step in ((EXPIRES - margin - 1, R), (EXPIRES - margin, E)):
        assert outcome(OPEN, "same", at, margin=margin) is step
    for at, step in ((COMMIT_BY - margin - 1, Step.COMMIT), (COMMIT_BY - margin, E)):
        assert outcome(TOKENS["reserved"], "same", at, commit=True, margin=margin) is step
    assert outcome(TOKENS["reserved"], "same", COMMIT_BY - 1, margin=margin) is A
    assert outcome(TOKENS["reserved"], "other", COMMIT_BY - 1, margin=margin) is F


def test_a_record_has_no_secret_and_a_deadline_while_it_can_still_be_used() -> None:
    token = replace(TOKENS["redeemed, known"], bound_keys_hash=SAME, node="se-1", source="192.0.2.0/24")
    assert decode(encode(token)) == token
    assert not {"secret", "seed"} & {*encode(token).decode().split('"')}
    deadlines = {state: record.deadline for state, record in TOKENS.items()}
    assert deadlines.pop("open") == EXPIRES
    assert deadlines.pop("reserved") == COMMIT_BY
    assert set(deadlines.values()) == {None}
