"""Who of the people gets in over SSH, what a refusal costs, and what ends a connection; over a real store."""

import asyncio
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from fairlead.base.networks import Networks
from fairlead.keys.ssh import PrivateKey
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.rules import SshRules
from fairlead.transport.visit import Call, Visit, Visitor
from fairlead.users import reception as reception_room
from fairlead.users.keys import UserKeys
from fairlead.users.passwords import Passwords
from fairlead.users.people import People
from fairlead.users.reception import MOST_EACH, Reception
from fairlead.users.rules import Rules
from fairlead.users.sessions import Sessions
from tests.world import World

MOST_FAILURES = Rules().most_failures

PASSWORD, OTHER = "correct horse battery", "staple correct horse"
HERE, THERE = "192.0.2.7", "198.51.100.7"
KEY = PrivateKey.from_seed(b"k" * 32)


class Counting(Passwords):
    """Counts what is compared."""

    compared = now = most = 0

    async def fits(self, password_hash: str | None, password: str) -> bool:
        self.compared += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().fits(password_hash, password)
        finally:
            self.now -= 1


@pytest.fixture
def passwords() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.close()


class Desk:
    """A reception, with what is behind it."""

    def __init__(self, world: World, passwords: Counting) -> None:
        self.world = world
        self.passwords = passwords
        self.people = People(world.store, world.audit, passwords, Sessions(world.store), world.refusals)
        self.keys = UserKeys(world.store, world.audit)
        self.rules = SshRules()
        self.served: list[Visitor] = []
        self.reception = Reception(self.people, self.keys, lambda: self.rules, self.serve)

    async def serve(self, visitor: Visitor, _: Call) -> None:
        self.served.append(visitor)


@pytest.fixture
async def desk(world: World, passwords: Counting) -> Desk:
    made = Desk(world, passwords)
    await made.people.add("admin", "admin", PASSWORD, "root")
    await made.people.add("jane", "viewer", OTHER, "root")
    await made.keys.add("admin", KEY.public.line, "laptop", "root")
    return made


class FakeConnection:
    gone = False

    def __init__(self) -> None:
        self.said: list[str] = []

    def disconnect(self, _: int, reason: str) -> None:
        self.said.append(reason)


def visit_of(visitor: Visitor) -> tuple[Visit, FakeConnection]:
    connection: Any = FakeConnection()
    return Visit(connection, visitor, "192.0.2.7:5"), connection


class FakeCall:
    def __init__(self) -> None:
        self.refused: list[str] = []

    async def refuse(self, error: Any) -> None:
        self.refused.append(error.code)


async def test_admin_by_password_and_key_and_everybody_as_cli(desk: Desk) -> None:
    who = desk.reception
    for found, name in ((await who.by_password("admin", PASSWORD, HERE), "admin"),
                        (await who.by_answers("admin", [PASSWORD], HERE), "admin"),
                        (await who.by_answers("cli", ["admin", PASSWORD], HERE), "admin"),
                        (await who.by_answers("cli", ["jane", OTHER], HERE), "jane"),
                        (await who.by_key("admin", KEY.public, HERE), "admin")):
        assert found
        assert found.name == name
        person = await desk.people.who([found.session])
        assert person
        assert (person.name, person.csrf) == (name, found.csrf)
    last = [r.details for r in await desk.world.audited() if r.event == "user.login"]
    assert last[0] == {"source": HERE, "via": "ssh"}
    assert last[-1] == {"source": HERE, "via": "ssh", "key": KEY.public.fingerprint}


REFUSED = [(user, way) for user in ("aviseuser", "avictlruser", "root", "jane", "", "nobody") for way in (0, 1)]


@pytest.mark.parametrize(("user", "way"), [*REFUSED, ("cli", 1)])
async def test_of_no_other_name_a_password_is_compared_and_refusals_cost_the_same(
        desk: Desk, monkeypatch: pytest.MonkeyPatch, user: str, way: int) -> None:
    async def never(*_: object, **__: object) -> Any:
        raise AssertionError("somebody's password was compared")

    monkeypatch.setattr(desk.people, "log_in", never)
    for password in (PASSWORD, OTHER):
        before = desk.passwords.compared
        assert await (desk.reception.by_password(user, password, HERE) if way
                      else desk.reception.by_answers(user, [password], HERE)) is None
        assert desk.passwords.compared == before + 1


async def test_each_refusal_costs_one_comparison_whatever_its_reason(desk: Desk) -> None:
    async def costs(*arguments: Any) -> int:
        before = desk.passwords.compared
        assert await desk.reception.by_answers(*arguments) is None
        return desk.passwords.compared - before

    assert await costs("cli", ["jane", "wrong wrong wrong"], HERE) == 1
    assert await costs("cli", ["nobody", "wrong wrong wrong"], HERE) == 1
    assert await costs("cli", ["x" * 30_000, "wrong"], HERE) == 1
    assert await costs("cli", ["jane", "x" * 30_000], HERE) == 1
    assert await costs("cli", [], HERE) == 1
    assert await costs("cli", ["jane"], HERE) == 1
    assert await costs("admin", [PASSWORD, PASSWORD], HERE) == 1
    for _ in range(MOST_FAILURES + 1):
        assert await costs("admin", ["wrong wrong wrong"], HERE) == 1, "also when the name is locked"
    assert await costs("admin", [PASSWORD], HERE) == 1, "locked"
    assert await desk.reception.by_password("admin", PASSWORD, THERE), "and only there"
    desk.rules = SshRules(Networks("IS_IN", (ip_network("203.0.113.0/24"),)))
    assert await costs("admin", [PASSWORD], THERE) == 1, "a network that may not"


