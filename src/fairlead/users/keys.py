"""SSH keys with which people prove who they are, in the store beside their accounts.

Rules, and the attack each stops:

1. Only ed25519, read by our own parser, and nothing but the key: a line with options in front is no key.
2. A key is one person's, and no node's, now or ever: whoever holds an engine's key does not register it and become a
   person, and a person's key joins as no node (`enrol.redeem`). The transaction compares both.
3. A key goes with its account, in one step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import TypeAdapter

from fairlead.audit.record import Entry
from fairlead.base.clock import rfc3339
from fairlead.base.errors import Refused, printable
from fairlead.keys.ssh import KEY_TYPE, KeyRefused, PublicKey
from fairlead.nodes.records import KEYS
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
from fairlead.users.accounts import USERS

USER_KEYS = "users-keys/"
MOST_KEYS = 16
"""Of one account."""
MOST_LINE = 1024
MOST_COMMENT = 64
TRIES = 3


class Records(Protocol):
    """What keys need of the store."""

    async def get(self, key: str) -> Record | None:
        """See `store.protocol.Store`."""
        ...

    async def list(self, prefix: str) -> Listing:
        """See `store.protocol.Store`."""
        ...

    async def now(self) -> int:
        """See `store.protocol.Store`."""
        ...


class Journal(Protocol):
    """A transaction with its audit record."""

    async def append_with(self, compare: Sequence[Compare], then: Sequence[Operation],
                          entries: Sequence[Entry]) -> Outcome:
        """Do all of *then*, and record *entries*, if all of *compare* hold."""
        ...


@dataclass(frozen=True, slots=True)
class UserKey:
    """A person's key."""

    user: str
    line: str
    """``ssh-ed25519 <base64>``."""
    comment: str
    added: int
    """Microseconds since the epoch."""

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it."""
        return PublicKey.from_line(self.line).fingerprint

    def describe(self) -> dict[str, str]:
        """As listings show it."""
        return {"fingerprint": self.fingerprint, "comment": self.comment, "added": rfc3339(self.added),
                "key": self.line}


_KEY: TypeAdapter[UserKey] = TypeAdapter(UserKey)


def read_line(text: str) -> tuple[PublicKey, str]:
    """The key and the comment of a line as ``ssh-keygen`` writes it to a ``.pub`` file. Raises Refused FL-USER-KEY."""
    line = text.strip(" \t\r\n")
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.strip(" ").partition(" ")
    if "PRIVATE KEY" in line:
        raise Refused("FL-USER-KEY", "that is a private key", "it stays where it is: give the .pub file beside it")
    if kind != KEY_TYPE:
        raise Refused("FL-USER-KEY", f"keys are {KEY_TYPE}, this is {printable(kind, 40)!r}",
                      "make one: ssh-keygen -t ed25519")
    if len(line) > MOST_LINE or "\n" in line:
        raise Refused("FL-USER-KEY", "that is no line with one public key", "give the .pub file as it is")
    try:
        return PublicKey.from_line(f"{kind} {encoded}"), comment.strip(" ")
    except KeyRefused as reason:
        raise Refused("FL-USER-KEY", f"that is no {KEY_TYPE} key: {reason}", "give the .pub file as it is") from None


async def keys_of(store: Records, user: str) -> list[Record]:
    """The stored keys of *user*."""
    return [record for record in (await store.list(USER_KEYS)).records
            if _KEY.validate_json(record.value).user == user]


class UserKeys:
    """Adds, lists, finds and removes them."""

    def __init__(self, store: Records, audit: Journal) -> None:
        self._store = store
        self._audit = audit

    async def owner(self, key: PublicKey) -> str | None:
        """Whose key it is."""
        record = await self._store.get(USER_KEYS + key.fingerprint)
        found = _KEY.validate_json(record.value) if record else None
        return found.user if found and found.line == key.line else None

    async def has(self, user: str, fingerprint: str) -> bool:
        """Whether *user* has the key with that *fingerprint*."""
        record = await self._store.get(USER_KEYS + fingerprint)
        return record is not None and _KEY.validate_json(record.value).user == user

    async def of(self, user: str) -> list[UserKey]:
        """The keys of *user*, by fingerprint. Raises Refused FL-USER-UNKNOWN."""
        await self._account(user)
        return [_KEY.validate_json(record.value) for record in await keys_of(self._store, user)]

    async def add(self, user: str, text: str, comment: str | None, by: str) -> UserKey:
        """Another key of *user*, of a line; *comment* in place of the line's own. Raises Refused."""
        key, own = read_line(text)
        made = UserKey(user, key.line, printable(own if comment is None else comment, MOST_COMMENT),
                       await self._store.now())
        for _ in range(TRIES):
            account = await self._account(user)
            if len(await keys_of(self._store, user)) >= MOST_KEYS:
                raise Refused("FL-USER-KEY", f"{user} has {MOST_KEYS} keys already", "remove one first")
            if await self._store.get(KEYS + key.fingerprint) is not None:
                raise Refused("FL-USER-KEY", f"{key.fingerprint} is, or was, a node's key", "make another one")
            if (owner := await self.owner(key)) is not None:
                raise Refused("FL-USER-KEY", f"{key.fingerprint} is a key of {owner} already", "make another one")
            outcome = await self._audit.append_with(
                [Unchanged(account.key, account.revision), Absent(KEYS + key.fingerprint),
                 Absent(USER_KEYS + key.fingerprint)], [
                    Put(USER_KEYS + key.fingerprint, _KEY.dump_json(made)),
                    Put(account.key, account.value)],  # touched, so that whoever removes it meanwhile looks again
                [Entry("user.key-added", user, by, {"key": key.fingerprint, "comment": made.comment})])
            if outcome.succeeded:
                return made
        raise StoreUnavailable("others changed the same account meanwhile", "try again")

    async def remove(self, user: str, fingerprint: str, by: str) -> None:
        """No such key of *user* any more; what was open with it ends. Raises Refused FL-USER-KEY-UNKNOWN."""
        await self._account(user)
        for record in await keys_of(self._store, user):
            if record.key == USER_KEYS + fingerprint and (await self._audit.append_with(
                    [Unchanged(record.key, record.revision)], [Delete(record.key)],
                    [Entry("user.key-removed", user, by, {"key": fingerprint})])).succeeded:
                return
        raise Refused("FL-USER-KEY-UNKNOWN", f"{user} has no key {printable(fingerprint, 80)!r}",
                      f"see `fairlead user key list {user}`")

    async def _account(self, user: str) -> Record:
        record = await self._store.get(USERS + user) if len(user) <= 64 else None
        if record is None:
            raise Refused("FL-USER-UNKNOWN", f"there is no user {user[:80]!r}", "see `fairlead user list`")
        return record
