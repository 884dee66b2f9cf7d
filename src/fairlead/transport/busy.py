"""What a door says to whom it has no place for: when to come again. Pure.

A line before the version, which a server may send (RFC 4253, section 4.2), as HTTP has ``Retry-After``. Nobody has
proven anything by then, so it is believed for a minute at most: whoever could forge it could keep us out altogether.
"""

import re

MOST_BYTES = 64
MOST_S = 60
_LINE = re.compile(rb"Fairlead has no place now, come again within ([0-9]{1,4}) s\r\n")


def no_place(seconds: int) -> bytes:
    """The line."""
    return b"Fairlead has no place now, come again within %d s\r\n" % seconds


def come_again_s(said: bytes) -> int | None:
    """Within how many seconds to come again, if that is what the first bytes of a server say; at most `MOST_S`."""
    found = _LINE.fullmatch(said)
    return min(int(found[1]), MOST_S) if found else None
