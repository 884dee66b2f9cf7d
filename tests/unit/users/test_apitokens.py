"""Tokens for automation: what each may, and when it ends."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlead.audit.log import AuditLog, RefusalCounter
from fairlead.base.clock import DAY, SECOND
from fairlead.base.errors import FairleadError
from fairlead.store.protocol import Put
from fairlead.store.sqlite import SQLiteStore
from fairlead.users.apitokens import TOKENS
from fairlead.users.passwords import Passwords
from fairlead.users.people import People
from fairlead.users.sessions import Sessions
from tests.world import ManualClock

PASSWORD = "a long enough password"


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.store = SQLiteStore.open(folder / "store.db", self.clock)
        self.audit = AuditLog(self.store, "ctl")
        self.passwords = Passwords()
        self.people = People(self.store, self.audit, self.passwords, Sessions(self.store), RefusalCounter())

    async def may(self, text: str, permission: str) -> str:
        """The name for the record, or the code of the refusal."""
        try:
            return (await self.people.bearer(text, permission, "192.0.2.7")).name
        except FairleadError as refused:
            return refused.code


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.people.add("root-of-all", "admin", PASSWORD, "init")
    await made.people.add("ci", "admin", PASSWORD, "root-of-all")
    yield made
    made.passwords.close()
    await made.store.close()


async def test_a_token_may_what_it_names_and_its_owner_may_now(house: House) -> None:
    made, text = await house.people.tokens.make("ci", ["node:read", "user:read"], 90, "pipeline")
    assert await house.may(text, "node:read") == f"ci (token {made.id})"
    assert await house.may(text, "node:write") == "FL-PERMISSION"
    assert (await house.people.bearer(text, "user:read", "")).role == "admin"
    await house.people.set_role("ci", "viewer", "root-of-all")
    assert (await house.people.bearer(text, "user:read", "")).role == "viewer", "and the role does not permit it now"


async def test_a_star_is_not_everything_and_no_token_makes_tokens(house: House) -> None:
    _, text = await house.people.tokens.make("ci", ["*"], 90, "")
    assert (await house.may(text, "node:write")).startswith("ci (")
    for permission in ("user:write", "daemon:stop", "backup:create", "backup:write", "cluster:certificate",
                       "system:write", "certificate:write", "bundle:write", "session:own"):
        assert await house.may(text, permission) == "FL-PERMISSION"
    _, named = await house.people.tokens.make("ci", ["user:write"], 90, "")
    assert (await house.may(named, "user:write")).startswith("ci (")
    for scope, days in (([], 1), (["session:own"], 1), (["x"], 1), (["*"], 0), (["*"], 366)):
        with pytest.raises(FairleadError) as refused:
            await house.people.tokens.make("ci", scope, days, "")
        assert refused.value.code == "FL-API-TOKEN"


async def test_a_token_ends_at_its_time_by_revocation_and_with_its_owner(house: House) -> None:
    _, short = await house.people.tokens.make("ci", ["*"], 1, "")
    made, revoked = await house.people.tokens.make("ci", ["*"], 90, "")
    _, left = await house.people.tokens.make("ci", ["*"], 90, "")
    await house.people.tokens.revoke(made.id, "ci", "ci")
    assert await house.may(revoked, "node:read") == "FL-LOGIN"
    house.clock.set(DAY / SECOND)
    assert await house.may(short, "node:read") == "FL-LOGIN"
    kept = (await house.store.list(TOKENS)).records
    await house.people.remove("ci", "root-of-all")
    assert await house.people.tokens.of("ci") == []
    await house.store.transact([], [Put(record.key, record.value) for record in kept])  # as if that had been missed
    await house.people.add("ci", "admin", PASSWORD, "root-of-all")
    assert await house.may(left, "node:read") == "FL-LOGIN", "another one of that name has none of them"


async def test_attack_what_is_no_token_or_another_ones_is_nothing(house: House) -> None:
    made, text = await house.people.tokens.make("ci", ["*"], 90, "")
    for wrong in ("", text[:-1], text + "x", text[:-1] + ("A" if text[-1] != "A" else "B"), text.replace("1_", "2_"),
                  f"flk1_{'0' * 16}_{text[-43:]}", text.upper(), f"flk1_../{made.id}_x"):
        assert await house.may(wrong, "node:read") == "FL-LOGIN", wrong
    with pytest.raises(FairleadError) as refused:
        await house.people.tokens.revoke(made.id, "root-of-all", "root-of-all")
    assert refused.value.code == "FL-API-TOKEN-UNKNOWN", "not among his own"
    stored = (await house.store.list(TOKENS)).records[0].value.decode()
    records = str([(r.event, dict(r.details)) for r in await house.audit.records(20)])
    assert text[-43:] not in stored + records + repr(made)
