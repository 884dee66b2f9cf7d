"""Sessions of people who have logged in, in the store: at every Controller of a cluster the same.

Rules, and the attack each stops:

1. The store holds the hash of a session's secret, never the secret: a copy of the store opens no session.
2. A session is new at each log-in, whatever the caller brought along: nobody gets into one that he has planted.
3. It ends after `Rules.idle` without a request, after `Rules.longest` in any case, and when the account's password or
   role changes or the account goes: it carries the account's stamp.
4. What a page of another site makes a browser send carries the cookie and not the token: writes need `csrf_of`, which
   only who reads the secret's other cookie knows, and from which the secret does not follow.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from pydantic import TypeAdapter

from fairlead.base.clock import MINUTE, SECOND
from fairlead.store.protocol import Absent, Compare, Delete, Listing, Operation, Outcome, Put, Record, Unchanged
from fairlead.users.accounts import USERS, Account, decode
from fairlead.users.rules import Rules

SESSIONS = "sessions/"
_NOTED = MINUTE
"""How much later than noted a session may have been used."""
_MOST_SECRET = 100


class Records(Protocol):
    """What sessions need of the store."""

    async def get(self, key: str) -> Record | None:
        """See `store.protocol.Store`."""
        ...

    async def list(self, prefix: str) -> Listing:
        """See `store.protocol.Store`."""
        ...

    async def transact(self, compare: Sequence[Compare], then: Sequence[Operation]) -> Outcome:
        """See `store.protocol.Store`."""
        ...

    async def grant(self, seconds: int) -> int:
        """See `store.protocol.Store`."""
        ...

    async def now(self) -> int:
        """See `store.protocol.Store`."""
        ...


@dataclass(frozen=True, slots=True)
class _Session:
    user: str
    stamp: str
    opened: int
    seen: int


_SESSION: TypeAdapter[_Session] = TypeAdapter(_Session)


class Sessions:
    """Opens, finds and ends them."""

    def __init__(self, store: Records, rules: Callable[[], Rules] = Rules) -> None:
        self._store = store
        self._rules = rules

    async def open(self, account: Account) -> str:
        """A new session; its secret."""
        secret, now = secrets.token_urlsafe(32), await self._store.now()
        await self._make_room(account.name)
        await self._keep(Absent(_key(secret)), _Session(account.name, account.stamp, now, now))
        return secret

    async def find(self, secret: str) -> Account | None:
        """Whose session it is; None when it is none, or has ended."""
        if not 0 < len(secret) <= _MOST_SECRET:
            return None
        key = _key(secret)
        # together: beside a busy stream each way to the store and back takes milliseconds
        record, now = await asyncio.gather(self._store.get(key), self._store.now())
        if record is None:
            return None
        session, rules = _SESSION.validate_json(record.value), self._rules()
        kept = await self._store.get(USERS + session.user)
        account = decode(kept.value) if kept else None
        if account is None or account.stamp != session.stamp or now - session.seen > rules.idle or (
                now - session.opened > rules.longest):
            await self._store.transact([Unchanged(key, record.revision)], [Delete(key)])
            return None
        if now - session.seen > min(_NOTED, rules.idle // 4):
            await self._keep(Unchanged(key, record.revision), replace(session, seen=now))
        return account

    async def close(self, secret: str) -> None:
        """End it, if it is one."""
        if 0 < len(secret) <= _MOST_SECRET:
            await self._store.transact([], [Delete(_key(secret))])

    async def _make_room(self, user: str) -> None:
        """End the sessions of *user* that were opened first, so that one more is no more than the rules allow."""
        found = [(_SESSION.validate_json(r.value), r.key) for r in (await self._store.list(SESSIONS)).records]
        theirs = sorted((session.opened, key) for session, key in found if session.user == user)
        for _, key in theirs[:max(0, len(theirs) - self._rules().most_sessions + 1)]:
            await self._store.transact([], [Delete(key)])

    async def _keep(self, while_: Absent | Unchanged, session: _Session) -> None:
        """Write it down until it has lasted as long as it may."""
        lease = await self._store.grant(max(1, (session.opened + self._rules().longest - session.seen) // SECOND))
        await self._store.transact([while_], [Put(while_.key, _SESSION.dump_json(session), lease)])


def csrf_of(secret: str) -> str:
    """The token with which a session's writes are asked for."""
    return hmac.new(secret.encode(), b"csrf", sha256).hexdigest()[:32]


def _key(secret: str) -> str:
    return SESSIONS + sha256(secret.encode()).hexdigest()
