"""Accounts, log-ins and sessions, over a real store: what they leave on record, and what ends them."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from fairlead.base.clock import SECOND
from fairlead.store.protocol import Put
from fairlead.users import passwords as passwords_room
from fairlead.users.accounts import USERS
from fairlead.users.passwords import Passwords
from fairlead.users.people import People
from fairlead.users.roles import Person
from fairlead.users.rules import Rules
from fairlead.users.sessions import SESSIONS, Sessions, csrf_of
from tests.world import World, refusal

MOST_FAILURES, IDLE, LONGEST = Rules().most_failures, Rules().idle, Rules().longest

PASSWORD, OTHER = "correct horse battery", "staple correct horse"
HERE, THERE = "192.0.2.7", "198.51.100.7"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


def later(world: World, seconds: float) -> None:
    world.clock.instant += round(seconds * SECOND)


@pytest.fixture
def people(world: World, passwords: Passwords) -> People:
    return People(world.store, world.audit, passwords, Sessions(world.store), world.refusals)


async def test_an_account_comes_and_goes_with_its_records(world: World, people: People) -> None:
    await people.add("jane", "admin", PASSWORD, "root")
    assert await refusal(people.add("jane", "viewer", PASSWORD, "root")) == "FL-USER-EXISTS"
    assert await refusal(people.add("root", "viewer", PASSWORD, "root")) == "FL-USER-NAME"
    assert await refusal(people.add("john", "viewer", "short", "root")) == "FL-PASSWORD"
    await people.add("john", "viewer", PASSWORD, "jane")
    assert [(one.name, one.role) for one, _ in await people.revised()] == [("jane", "admin"), ("john", "viewer")]
    await people.set_role("john", "operator", "jane")
    await people.set_password("john", OTHER, "jane")
    await people.remove("john", "jane")
    assert await refusal(people.named("john")) == "FL-USER-UNKNOWN"
    assert [(r.event, r.subject, r.by) for r in (await world.audited())[-5:]] == [
        ("user.added", "jane", "root"), ("user.added", "john", "jane"), ("user.role", "john", "jane"),
        ("user.password", "john", "jane"), ("user.removed", "john", "jane")]


async def test_the_last_admin_stays(people: People) -> None:
    await people.add("jane", "admin", PASSWORD, "root")
    await people.add("john", "operator", PASSWORD, "root")
    assert await refusal(people.remove("jane", "jane")) == "FL-USER-LAST"
    assert await refusal(people.set_role("jane", "viewer", "jane")) == "FL-USER-LAST"
    await people.set_role("john", "admin", "jane")
    await people.remove("jane", "john")
    assert [one.name for one, _ in await people.revised()] == ["john"]


async def test_a_log_in_opens_a_session_of_which_the_store_has_no_secret(world: World, people: People) -> None:
    await people.add("jane", "viewer", PASSWORD, "root")
    account, secret = await people.log_in("jane", PASSWORD, HERE)
    assert await people.who(["planted", secret]) == Person(account.name, "viewer", csrf_of(secret))
    assert len(csrf_of(secret)) == 32
    assert csrf_of(secret) not in secret
    for record in (await world.store.list(SESSIONS)).records:
        assert secret.encode() not in record.value
        assert secret not in record.key
    last = (await world.audited())[-1]
    assert (last.event, last.subject, last.details) == ("user.login", "jane", {"source": HERE})
    _, another = await people.log_in("jane", PASSWORD, HERE)
    assert another != secret
    await people.log_out([secret])
    assert await people.who([secret]) is None
    assert await people.who([another]) is not None
    assert (await world.events("jane"))[-1] == "user.logout"
    await people.log_out([secret, "a stranger's"])
    assert len(await world.events("jane")) == 4, "what is no session any more is not on record"


@pytest.mark.parametrize("end", ["password", "role", "removal"])
async def test_what_changes_an_account_ends_its_sessions(people: People, end: str) -> None:
    await people.add("root-2", "admin", PASSWORD, "root")
    await people.add("jane", "operator", PASSWORD, "root")
    _, secret = await people.log_in("jane", PASSWORD, HERE)
    if end == "password":
        await people.change_own("jane", PASSWORD, OTHER)
    elif end == "role":
        await people.set_role("jane", "viewer", "root")
    else:
        await people.remove("jane", "root")
    assert await people.who([secret]) is None


async def test_one_session_too_many_ends_the_oldest(world: World, people: People) -> None:
    await people.add("jane", "viewer", PASSWORD, "root")
    await people.add("john", "viewer", PASSWORD, "root")
    _, other = await people.log_in("john", PASSWORD, HERE)
    sessions = Sessions(world.store, lambda: Rules(most_sessions=2))
    opened = []
    for seconds in (1, 2, 3):
        later(world, seconds)
        opened.append(await sessions.open(await people.named("jane")))
    assert [await sessions.find(secret) is not None for secret in opened] == [False, True, True]
    assert await people.who([other]) is not None, "another one's stay"


async def test_a_session_ends_when_it_is_idle_and_in_any_case(world: World, people: People) -> None:
    await people.add("jane", "viewer", PASSWORD, "root")
    _, secret = await people.log_in("jane", PASSWORD, HERE)
    later(world, IDLE / SECOND - 1)
    assert await people.who([secret]) is not None
    later(world, IDLE / SECOND - 1)
    assert await people.who([secret]) is not None, "it was used meanwhile"
    later(world, IDLE / SECOND + 61)
    assert await people.who([secret]) is None
    _, secret = await people.log_in("jane", PASSWORD, HERE)
    for _ in range(LONGEST // IDLE + 2):
        later(world, IDLE / SECOND - 1)
        last = await people.who([secret])
    assert last is None


async def test_a_wrong_password_and_nobodys_name_are_refused_alike(world: World, people: People) -> None:
    await people.add("jane", "viewer", PASSWORD, "root")
    before = await world.revision()
    for name in ("jane", "nobody", "../users/jane", "x" * 1000):
        with pytest.raises(Exception, match="Invalid credentials") as caught:
            await people.log_in(name, OTHER, HERE)
        assert getattr(caught.value, "code", "") == "FL-LOGIN"
    assert await world.revision() == before, "strangers write nothing"
    refusals = world.refusals.flush(world.clock.now() + 60 * SECOND)
    assert [entry.details["FL-LOGIN"] for entry in refusals] == [4]


async def test_whoever_guesses_is_locked_out_where_he_is_and_nowhere_else(world: World, people: People) -> None:
    await people.add("jane", "viewer", PASSWORD, "root")
    for name in ("jane", "nobody"):
        for _ in range(MOST_FAILURES):
            assert await refusal(people.log_in(name, OTHER, HERE)) == "FL-LOGIN"
        assert await refusal(people.log_in(name, PASSWORD, HERE)) == "FL-LOGIN-LOCKED"
    assert (await people.log_in("jane", PASSWORD, THERE))[0].name == "jane"
    assert [r.event for r in await world.audited()][-1] == "user.login", "who guesses does not write the log"


async def test_many_guesses_at_once_are_no_more_than_one_after_the_other(people: People) -> None:
    await people.add("jane", "viewer", PASSWORD, "root")
    guesses = [*[OTHER] * 12, PASSWORD]
    came = await asyncio.gather(*(people.log_in("jane", guess, HERE) for guess in guesses), return_exceptions=True)
    assert {getattr(one, "code", one) for one in came[:-1]} == {"FL-LOGIN"}
    assert getattr(came[-1], "code", came[-1]) == "FL-LOGIN-LOCKED"
    assert await refusal(people.log_in("jane", PASSWORD, HERE)) == "FL-LOGIN-LOCKED"


async def test_a_flood_of_log_ins_waits_in_a_short_queue(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords_room, "MOST_WAITING", 2)
    await people.add("jane", "viewer", PASSWORD, "root")
    came = await asyncio.gather(*(people.log_in("jane", PASSWORD, HERE) for _ in range(8)), return_exceptions=True)
    busy = [one for one in came if isinstance(one, Exception)]
    assert {getattr(one, "code", "") for one in busy} == {"FL-LOGIN-BUSY"}
    assert len(came) - len(busy) == passwords_room.AT_ONCE + 2


async def test_a_hash_that_is_none_lets_nobody_in(world: World, people: People) -> None:
    await world.store.transact([], [Put(f"{USERS}odd", json.dumps(
        {"name": "odd", "role": "admin", "password_hash": "x"}).encode())])
    assert await refusal(people.log_in("odd", "x", HERE)) == "FL-LOGIN"
