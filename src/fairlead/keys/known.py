"""By which host keys a Controller is known: one, and two while it changes its own. Pure."""

from typing import Protocol

from fairlead.keys.ssh import PublicKey


class Known(Protocol):
    """Whatever says by which host keys a Controller is known."""

    @property
    def host_key(self) -> str:
        """``ssh-ed25519 <base64>``."""
        ...

    @property
    def next_host_key(self) -> str:
        """The one that follows it; empty but while it changes."""
        ...


def host_keys(known: Known) -> tuple[PublicKey, ...]:
    """The keys by which it is known. Raises KeyRefused."""
    return tuple(PublicKey.from_line(line) for line in (known.host_key, known.next_host_key) if line)
