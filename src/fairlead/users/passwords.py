"""Argon2id, beside the event loop and few at a time.

Rules, and the attack each stops:

1. A hash costs a tenth of a second of a core and 64 MiB. `AT_ONCE` are made at a time and `MOST_WAITING` wait; whoever
   comes then is told to come again: a flood of log-ins takes neither the loop nor the memory.
2. A name that nobody has takes as long as one that somebody has: the time tells nothing.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from fairlead.base.errors import Refused

AT_ONCE = 2
MOST_WAITING = 32
T = TypeVar("T")


class Passwords:
    """Makes and compares hashes."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(AT_ONCE, "password")
        self._waiting = 0
        self._nobody = ""

    async def beside(self, work: Callable[[], T]) -> T:
        """Do *work*, which hashes, in its turn. Raises Refused FL-LOGIN-BUSY, and what *work* raises."""
        if self._waiting >= AT_ONCE + MOST_WAITING:
            raise Refused("FL-LOGIN-BUSY", "too many passwords are being compared", "try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    async def fits(self, password_hash: str | None, password: str) -> bool:
        """Whether *password* is the one of that hash; of None, nobody's, it never is. Raises Refused FL-LOGIN-BUSY."""
        return await self.beside(lambda: self._fits(password_hash, password))

    def _fits(self, password_hash: str | None, password: str) -> bool:
        if not self._nobody:
            self._nobody = self._hasher.hash(secrets.token_urlsafe(18))
        try:
            return self._hasher.verify(password_hash or self._nobody, password) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
