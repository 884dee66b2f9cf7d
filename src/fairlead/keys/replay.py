"""Nonces already seen: a signed request has effect at most once at the node it names. Pure.

Rules, and the attack each stops (join protocol, section 11):

1. What is inserted stays for at least 70 s, the whole width of the window in which `http.check_fresh` accepts a request
   (60 s back, 10 s ahead): a recorded request is too old before its nonce is forgotten.
2. Nothing is evicted early. A full cache refuses: otherwise filling it would be the way to replay.
3. Each key has its own bound, so one engine, compromised or in a loop, uses up its own share and nobody else's. The
   bound for all is for engines: a fleet that floods does not shut the Controllers out.
4. Insertion comes after the signature verified: strangers put nothing in.

Time is handed in and must be the same store time that freshness was judged by. Should it step back, entries only stay
longer. Not for use from several threads.
"""

from collections import deque
from typing import Literal

from fairlead.base.clock import SECOND
from fairlead.base.errors import Refused

KEPT = 70  # seconds
MOST_OF_KEY = {"engine": 512, "controller": 16_384}
MOST_OF_ALL = 1_048_576


class ReplayCache:
    """(key, nonce) pairs of the last 70 s."""

    def __init__(self, most: int = MOST_OF_ALL) -> None:
        self._most = most
        self._nonces: dict[str, set[bytes]] = {}
        """By key; a key without any is not there."""
        self._seconds: deque[tuple[int, list[str], list[bytes]]] = deque()
        """The same pairs by the second of their insertion, oldest first; two flat lists are 50 MB less than pairs."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def insert(self, keyid: str, nonce: bytes, role: Literal["controller", "engine"], now: int) -> None:
        """Remember a verified request, or refuse it. *keyid* is the sender's fingerprint, *now* in microseconds.

        Raises Refused: ``FL-SIG-REPLAY`` (seen), ``FL-SIG-BUSY`` (this key's share is used up: 429),
        ``FL-SIG-FULL`` (no room for engines: 503).
        """
        second = now // SECOND
        self._forget(second)
        nonces = self._nonces.get(keyid, set())
        if nonce in nonces:
            raise Refused("FL-SIG-REPLAY", "this very request was answered before", "sign a new one")
        if len(nonces) >= MOST_OF_KEY[role]:
            raise Refused("FL-SIG-BUSY", f"{keyid} has sent {len(nonces)} requests within {KEPT} seconds", "wait")
        if role == "engine" and self._size >= self._most:
            raise Refused("FL-SIG-FULL", f"{self._size} requests came within {KEPT} seconds", "wait, then repeat")
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, [], []))
        _, keyids, inserted = self._seconds[-1]
        keyids.append(keyid)
        inserted.append(nonce)
        self._nonces.setdefault(keyid, nonces).add(nonce)
        self._size += 1

    def _forget(self, second: int) -> None:
        # An entry of second s came before s + 1; only after s + 1 + KEPT has it surely been kept for KEPT.
        while self._seconds and self._seconds[0][0] + 1 + KEPT <= second:
            _, keyids, inserted = self._seconds.popleft()
            for keyid, nonce in zip(keyids, inserted, strict=True):
                nonces = self._nonces[keyid]
                nonces.remove(nonce)
                if not nonces:
                    del self._nonces[keyid]
                self._size -= 1
