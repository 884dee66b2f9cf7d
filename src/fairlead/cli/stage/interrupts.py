"""How a run on a stage is interrupted: once, in order, and not again while it clears the stage."""

import signal
from typing import NoReturn

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heed() -> None:
    """From now on each of these raises KeyboardInterrupt; SIGINT too, which a shell's background job ignores."""
    for number in _ENDS:
        signal.signal(number, _interrupt)


def ignore() -> None:
    """From now on none does anything: what follows takes a few seconds at most, and leaves nothing behind."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - the signal module's form
    raise KeyboardInterrupt
