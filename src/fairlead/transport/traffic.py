"""How much the streams of several connections have carried, also of those connections that have ended."""

from collections.abc import Iterable

from fairlead.transport.tunnel import Tunnel


class Traffic:
    """Counts on when connections end."""

    def __init__(self) -> None:
        self._in = self._out = 0

    def ended(self, tunnel: Tunnel) -> None:
        """*tunnel* is no more; to be said once."""
        self._in += tunnel.bytes_in
        self._out += tunnel.bytes_out

    def total(self, live: Iterable[Tunnel]) -> tuple[int, int]:
        """Bytes that streams brought from peers, and took to them, with those of the *live* connections."""
        brought, taken = self._in, self._out
        for tunnel in live:
            brought += tunnel.bytes_in
            taken += tunnel.bytes_out
        return brought, taken
