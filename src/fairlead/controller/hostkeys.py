"""This Controller's SSH host keys on its disk: the one that it shows and signs with, and one more while it changes.

``keys/host`` is the one that is shown, ``keys/host.next`` one that may follow, ``keys/host.old`` the one before. Each
step is one file written whole, and whatever a crash leaves behind is one of the states between which a rotation moves:
which of the keys counts is said by the store, and the key for it is on the disk before and after every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.base import files
from fairlead.enrol.trust import HOST_KEY, KEYS, load_key, save_key
from fairlead.keys.ssh import PrivateKey, PublicKey

NEXT, OLD = HOST_KEY + ".next", HOST_KEY + ".old"


@dataclass(slots=True)
class HostKeys:
    """Those of one Controller."""

    state: Path
    shown: PrivateKey
    """For new connections, and for whatever is signed from now on."""
    others: dict[str, PrivateKey] = field(default_factory=dict)
    """By file."""

    @classmethod
    def load(cls, state: Path) -> "HostKeys":
        """Those in *state*; what a crash left twice is once afterwards. Raises OperatorError."""
        made = cls(state, load_key(state, HOST_KEY))
        for name in (NEXT, OLD):
            if (state / KEYS / name).exists():
                made.others[name] = load_key(state, name)
                if made.others[name].public == made.shown.public:
                    made._remove(name)
        public = state / KEYS / f"{HOST_KEY}.pub"
        if not public.exists() or public.read_text() != f"{made.shown.public.line}\n":
            save_key(state, HOST_KEY, made.shown)
        return made

    def has(self, public: PublicKey) -> bool:
        """Whether the private key is here."""
        return any(key.public == public for key in (self.shown, *self.others.values()))

    def make(self) -> PublicKey:
        """A new one, on the disk afterwards. Raises OperatorError."""
        key = PrivateKey.generate()
        save_key(self.state, NEXT, key)
        self.others[NEXT] = key
        return key.public

    def show(self, public: PublicKey) -> None:
        """From now on that one, which is here; the one that was shown is kept. Raises OperatorError."""
        if self.shown.public == public:
            return
        source, key = next((name, key) for name, key in self.others.items() if key.public == public)
        kept = OLD if source == NEXT else NEXT
        before = self.shown
        save_key(self.state, kept, before)
        self.others[kept] = before
        save_key(self.state, HOST_KEY, key)
        self.shown = key
        self._remove(source)

    def keep(self, publics: Sequence[PublicKey]) -> None:
        """Forget all but these, and the one that is shown. Raises OperatorError."""
        for name in [name for name, key in self.others.items() if key.public not in publics]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        for file in (name, f"{name}.pub"):
            files.remove(self.state / KEYS / file)
        del self.others[name]
