"""The world stops before and after every write of the Controller; each time a plain repetition ends it properly.

Each operation is done once for each of its writes to the store, which are counted, not listed. Stopped is: the process
dies (what a new one finds is a copy of the files), or the reply is lost (the process lives, and does not know). Then
the store is sound, the same request is made again as its sender would, and comes to its end: one node, or the refusal.
The same with half a transaction on the disk, and with a disk that is full at any statement of it.
"""

import asyncio
import itertools
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fairlead.base.clock import DAY, SECOND
from fairlead.base.errors import FairleadError
from fairlead.enrol.bundle import Bundle
from fairlead.enrol.exchange import Core
from fairlead.enrol.redeem import KEEP_TERMINAL, TOKENS
from fairlead.keys.ssh import PublicKey
from fairlead.nodes.node import Node
from fairlead.store.protocol import Put, StoreUnavailable
from tests.soundness import sound
from tests.world import Death, Machine, World, open_again, open_world, refusal

DEADLINE_S = 60.0


class Operation:
    """Something that is asked of the Controller: what comes before, the asking, and what is true in the end."""

    writes: ClassVar = 1
    """How many of the store's: one, where nothing may be half done."""
    says: ClassVar = "done"
    """What it comes to."""
    says_again: ClassVar = "done"
    """What the repetition may say when it had happened already."""

    def __init__(self) -> None:
        self.machine, self.thief = Machine(), Machine()
        self.bundle: Bundle
        self.core: Core

    async def before(self, world: World) -> None:
        """What there is when it begins."""
        self.bundle = await world.export(node="se-1")

    async def ask(self, world: World) -> None:
        """The operation, and its repetition."""

    async def after(self, world: World) -> None:
        """The end of the story."""

    async def reserve(self, world: World) -> None:
        """The machine has its reply."""
        self.core = await world.exchange(self.bundle, self.machine)

    async def join(self, world: World) -> None:
        """The machine is a node."""
        await self.reserve(world)
        await world.commit(self.bundle, self.machine, self.core)

    def joined(self, world: World, state: str = "up") -> Node:
        """The one engine there is, with the machine's keys."""
        (node,) = (n for n in world.directory.nodes.values() if n.role == "engine")
        assert (node.name, node.state) == ("se-1", state)
        assert (node.host_key, node.user_key) == (self.machine.host.public.line, self.machine.user.public.line)
        return node

    async def unharmed(self, world: World, machine: Machine, address: str) -> None:
        """Nobody joined; the name is free for a new bundle, also for *machine*'s keys."""
        assert [n.name for n in world.directory.nodes.values()] == ["ctl-1"]
        node = await world.join("se-1", machine, await world.export(node="se-1"))
        assert node.internal_address == address


class Issue(Operation):
    """Its first write is the token's lease."""

    writes = 2

    async def before(self, world: World) -> None:
        """Nothing."""

    async def ask(self, world: World) -> None:
        self.bundle = await world.export(node="se-1")

    async def after(self, world: World) -> None:
        await self.join(world)
        self.joined(world)
        world.clock.set(661)
        await expire(world)  # a token of which nobody got the bundle
        assert sorted(t.state for t, _ in await world.enrolment.tokens()) in (["redeemed"], ["expired", "redeemed"])


class Reserve(Operation):
    async def ask(self, world: World) -> None:
        await self.reserve(world)

    async def after(self, world: World) -> None:
        await world.commit(self.bundle, self.machine, self.core)
        assert self.joined(world).internal_address == "127.64.1.0"


class Commit(Operation):
    async def before(self, world: World) -> None:
        await super().before(world)
        await self.reserve(world)

    async def ask(self, world: World) -> None:
        await world.commit(self.bundle, self.machine, self.core)

    async def after(self, world: World) -> None:
        self.joined(world)
        assert (await world.exchange(self.bundle, self.machine)).result == "committed"


class Refuse(Operation):
    says = says_again = "FL-JOIN-NAME"

    async def ask(self, world: World) -> None:
        await world.exchange(self.bundle, self.machine, "se-2")

    async def after(self, world: World) -> None:
        await self.join(world)
        self.joined(world)


class Freeze(Commit):
    """The second write is the record of the thief's refusal."""

    writes = 2
    says, says_again = "FL-JOIN-CONFLICT", "FL-JOIN-FROZEN"

    async def ask(self, world: World) -> None:
        await world.exchange(self.bundle, self.thief)

    async def after(self, world: World) -> None:
        assert await refusal(world.commit(self.bundle, self.machine, self.core)) == "FL-JOIN-REFUSED"
        assert await refusal(self.reserve(world)) == "FL-JOIN-FROZEN"
        assert await refusal(world.exchange(self.bundle, self.thief)) == "FL-JOIN-FROZEN"
        await self.unharmed(world, Machine(), "127.64.1.1")