async def test_guesses_here_count_with_those_on_443(desk: Desk) -> None:
    for _ in range(MOST_FAILURES):
        await desk.reception.by_password("admin", "wrong wrong wrong", HERE)
    assert desk.people.is_locked("admin", HERE)
    sums = desk.world.refusals.flush(desk.world.clock.now() + 120_000_000)
    assert [entry.details["FL-LOGIN"] for entry in sums] == [MOST_FAILURES]
    for _ in range(MOST_FAILURES):
        await desk.reception.by_password("aviseuser", "wrong wrong wrong", HERE)
    assert not desk.people.is_locked("aviseuser", HERE)
    assert await desk.reception.by_key("admin", KEY.public, HERE), "a key is not guessed"


async def test_a_flood_of_guesses_waits_in_a_line_of_its_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock ends it where no password counts: it takes neither all turns nor anybody else's place."""
    monkeypatch.setattr(reception_room, "MOST_WAITING", 8)
    flood = [asyncio.ensure_future(desk.reception.by_password("root", "guess", THERE)) for _ in range(50)]
    await asyncio.sleep(0)
    assert await desk.reception.by_password("admin", PASSWORD, HERE)
    assert sum(one.done() for one in flood) < 50
    assert await asyncio.gather(*flood) == [None] * 50
    assert desk.passwords.compared == 8 + 1
    assert desk.passwords.most == 2, "one of each network at a time"
    assert not desk.reception._turns


async def test_a_key_counts_for_admin_only_and_only_while_it_is_his(desk: Desk) -> None:
    other = PrivateKey.from_seed(b"j" * 32)
    await desk.keys.add("jane", other.public.line, None, "root")
    assert await desk.reception.knows("admin", KEY.public, HERE)
    for user, key in (("jane", other), ("admin", other), ("cli", KEY), ("cli", other), ("jane", KEY), ("", KEY)):
        assert not await desk.reception.knows(user, key.public, HERE)
        assert await desk.reception.by_key(user, key.public, HERE) is None
    desk.rules = SshRules(Networks("IS_NOT_IN", (ip_network("192.0.2.0/24"),)))
    assert not await desk.reception.knows("admin", KEY.public, HERE)
    desk.rules = SshRules()
    await desk.keys.remove("admin", KEY.public.fingerprint, "root")
    assert await desk.reception.by_key("admin", KEY.public, HERE) is None


@pytest.mark.parametrize("change", ["password", "role", "removed", "key"])
async def test_a_connection_ends_when_its_account_or_key_changes(
        desk: Desk, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(reception_room, "LOOK_S", 0.02)
    await desk.people.add("other", "admin", PASSWORD, "root")
    visitor = await desk.reception.by_key("admin", KEY.public, HERE)
    bystander = await desk.reception.by_answers("cli", ["jane", OTHER], HERE)
    assert visitor
    assert bystander
    (visit, connection), (other, quiet) = visit_of(visitor), visit_of(bystander)
    for one in (visit, other):
        desk.reception.arrived(one)
    call: Any = FakeCall()
    await desk.reception.serve(visitor, call)
    assert desk.served == [visitor]
    match change:
        case "password":
            await desk.people.set_password("admin", OTHER, "root")
        case "role":
            await desk.people.set_role("admin", "viewer", "root")
        case "removed":
            await desk.people.remove("admin", "root")
        case _:
            await desk.keys.remove("admin", KEY.public.fingerprint, "root")
    await desk.reception.serve(visitor, call)
    assert call.refused == ["FL-LOGIN"], "at once, for each command"
    assert desk.served == [visitor]
    async with asyncio.timeout(10):
        while not connection.said:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert connection.said == ["the session has ended: log in again"]
    assert quiet.said == []
    for one in (visit, other):
        one.ended()
        desk.reception.left(one)
    await desk.reception.close()
    assert await desk.people.who([bystander.session]) is None, "who leaves takes his session along"


async def test_without_the_store_nobody_comes_in_and_nothing_is_begun(desk: Desk,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = await desk.reception.by_key("admin", KEY.public, HERE)
    assert visitor

    async def lost(*_: object) -> Any:
        raise StoreUnavailable("no majority")

    monkeypatch.setattr(desk.world.store, "get", lost)
    assert await desk.reception.by_password("admin", PASSWORD, HERE) is None
    assert await desk.reception.by_key("admin", KEY.public, HERE) is None
    call: Any = FakeCall()
    await desk.reception.serve(visitor, call)
    assert (call.refused, desk.served) == (["FL-STORE"], [])


async def test_one_account_keeps_nobody_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception_room, "MOST_VISITS", MOST_EACH + 2)
    visitor = Visitor("jane", "s", "c")
    visits = [visit_of(visitor) for _ in range(MOST_EACH + 1)]
    for visit, _ in visits:
        desk.reception.arrived(visit)
    assert [bool(connection.said) for _, connection in visits] == [True] + [False] * MOST_EACH
    for name, many in (("admin", False), ("john", True)):
        visit, connection = visit_of(Visitor(name, "s", "c"))
        visits.append((visit, connection))
        desk.reception.arrived(visit)
        assert bool(connection.said) == many
    for visit, _ in visits:
        visit.ended()
        desk.reception.left(visit)
    await desk.reception.close()
