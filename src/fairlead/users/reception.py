"""People at the SSH port: who gets in with a password or a key, and when their connections end.

Rules, and the attack each stops:

1. `ADMIN` is the account of that name, by password or by one of its keys. `ANYBODY` asks for the name of an account
   and its password. Of no other name a password is ever compared: aviseuser and avictlruser are nodes, and a key is
   all they have.
2. Every refused password costs one comparison, for every name, wherever it comes from and however often: the time tells
   neither which names count, nor who is locked out, nor which networks may log in.
3. Guessing is counted by name and network, together with what comes in on 443 (`lockout`). Of one network one password
   is compared at a time: a flood of guesses, which for most names no lock ends, waits in a line of its own.
4. A connection lives as long as its session (`sessions`), and its key: within `LOOK_S` after a password, a role or a
   key changes or an account goes, it is cut with all that runs in it. Nothing is begun for a session that has ended.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from fairlead.audit.log import network_of
from fairlead.base.errors import FairleadError, Refused
from fairlead.keys.ssh import PublicKey
from fairlead.store.protocol import StoreUnavailable
from fairlead.transport.rules import SshRules
from fairlead.transport.visit import Call, Visit, Visitor
from fairlead.users.accounts import Account
from fairlead.users.roles import Person
from fairlead.users.sessions import csrf_of

ADMIN = "admin"
ANYBODY = "cli"
MOST_NAME = 64
MOST_PASSWORD = 1024
MOST_WAITING = 32
"""Passwords of one network that wait to be compared; further ones are refused at once, whatever the name."""
LOOK_S = 2.0
FAREWELL_S = 1.0
"""What sessions have to be ended in when the Controller stops."""
MOST_VISITS = 64
"""Connections of people at once; a further one is not let in."""
MOST_EACH = 8
"""Of one account; a further one ends the oldest, so that nobody keeps others out."""

log = structlog.get_logger("fairlead.people")


class LoggingIn(Protocol):
    """Who keeps the accounts and their sessions."""

    async def log_in(self, name: str, password: str, source: str, via: str = "") -> tuple[Account, str]:
        """The account, and the secret of a new session. Raises Refused."""
        ...

    async def let_in(self, name: str, fingerprint: str, source: str, via: str) -> tuple[Account, str]:
        """The same for somebody who has proven a key. Raises Refused."""
        ...

    async def resist(self, password: str, source: str) -> None:
        """Refuse *password*, at the cost of one. Raises Refused FL-LOGIN-BUSY."""
        ...

    def is_locked(self, name: str, source: str) -> bool:
        """Whether *name* is closed to where *source* is."""
        ...

    async def who(self, secrets: Sequence[str]) -> Person | None:
        """Whose session the first of *secrets* is that is one."""
        ...

    async def log_out(self, secrets: Sequence[str]) -> None:
        """End these sessions."""
        ...


class KnowingKeys(Protocol):
    """Who keeps people's keys."""

    async def owner(self, key: PublicKey) -> str | None:
        """Whose key it is."""
        ...

    async def has(self, user: str, fingerprint: str) -> bool:
        """Whether *user* has the key with that *fingerprint*."""
        ...


