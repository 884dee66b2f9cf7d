"""Changes of accounts, each one transaction with its audit record; and the way in."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from fairlead.audit.log import RefusalCounter, network_of
from fairlead.audit.record import Entry
from fairlead.base.errors import Refused
from fairlead.store.protocol import (
    Absent,
    Compare,
    Delete,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
    Unchanged,
)
from fairlead.users.accounts import USERS, Account, account, check_user_name, decode, encode
from fairlead.users.apitokens import ApiTokens
from fairlead.users.keys import keys_of
from fairlead.users.lockout import Lockout
from fairlead.users.passwords import Passwords
from fairlead.users.roles import Person, Role
from fairlead.users.rules import Rules
from fairlead.users.sessions import Sessions, csrf_of

TRIES = 3


class Records(Protocol):
    """What accounts need of the store."""

    async def get(self, key: str) -> Record | None:
        """See `store.protocol.Store`."""
        ...

    async def list(self, prefix: str) -> Listing:
        """See `store.protocol.Store`."""
        ...

    async def now(self) -> int:
        """See `store.protocol.Store`."""
        ...

    async def grant(self, seconds: int) -> int:
        """See `store.protocol.Store`."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


class People:
    """Everybody who may log in."""

    def __init__(self, store: Records, audit: Journal, passwords: Passwords, sessions: Sessions,
                 refusals: RefusalCounter, rules: Callable[[], Rules] = Rules) -> None:
        """*rules*: those of now; they are asked for at each use."""
        self._store = store
        self._audit = audit
        self._passwords = passwords
        self._sessions = sessions
        self._refusals = refusals
        self.tokens = ApiTokens(store, audit)
        """Those of everybody."""
        self._rules = rules
        self._lockout = Lockout(rules)

    async def revised(self) -> list[tuple[Account, int]]:
        """All accounts, by name, each with the revision of the store that wrote it."""
        return [(decode(record.value), record.revision) for record in (await self._store.list(USERS)).records]

    def check_new(self, password: str) -> None:
        """Whether it can be one. Raises OperatorError FL-PASSWORD."""
        self._rules().check(password)

    async def named(self, name: str) -> Account:
        """The account *name*. Raises Refused FL-USER-UNKNOWN."""
        return (await self._read(name))[0]

    async def add(self, name: str, role: Role, password: str, by: str) -> Account:
        """A new account. Raises Refused, OperatorError FL-PASSWORD."""
        check_user_name(name)
        self._rules().check(password)
        made = await self._passwords.beside(partial(account, name, role, password))
        outcome = await self._audit.append_with([Absent(USERS + name)], [Put(USERS + name, encode(made))],
                                                [Entry("user.added", name, by, {"role": role})])
        if not outcome.succeeded:
            raise Refused("FL-USER-EXISTS", f"a user {name} already exists", f"`fairlead user password {name}` gives "
                          "another password")
        return made

    async def set_password(self, name: str, password: str, by: str) -> None:
        """Another password: every session of *name* ends. Raises Refused, OperatorError FL-PASSWORD."""
        self._rules().check(password)
        for _ in range(TRIES):
            old, record = await self._read(name)
            new = replace(old, password_hash=(await self._passwords.beside(
                partial(account, old.name, old.role, password))).password_hash)
            if await self._change([Unchanged(record.key, record.revision)], [Put(record.key, encode(new))],
                                  Entry("user.password", name, by, {})):
                return
        raise _busy()

    async def change_own(self, name: str, old: str, new: str) -> None:
        """The same for somebody who knows *old*. Raises Refused FL-LOGIN as well."""
        if not await self._passwords.fits((await self.named(name)).password_hash, old):
            raise Refused("FL-LOGIN", "Invalid credentials", "the old password is not right")
        await self.set_password(name, new, name)

    async def set_role(self, name: str, role: Role, by: str) -> None:
        """Another role: every session of *name* ends. Raises Refused."""
        for _ in range(TRIES):
            old, record = await self._read(name)
            compare: list[Compare] = [Unchanged(record.key, record.revision)]
            if role != "admin":
                compare += await self._another_admin(name)
            if await self._change(compare, [Put(record.key, encode(replace(old, role=role)))],
                                  Entry("user.role", name, by, {"role": role})):
                return
        raise _busy()

    async def introduce(self, name: str, full_name: str, email: str, by: str) -> None:
        """What people call somebody, and where he is written to. Raises Refused."""
        for _ in range(TRIES):
            old, record = await self._read(name)
            if await self._change([Unchanged(record.key, record.revision)],
                                  [Put(record.key, encode(replace(old, full_name=full_name, email=email)))],
                                  Entry("user.introduced", name, by, {})):
                return
        raise _busy()

    async def remove(self, name: str, by: str) -> None:
        """No such account any more; its sessions end. Raises Refused."""
        for _ in range(TRIES):
            _, record = await self._read(name)
            compare = [Unchanged(record.key, record.revision), *await self._another_admin(name)]
            keys = [Delete(key.key) for key in await keys_of(self._store, name)]
            if await self._change(compare, [Delete(record.key), *keys], Entry("user.removed", name, by, {})):
                await self.tokens.end_all(name, by)
                return
        raise _busy()

    async def log_in(self, name: str, password: str, source: str, via: str = "") -> tuple[Account, str]:
        """The account, and the secret of a new session. Raises Refused FL-LOGIN, FL-LOGIN-LOCKED, FL-LOGIN-BUSY.

        *source*: the address that it comes from. *via*: by which door, for the record.
        """
        found = await self._proven(name, password, source)
        return found, await self._open(found, {"source": source} | ({"via": via} if via else {}))

    async def basic(self, name: str, password: str, source: str) -> Person:
        """Who sends his password with each request, where that is allowed. Raises as `log_in`, and FL-LOGIN-BASIC."""
        if not self._rules().basic_authentication:
            raise Refused("FL-LOGIN-BASIC", "basic authentication is off", "log in, or have an admin set "
                          "allow_basic_authentication in the portal configuration")
        found = await self._proven(name, password, source)
        return Person(found.name, found.role, "")

    async def bearer(self, text: str, permission: str, source: str) -> Person:
        """Whose token for automation *text* is, if it may what needs *permission*. Raises Refused FL-LOGIN,
        FL-PERMISSION.
        """
        found = await self.tokens.who(text)
        if found is None:
            await self._count(source, "FL-LOGIN")
            raise Refused("FL-LOGIN", "Invalid credentials", "the token is none, has expired, or was revoked")
        person, token = found
        if not token.may(permission):
            raise Refused("FL-PERMISSION", f"the scope of this token does not name {permission}", "make another one")
        return replace(person, name=f"{person.name} (token {token.id})")

    async def _proven(self, name: str, password: str, source: str) -> Account:
        network = network_of(source)
        await self._check_open(name, network, source)
        record = await self._store.get(USERS + name) if len(name) <= 64 else None
        found = decode(record.value) if record else None
        if not await self._passwords.fits(found.password_hash if found else None, password) or found is None:
            await self._count(source, "FL-LOGIN")
            self._lockout.failed(name, network)
            raise Refused("FL-LOGIN", "Invalid credentials", "check the name and the password")
        await self._check_open(name, network, source)  # many guesses at once are no more than one after the other
        self._lockout.succeeded(name, network)
        return found

    async def let_in(self, name: str, fingerprint: str, source: str, via: str) -> tuple[Account, str]:
        """The same for somebody who has proven his key with that *fingerprint*. Raises Refused FL-USER-UNKNOWN."""
        found = await self.named(name)
        return found, await self._open(found, {"source": source, "via": via, "key": fingerprint})

    async def resist(self, password: str, source: str) -> None:
        """Refuse *password* for a name that has none: it costs what a wrong one does. Raises Refused FL-LOGIN-BUSY."""
        await self._store.get(USERS)  # nobody's
        await self._passwords.fits(None, password)
        await self._count(source, "FL-LOGIN")

    def is_locked(self, name: str, source: str) -> bool:
        """Whether *name* is closed to the network of the address *source*, because of wrong passwords."""
        return self._lockout.left(name, network_of(source)) > 0

    async def log_out(self, secrets: Sequence[str]) -> None:
        """End these sessions."""
        for secret in secrets:
            account = await self._sessions.find(secret)
            await self._sessions.close(secret)
            if account is not None:  # else a stranger's word, which writes nothing
                await self._audit.append_with([], [], [Entry("user.logout", account.name, account.name)])

    async def who(self, secrets: Sequence[str]) -> Person | None:
        """Whose session the first of *secrets* is that is one."""
        for secret in secrets:
            if found := await self._sessions.find(secret):
                return Person(found.name, found.role, csrf_of(secret))
        return None

    async def _open(self, account: Account, how: dict[str, str]) -> str:
        secret = await self._sessions.open(account)
        await self._audit.append_with([], [], [Entry("user.login", account.name, account.name, how)])
        return secret

    async def _check_open(self, name: str, network: str, source: str) -> None:
        if left := self._lockout.left(name, network):
            await self._count(source, "FL-LOGIN-LOCKED")
            raise Refused("FL-LOGIN-LOCKED", "Invalid credentials too often: nobody is let in from there under that "
                          "name", f"try again in {left / 60:.0f} minutes, or from the Controller itself")

    async def _count(self, source: str, code: str) -> None:
        self._refusals.count(source, code, await self._store.now())

    async def _read(self, name: str) -> tuple[Account, Record]:
        record = await self._store.get(USERS + name) if len(name) <= 64 else None
        if record is None:
            raise Refused("FL-USER-UNKNOWN", f"there is no user {name[:80]!r}", "see `fairlead user list`")
        return decode(record.value), record

    async def _another_admin(self, than: str) -> list[Compare]:
        """What holds while there is an admin besides. Raises Refused FL-USER-LAST when *than* is the only one."""
        listing = await self._store.list(USERS)
        admins = {record.key: record for record in listing.records if decode(record.value).role == "admin"}
        mine = admins.pop(USERS + than, None)
        if mine is None:
            return []
        if not admins:
            raise Refused("FL-USER-LAST", f"{than} is the last admin", "make another one first")
        other = next(iter(admins.values()))
        return [Unchanged(other.key, other.revision)]

    async def _change(self, compare: Sequence[Compare], then: Sequence[Operation], entry: Entry) -> bool:
        return (await self._audit.append_with(compare, then, [entry])).succeeded


def _busy() -> StoreUnavailable:
    return StoreUnavailable("others changed the same account meanwhile", "try again")
