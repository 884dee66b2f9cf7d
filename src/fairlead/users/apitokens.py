"""Tokens for automation: what a program shows in place of a session, for a while, and for a part of what its owner may.

Rules, and the attack each stops:

1. The store holds the SHA-256 of a token's secret: of 32 random bytes nobody finds it by trying, so a slow hash would
   only cost. A copy of the store opens nothing.
2. A token may what its scope names *and* its owner's role permits now: who loses a role loses it in all his tokens. It
   ends at its time, when it is revoked, and when its owner goes.
3. ``*`` is what the role permits but for what would outlive the token: accounts, bundles, backups, certificates, the
   system's configuration and the end of the daemon have to be named. No token makes tokens.
4. Whoever gets the name of somebody who has gone gets none of his tokens: they belong to his account, not to its name.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from pydantic import TypeAdapter

from fairlead.audit.record import Entry
from fairlead.base.clock import DAY, SECOND, rfc3339
from fairlead.base.errors import Refused, printable
from fairlead.store.protocol import (
    Absent,
    Compare,
    Delete,
    Exists,
    Listing,
    Operation,
    Outcome,
    Put,
    Record,
    StoreUnavailable,
)
from fairlead.users.accounts import USERS, decode
from fairlead.users.roles import PERMISSIONS, Person

TOKENS = "apitokens/"
PREFIX = "flk1_"
MOST = 100
"""Of one owner."""
MOST_DAYS = 365
NAMED_ONLY = frozenset(("backup:create", "backup:write", "bundle:write", "certificate:write", "cluster:certificate",
                        "daemon:stop", "image:write", "system:write", "upgrade:trust", "user:write"))
NEVER = "session:own"
"""A token makes no tokens, and changes no password of its owner."""
_TEXT = re.compile(r"flk1_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


def id_of(text: str) -> str:
    """The id of the token that is *text*, by its form. Raises Refused FL-API-TOKEN-FORMAT, in which it is not shown."""
    parts = _TEXT.fullmatch(text)
    if parts is None:
        raise Refused("FL-API-TOKEN-FORMAT", "that is no token for automation",
                      f"it begins with {PREFIX} and is one line, as `fairlead user token add` has printed it")
    return parts[1]


@dataclass(frozen=True, slots=True)
class ApiToken:
    """One of them, without its secret. Times in microseconds."""

    id: str
    owner: str
    scope: tuple[str, ...]
    comment: str
    made: int
    expires: int
    birth: str
    """Of the account that made it."""
    secret_hash: str = field(repr=False)

    def may(self, permission: str) -> bool:
        """Whether its scope names *permission*."""
        named = permission in self.scope or ("*" in self.scope and permission not in NAMED_ONLY)
        return named and permission != NEVER

    def describe(self) -> dict[str, object]:
        """As listings show it."""
        return {"id": self.id, "owner": self.owner, "scope": list(self.scope), "comment": self.comment,
                "made": rfc3339(self.made), "expires": rfc3339(self.expires)}


_TOKEN: TypeAdapter[ApiToken] = TypeAdapter(ApiToken)


class Records(Protocol):
    """What is needed of the store."""

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


class ApiTokens:
    """Makes, knows and ends them."""

    def __init__(self, store: Records, audit: Journal) -> None:
        self._store = store
        self._audit = audit

    async def of(self, owner: str | None) -> list[ApiToken]:
        """Those of *owner*; None: everybody's."""
        found = [_TOKEN.validate_json(record.value) for record in (await self._store.list(TOKENS)).records]
        return [token for token in found if owner is None or token.owner == owner]

    async def make(self, owner: str, scope: Sequence[str], days: int, comment: str) -> tuple[ApiToken, str]:
        """A new one, and its text, which is shown this once. Raises Refused FL-API-TOKEN."""
        known = (set().union(*PERMISSIONS.values()) | {"*"}) - {NEVER}
        if not scope or not set(scope) <= known:
            wrong = next((one for one in scope if one not in known), "nothing")
            raise Refused("FL-API-TOKEN", f"{printable(wrong, 80)!r} is no permission",
                          "name some such as node:read, or * for what your role permits")
        if not 1 <= days <= MOST_DAYS:
            raise Refused("FL-API-TOKEN", f"a token lives 1 to {MOST_DAYS} days, not {days}", "choose another number")
        if len(await self.of(owner)) >= MOST:
            raise Refused("FL-API-TOKEN", f"{owner} has {MOST} tokens", "revoke some")
        secret, now = secrets.token_urlsafe(32), await self._store.now()
        account = await self._store.get(USERS + owner)
        birth = decode(account.value).birth if account is not None else ""
        made = ApiToken(secrets.token_hex(8), owner, tuple(dict.fromkeys(scope)), comment, now, now + days * DAY, birth,
                        sha256(secret.encode()).hexdigest())
        lease = await self._store.grant(days * DAY // SECOND)
        outcome = await self._audit.append_with(
            [Exists(USERS + owner), Absent(TOKENS + made.id)], [Put(TOKENS + made.id, _TOKEN.dump_json(made), lease)],
            [Entry("apitoken.made", made.id, owner, {"scope": " ".join(made.scope), "expires": rfc3339(made.expires)})])
        if not outcome.succeeded:
            raise Refused("FL-USER-UNKNOWN", f"there is no user {printable(owner, 80)!r}", "tokens belong to accounts")
        return made, f"{PREFIX}{made.id}_{secret}"

    async def revoke(self, token_id: str, owner: str | None, by: str) -> None:
        """End one of *owner*'s; None: anybody's. Raises Refused FL-API-TOKEN-UNKNOWN."""
        token = next((one for one in await self.of(owner) if one.id == token_id), None)
        if token is None:
            raise Refused("FL-API-TOKEN-UNKNOWN", f"there is no such token {printable(token_id, 40)!r}",
                          "see `fairlead user token list`")
        outcome = await self._audit.append_with([], [Delete(TOKENS + token_id)],
                                                [Entry("apitoken.revoked", token_id, by, {"owner": token.owner})])
        if not outcome.succeeded:
            raise StoreUnavailable("the token could not be revoked")

    async def end_all(self, owner: str, by: str) -> None:
        """End all of *owner*'s, who has gone or does not exist yet."""
        for token in await self.of(owner):
            await self.revoke(token.id, owner, by)

    async def who(self, text: str) -> tuple[Person, ApiToken] | None:
        """Whose token it is; None when it is none, or has ended."""
        parts = _TEXT.fullmatch(text)
        record = await self._store.get(TOKENS + parts[1]) if parts else None
        if parts is None or record is None:
            return None
        token = _TOKEN.validate_json(record.value)
        proven = hmac.compare_digest(token.secret_hash, sha256(parts[2].encode()).hexdigest())
        owner = await self._store.get(USERS + token.owner)
        if not proven or owner is None or await self._store.now() >= token.expires:
            return None
        account = decode(owner.value)
        if account.birth != token.birth:
            return None
        return Person(account.name, account.role, ""), token
