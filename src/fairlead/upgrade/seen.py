"""The highest versions that were seen of a repository: what keeps an old bundle from being offered again. Pure.

It only ever rises. A node keeps its own and the store has the cluster's; whatever is restored from a backup is merged
with what is known elsewhere, so that it brings no old bundle back.

A newer version may have added fields: who goes back to this one reads past them, and leaves them as they are.
"""

import json
from dataclasses import asdict, dataclass, fields

from fairlead.base import strict

_MOST = 1 << 53


@dataclass(frozen=True, slots=True)
class Seen:
    """Versions of the four kinds of metadata, and the security counter. Zero: none yet."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    counter: int = 0

    def merged(self, other: "Seen") -> "Seen":
        """The higher of each."""
        return Seen(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    def encode(self, before: bytes = b"{}") -> bytes:
        """As it is kept in the place of *before*, whose other fields stay. Raises ValueError."""
        return json.dumps({**strict.loads(before), **asdict(self)}, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Seen":
        """What was kept. Raises ValueError."""
        found = strict.loads(data)
        if not isinstance(found, dict) or not found.keys() >= (names := {f.name for f in fields(cls)}):
            raise ValueError("a field is missing")
        known = {name: found[name] for name in names}
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MOST for n in known.values()):
            raise ValueError("a version is none")
        return cls(**known)
