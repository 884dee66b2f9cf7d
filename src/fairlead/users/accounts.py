"""Accounts of people: a name, a role and a password of which only an Argon2id hash is kept."""

import secrets
from dataclasses import dataclass
from typing import Literal

from argon2 import PasswordHasher
from pydantic import TypeAdapter

from fairlead.base.errors import OperatorError

USERS = "users/"
MOST_BYTES = 256
LEAST = 12
Role = Literal["admin", "operator", "viewer"]


@dataclass(frozen=True, slots=True)
class Account:
    """One person or automation."""

    name: str
    role: Role
    password_hash: str


_ACCOUNT: TypeAdapter[Account] = TypeAdapter(Account)


def new_password() -> str:
    """A password that nobody guesses, 24 characters, to be shown once."""
    return secrets.token_urlsafe(18)


def account(name: str, role: Role, password: str) -> Account:
    """An account with *password*. Raises OperatorError FL-PASSWORD when it is too short or too long."""
    if len(password) < LEAST or len(password.encode()) > MOST_BYTES:
        raise OperatorError("FL-PASSWORD", f"a password has {LEAST} characters to {MOST_BYTES} bytes",
                            "choose another one")
    return Account(name, role, PasswordHasher().hash(password))


def encode(one: Account) -> bytes:
    """The stored value."""
    return _ACCOUNT.dump_json(one)