class Conflict(Operation):
    writes = 2
    says = says_again = "FL-JOIN-CONFLICT"

    async def before(self, world: World) -> None:
        await super().before(world)
        await self.join(world)

    async def ask(self, world: World) -> None:
        await world.exchange(self.bundle, self.thief)

    async def after(self, world: World) -> None:
        self.joined(world, "frozen")
        await world.registry.release("se-1", self.machine.host.public.fingerprint, "admin")
        self.joined(world)


class LateUse(Conflict):
    writes = 1
    says = says_again = "FL-JOIN-USED"

    async def before(self, world: World) -> None:
        await super().before(world)
        world.clock.set(661)

    async def after(self, world: World) -> None:
        self.joined(world)


class ExpireOpen(Operation):
    async def before(self, world: World) -> None:
        await super().before(world)
        world.clock.set(661)

    async def ask(self, world: World) -> None:
        await expire(world)

    async def after(self, world: World) -> None:
        assert await refusal(self.reserve(world)) == "FL-JOIN-EXPIRED"
        await self.unharmed(world, self.machine, "127.64.1.0")


class ExpireReserved(Operation):
    async def before(self, world: World) -> None:
        await super().before(world)
        await self.reserve(world)
        world.clock.set(661)

    async def ask(self, world: World) -> None:
        await expire(world)

    async def after(self, world: World) -> None:
        assert await refusal(world.commit(self.bundle, self.machine, self.core)) == "FL-JOIN-REFUSED"
        assert await refusal(self.reserve(world)) == "FL-JOIN-EXPIRED"
        await self.unharmed(world, self.machine, "127.64.1.1")


class ExpireByCommit(ExpireReserved):
    says, says_again = "FL-JOIN-EXPIRED", "FL-JOIN-REFUSED"

    async def ask(self, world: World) -> None:
        await world.commit(self.bundle, self.machine, self.core)


class ExpireByExchange(ExpireReserved):
    """The second write is the record of the refusal."""

    writes = 2
    says = says_again = "FL-JOIN-EXPIRED"

    async def ask(self, world: World) -> None:
        await self.reserve(world)


class RevokeOpen(Operation):
    address = "127.64.1.0"

    async def ask(self, world: World) -> None:
        await world.enrolment.revoke(self.bundle.token.id.hex(), "admin")

    async def after(self, world: World) -> None:
        assert await refusal(self.reserve(world)) == "FL-JOIN-REVOKED"
        await self.unharmed(world, self.machine, self.address)


class RevokeReserved(RevokeOpen):
    address = "127.64.1.1"

    async def before(self, world: World) -> None:
        await super().before(world)
        await self.reserve(world)


class RevokeHeir(RevokeReserved):
    """The reservation took the name of a removed node."""

    address = "127.64.1.2"

    async def before(self, world: World) -> None:
        await world.join("se-1")
        await world.registry.remove("se-1", "admin")
        await super().before(world)

    async def after(self, world: World) -> None:
        name = await world.name("se-1")
        assert name is not None
        assert name.state == "tombstone"
        await super().after(world)


class Remove(Conflict):
    writes = 1
    says, says_again = "done", "FL-NODE-UNKNOWN"

    async def ask(self, world: World) -> None:
        await world.registry.remove("se-1", "admin")

    async def after(self, world: World) -> None:
        assert [n.name for n in world.directory.nodes.values()] == ["ctl-1"]
        assert await refusal(world.exchange(await world.export(), self.machine, "se-2")) == "FL-JOIN-KEYS"
        assert await refusal(world.exchange(await world.export(), Machine(), "se-1")) == "FL-JOIN-NAME"
        await self.unharmed(world, Machine(), "127.64.1.1")


class Release(Conflict):
    writes = 1
    says, says_again = "done", "FL-NODE-STATE"

    async def before(self, world: World) -> None:
        await super().before(world)
        assert await refusal(world.exchange(self.bundle, self.thief)) == "FL-JOIN-CONFLICT"

    async def ask(self, world: World) -> None:
        await world.registry.release("se-1", PublicKey.from_line(self.machine.host.public.line).fingerprint, "admin")

    async def after(self, world: World) -> None:
        self.joined(world)


class Tidy(ExpireOpen):
    async def before(self, world: World) -> None:
        await super().before(world)
        await expire(world)
        world.clock.set((KEEP_TERMINAL + DAY) / SECOND)

    async def ask(self, world: World) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while (await world.store.list(TOKENS)).records:
                await world.enrolment.tidy()

    async def after(self, world: World) -> None:
        assert await refusal(self.reserve(world)) == "FL-JOIN-REFUSED"


async def expire(world: World) -> None:
    """As each second, until nothing lives that has ended: a Controller that starts reads the deadlines first."""
    async with asyncio.timeout(DEADLINE_S):
        while any(t.deadline is not None and t.deadline <= world.clock.now()
                  for t, _ in await world.enrolment.tokens()):
            await world.enrolment.expire_due()


OPERATIONS = [Issue, Reserve, Commit, Refuse, Freeze, Conflict, LateUse, ExpireOpen, ExpireReserved, ExpireByCommit,
              ExpireByExchange, RevokeOpen, RevokeReserved, RevokeHeir, Remove, Release, Tidy]
