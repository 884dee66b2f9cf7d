"""The user keys that a node holds: the one in use, a next one, and the last one until it is retired.

Rules, and what each stops:

1. A key is on disk, synced, before anybody hears of it: a crash loses no key that the cluster knows.
2. Changing the key in use writes before it removes: whenever the machine stops, every key is in a file, and the file
   ``user`` holds one that was in use. Which one the cluster takes is found out by trying (`mesh.dialling`).
3. A key is removed when the cluster says that it is revoked, and never the one in use. Nobody else ever has it.
"""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

from fairlead.base import files
from fairlead.base.errors import FairleadError, Refused
from fairlead.enrol.trust import KEYS, USER_KEY, load_key, save_key
from fairlead.keys.ssh import PrivateKey

NEXT = f"{USER_KEY}.next"
"""Made, and never in use."""
USED = tuple(f"{USER_KEY}.last{number}" for number in range(1, 5))
"""Were in use. More places than keys, so that two can change places with each of them on disk all the while."""


class Keyring:
    """The user keys in one node's state folder."""

    def __init__(self, state: Path) -> None:
        """Raises OperatorError when a key is missing or damaged."""
        self._state = state
        self._others: dict[str, PrivateKey] = {}
        self.in_use = load_key(state, USER_KEY)
        self._written = True
        for name in (NEXT, *USED):
            if (state / KEYS / name).exists():
                key = load_key(state, name)
                if key.public == self.in_use.public:  # stopped in the middle of a change
                    self._remove(name)
                else:
                    self._others[name] = key

    @property
    def held(self) -> Sequence[PrivateKey]:
        """All of them, the one in use first."""
        return [self.in_use, *self._others.values()]

    def next(self) -> PrivateKey:
        """The next key, made and written now if there is none. Raises OperatorError FL-DISK."""
        if NEXT not in self._others:
            self._settle()  # on a disk that refused, the one in use may be in that place
            key = PrivateKey.generate()
            save_key(self._state, NEXT, key)
            self._others[NEXT] = key
        return self._others[NEXT]

    def use(self, fingerprint: str) -> bool:
        """Have the key with that *fingerprint* in use; whether it is another one than before.

        A disk that refuses does not stop it: the key is there under another name, and this is written later.
        Raises Refused FL-KEY-MISSING.
        """
        changed = self.in_use.public.fingerprint != fingerprint
        if changed:
            name = next((name for name, key in self._others.items() if key.public.fingerprint == fingerprint), "")
            place = next((one for one in USED if one not in self._others), "")
            if not name or not place:
                raise Refused("FL-KEY-MISSING", f"this node does not hold the key {fingerprint}",
                              "`fairlead node remove` and a new bundle bring it back with new keys")
            self._others[place], self.in_use = self.in_use, self._others.pop(name)
            self._written = False
        with contextlib.suppress(FairleadError):  # whoever measures the disk says so
            self._settle()
        return changed

    def drop(self, fingerprints: Collection[str]) -> list[str]:
        """Remove keys that are revoked; the fingerprints of those that were there. Raises OperatorError FL-DISK."""
        gone = []
        for name, key in list(self._others.items()):
            if key.public.fingerprint in fingerprints:
                self._remove(name)
                del self._others[name]
                gone.append(key.public.fingerprint)
        return gone

    def _settle(self) -> None:
        """Have the files as it is here. Raises OperatorError FL-DISK: each key is in some file all the same."""
        if self._written:
            return
        for name, key in self._others.items():
            if name != NEXT:
                save_key(self._state, name, key)
        save_key(self._state, USER_KEY, self.in_use)
        for name in (NEXT, *USED):
            if name not in self._others:
                self._remove(name)
        self._written = True

    def _remove(self, name: str) -> None:
        for file in (name, f"{name}.pub"):
            files.remove(self._state / KEYS / file)