class Reception:
    """See `transport.visit.Reception`."""

    def __init__(self, people: LoggingIn, keys: KnowingKeys, rules: Callable[[], SshRules],
                 serve: Callable[[Visitor, Call], Awaitable[None]]) -> None:
        self._people = people
        self._keys = keys
        self.rules = rules
        self._serve = serve
        self._visits: dict[Visit, asyncio.Task[None]] = {}
        self._farewells: set[asyncio.Task[None]] = set()
        self._ending = False
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting = Counter[str]()

    # -- who gets in --------------------------------------------------------------------------------------------------

    def questions(self, user: str) -> Sequence[tuple[str, bool]]:
        """What *user* is asked for: names but one look alike, and that one everybody may know."""
        return (("User: ", True), ("Password: ", False)) if user == ANYBODY else (("Password: ", False),)

    async def by_answers(self, user: str, answers: Sequence[str], source: str) -> Visitor | None:
        """Who logs in as *user* with what he typed."""
        if user == ANYBODY and len(answers) == 2:
            return await self._in_turn(answers[0], answers[1], source)
        if user == ADMIN and len(answers) == 1:
            return await self._in_turn(ADMIN, answers[0], source)
        return await self._in_turn(None, answers[-1] if answers else "", source)

    async def by_password(self, user: str, password: str, source: str) -> Visitor | None:
        """Who logs in as *user* with *password*."""
        return await self._in_turn(ADMIN if user == ADMIN else None, password, source)

    async def knows(self, user: str, key: PublicKey, source: str) -> bool:
        """Whether *key* is one with which *user* may log in from there."""
        try:
            return await self._keys.owner(key) == ADMIN == user and self.rules().admits(source)
        except StoreUnavailable:
            return False

    async def by_key(self, user: str, key: PublicKey, source: str) -> Visitor | None:
        """Who logs in as *user* with *key*, which he has proven."""
        if not await self.knows(user, key, source):
            return None
        try:
            account, secret = await self._people.let_in(user, key.fingerprint, source, "ssh")
        except (Refused, StoreUnavailable):
            return None
        return Visitor(account.name, secret, csrf_of(secret), key.fingerprint)

    async def _in_turn(self, name: str | None, password: str, source: str) -> Visitor | None:
        """Who *name* is with *password*, for None nobody; one at a time for each network."""
        network = network_of(source)
        if self._waiting[network] >= MOST_WAITING:
            return None
        self._waiting[network] += 1
        try:
            async with self._turns.setdefault(network, asyncio.Lock()):
                return await self._compare(name, password, source)
        finally:
            self._waiting[network] -= 1
            if not self._waiting[network]:
                del self._waiting[network], self._turns[network]

    async def _compare(self, name: str | None, password: str, source: str) -> Visitor | None:
        if name is None or not self._may_try(name, password, source):
            with contextlib.suppress(Refused, StoreUnavailable):
                await self._people.resist(password[:MOST_PASSWORD], source)
            return None
        try:
            account, secret = await self._people.log_in(name, password, source, "ssh")
        except (Refused, StoreUnavailable):
            return None
        return Visitor(account.name, secret, csrf_of(secret))

    def _may_try(self, name: str, password: str, source: str) -> bool:
        return (len(name) <= MOST_NAME and len(password) <= MOST_PASSWORD and self.rules().admits(source)
                and not self._people.is_locked(name, source))

    # -- who is in ----------------------------------------------------------------------------------------------------

    def arrived(self, visit: Visit) -> None:
        """Somebody is in."""
        log.info("ssh.person-up", user=visit.visitor.name, address=visit.address)
        same = [one for one in self._visits if one.visitor.name == visit.visitor.name]
        for oldest in same[:max(0, len(same) + 1 - MOST_EACH)]:
            oldest.close("there are too many connections of this account")
        self._visits[visit] = asyncio.get_running_loop().create_task(self._watch(visit))
        if self._ending:
            visit.close("the Controller is shutting down")
        elif len(self._visits) > MOST_VISITS:
            visit.close("too many people are logged in")

    def left(self, visit: Visit) -> None:
        """He has gone: so has his session."""
        log.info("ssh.person-down", user=visit.visitor.name, address=visit.address)
        if watching := self._visits.pop(visit, None):
            watching.cancel()
        farewell = asyncio.get_running_loop().create_task(self._forget(visit.visitor))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def serve(self, visitor: Visitor, call: Call) -> None:
        """Do what is asked for, unless the session has ended."""
        try:
            if await self._still(visitor):
                await self._serve(visitor, call)
                return
            refusal: FairleadError = Refused("FL-LOGIN", "the session has ended", "log in again")
        except StoreUnavailable as reason:
            refusal = reason
        await call.refuse(refusal)

    async def close(self) -> None:
        """Send everybody away, and end their sessions."""
        self._ending = True
        for visit in tuple(self._visits):
            visit.close("the Controller is shutting down")
        with contextlib.suppress(TimeoutError):  # a store without a majority takes its time
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.gather(*(visit.closed.wait() for visit in tuple(self._visits)))
                await asyncio.gather(*self._farewells, return_exceptions=True)

    async def _watch(self, visit: Visit) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if not await self._still(visit.visitor):
                    visit.close("the session has ended: log in again")
                    return
            except StoreUnavailable:  # nobody knows; and no command does anything without the store
                continue

    async def _still(self, visitor: Visitor) -> bool:
        """Whether he is still who he logged in as. Raises StoreUnavailable."""
        if visitor.fingerprint and not await self._keys.has(visitor.name, visitor.fingerprint):
            return False
        return await self._people.who([visitor.session]) is not None

    async def _forget(self, visitor: Visitor) -> None:
        try:
            await self._people.log_out([visitor.session])
        except StoreUnavailable as reason:  # it ends by itself when it was idle
            log.info("ssh.session-kept", reason=str(reason))