each_operation = pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: str(kind.__name__))


async def said(work: Coroutine[Any, Any, None]) -> str:
    """What *work* comes to: a code, ``done``, or ``death``."""
    try:
        await work
    except FairleadError as error:
        return error.code
    except Death:
        return "death"
    return "done"


async def repeat(operation: Operation, world: World) -> None:
    """The store is sound; the same is asked again; all is as it should be."""
    await sound(world)
    assert await said(operation.ask(world)) in (operation.says, operation.says_again)
    await sound(world)
    await operation.after(world)
    await sound(world)


@each_operation
@pytest.mark.parametrize("happened", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stop", [Death(), StoreUnavailable("the reply was lost")], ids=["crash", "lost reply"])
async def test_a_stop_at_any_write_is_mended_by_asking_again(
        tmp_path: Path, kind: type[Operation], stop: BaseException, happened: bool) -> None:
    for write in itertools.count(1):
        operation = kind()
        (folder := tmp_path / str(write)).mkdir()
        async with open_world(folder) as world:
            await operation.before(world)
            world.store.stop_at(write, stop, happened=happened)
            came_to = await said(operation.ask(world))
            if not world.store.stopped:
                break
            if isinstance(stop, Death):
                assert came_to == "death"
                async with open_again(world, folder / "again") as again:
                    await repeat(operation, again)
            else:
                assert came_to == "FL-STORE"
                await repeat(operation, world)
    assert came_to == kind.says
    assert write == kind.writes + 1, "every step is one transaction"


@each_operation
async def test_half_a_transaction_on_the_disk_is_none(tmp_path: Path, kind: type[Operation]) -> None:
    operation = kind()
    async with open_world(tmp_path) as world:
        await operation.before(world)
        wal = tmp_path / "store.db-wal"
        written = wal.stat().st_size
        world.store.stop_at(kind.writes, Death(), happened=True)
        former = await everything(world)
        assert await said(operation.ask(world)) == "death"
        if kind.writes == 1:
            written = wal.stat().st_size - written
            for lost in (1, written // 2, written - 1):
                async with open_again(world, tmp_path / str(lost), lost) as again:
                    assert await everything(again) == former
        async with open_again(world, tmp_path / "torn", 1) as again:
            await repeat(operation, again)


@each_operation
async def test_a_disk_that_is_full_at_any_statement_undoes_the_whole_step(
        tmp_path: Path, kind: type[Operation]) -> None:
    operation = kind()
    async with open_world(tmp_path) as world:
        await operation.before(world)
        database = world.store.inner._database
        connection = database._sql
        for statement in itertools.count(1):
            former = await everything(world)
            database._sql = FullDisk(connection, statement)  # type: ignore[assignment]
            came_to = await said(operation.ask(world))
            database._sql = connection
            if came_to != "FL-STORE":
                break
            assert kind.writes > 1 or await everything(world) == former
            await sound(world)
        assert statement > 3
        assert came_to in (kind.says, kind.says_again)
        await sound(world)
        await operation.after(world)
        await sound(world)


@pytest.mark.parametrize("kind", [kind for kind in OPERATIONS if kind is not Tidy],  # to forget needs no room
                         ids=lambda kind: str(kind.__name__))
async def test_a_store_without_a_free_page_says_so_and_goes_on_when_there_is_one(
        tmp_path: Path, kind: type[Operation]) -> None:
    operation = kind()
    async with open_world(tmp_path) as world:
        await operation.before(world)
        await fill(world)
        former = await everything(world)
        assert await said(operation.ask(world)) == "FL-STORE"
        assert kind.writes > 1 or await everything(world) == former
        await bound(world, 1 << 30)
        await repeat(operation, world)


class FullDisk:
    """The store's connection while its disk is full: from the so-manieth statement that writes on."""

    def __init__(self, connection: sqlite3.Connection, room: int) -> None:
        self._connection = connection
        self._room = room

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """As of a connection."""
        if statement.startswith(("INSERT", "UPDATE", "DELETE", "COMMIT")):
            self._room -= 1
            if self._room <= 0:
                raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *values)  # type: ignore[arg-type]

    @property
    def in_transaction(self) -> bool:
        """As of a connection."""
        return self._connection.in_transaction


async def everything(world: World) -> list[tuple[str, bytes]]:
    """The whole store."""
    return [(record.key, record.value) for record in (await world.store.list("")).records]


async def bound(world: World, pages: int) -> None:
    """Let the file grow to so many pages."""
    store = world.store.inner
    await store._run(lambda: store._database._sql.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def fill(world: World) -> None:
    """Leave no room for anything."""
    await bound(world, 1)  # no less than there are now
    number, size = 0, 2000
    while size:
        try:
            await world.store.transact([], [Put(f"filler/{number}", bytes(size))])
            number += 1
        except StoreUnavailable:
            size //= 2
