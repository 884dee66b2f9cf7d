"""The token string and the key that proves it: every vector, and what must never show."""

from functools import partial
from typing import Any
from uuid import UUID

import pytest

from fairlead.base.errors import Refused
from fairlead.enrol.token import Token
from fairlead.keys.wire import b64url
from tests.world import VECTORS, denied

GIVEN = VECTORS["token"]
CLUSTER = UUID(VECTORS["anchor"]["fields"]["cluster_uuid"])


@pytest.mark.parametrize("case", GIVEN["cases"], ids=lambda case: case["what"])
def test_vectors(case: dict[str, Any]) -> None:
    if case["reason"]:
        assert denied(lambda: Token.decode(case["text"])) == f"FL-{case['reason'].upper()}"
        return
    token = Token.decode(case["text"])
    assert {"id": token.id.hex(), "secret": token.secret.hex(), "pin": token.pin.hex()} == case["fields"]
    assert token.encode() == case["text"].strip()


def test_key_schedule() -> None:
    schedule = VECTORS["key_schedule"]
    token = Token.decode(GIVEN["string"])
    assert (token.secret.hex(), (CLUSTER.bytes + token.id).hex()) == (schedule["ikm"], schedule["salt"])
    assert token.key(CLUSTER).key.private_bytes_raw().hex() == schedule["token_key_seed"]
    assert token.key(CLUSTER).public.raw.hex() == schedule["token_key_public"]
    assert token.key(UUID(int=0)).public != token.key(CLUSTER).public  # worth nothing in another cluster


def test_every_character_counts() -> None:
    text = GIVEN["string"]
    for at in range(len(text)):
        other = text[:at] + ("B" if text[at] == "A" else "A") + text[at + 1:]
        assert denied(partial(Token.decode, other)).startswith("FL-TOKEN-"), at


@pytest.mark.parametrize("secret", [bytes(32), b"", bytes([1]) * 31, bytes([1]) * 33])
def test_a_secret_that_is_none_is_refused_everywhere(secret: bytes) -> None:
    token = Token(bytes(16), secret, bytes(32))
    assert denied(lambda: token.key(CLUSTER)) == "FL-TOKEN-SECRET"
    with pytest.raises(Refused) as caught:
        Token.decode(token.encode())
    assert caught.value.code in ("FL-TOKEN-SECRET", "FL-TOKEN-LENGTH")


def test_tokens_are_independent_and_secrets_do_not_show() -> None:
    tokens = [Token.new(bytes(32)) for _ in range(50)]
    assert len({t.id for t in tokens} | {t.secret[:16] for t in tokens}) == 100
    for token in tokens:
        shown = f"{token!r} {token} {token.key(CLUSTER)!r}"
        for secret in (token.secret.hex(), b64url(token.secret), repr(token.secret)[2:-1], token.encode()):
            assert secret not in shown


def test_a_refusal_does_not_quote_the_token() -> None:
    for case in GIVEN["cases"]:
        if case["reason"] and case["text"]:
            with pytest.raises(Refused) as caught:
                Token.decode(case["text"])
            assert case["text"][10:30] not in caught.value.line() or not case["text"][10:30]
