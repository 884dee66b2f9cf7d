"""The two refusals that whoever uses streams may see."""

from fairlead.base.errors import Refused, printable


def refused(what: str, reason: str = "") -> Refused:
    """The peer, or we on its behalf, would not open *what*."""
    return Refused("FL-STREAM-REFUSED", f"{printable(what, 300)} was refused: {printable(reason or 'refused', 200)}",
                   "see whether the service is declared, listens, and may be reached from here")


def lost() -> Refused:
    """The tunnel or its other end went away in the middle."""
    return Refused("FL-STREAM-LOST", "the stream was cut", "connect again")
