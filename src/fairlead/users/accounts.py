"""Accounts of people: a name, a role and a password of which only an Argon2id hash is kept. Pure."""

import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from argon2 import PasswordHasher
from pydantic import TypeAdapter

from fairlead.base.errors import Refused
from fairlead.users.roles import Role

USERS = "users/"
RESERVED = frozenset(("anonymous", "aviseuser", "avictlruser", "cli", "init", "root"))
"""Users of SSH that are no people, and words that stand for somebody in the audit log."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Account:
    """One person or automation."""

    name: str
    role: Role
    password_hash: str = field(repr=False)
    full_name: str = ""
    email: str = ""
    birth: str = ""
    """Another one for each account, also of the same name."""

    @property
    def stamp(self) -> str:
        """Changes when the password or the role does: a session was opened for one of them."""
        return sha256(f"{self.role} {self.password_hash}".encode()).hexdigest()[:32]


_ACCOUNT: TypeAdapter[Account] = TypeAdapter(Account)


def new_password() -> str:
    """A password that nobody guesses, 24 characters, to be shown once."""
    return secrets.token_urlsafe(18)


def check_user_name(name: str) -> str:
    """*name*, if it can be a person's. Raises Refused FL-USER-NAME."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise Refused("FL-USER-NAME", f"{name[:80]!r} cannot be a user's name",
                      "use up to 64 small letters, digits, dots, dashes and underscores, and no name that is reserved")
    return name


def account(name: str, role: Role, password: str) -> Account:
    """An account with *password*, which `rules.Rules` have let pass; takes a tenth of a second."""
    return Account(name, role, PasswordHasher().hash(password), birth=secrets.token_hex(8))


def encode(one: Account) -> bytes:
    """The stored value."""
    return _ACCOUNT.dump_json(one)


def decode(value: bytes) -> Account:
    """The reverse."""
    return _ACCOUNT.validate_json(value)
