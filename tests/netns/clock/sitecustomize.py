"""A wall clock that a test sets while a program of Python runs: for whoever has this folder in ``PYTHONPATH``.

``WALL_CLOCK`` names a file with how many seconds it is ahead; monotonic time is as it is. faketime(1) cannot do that:
Python's sleep fails when only the wall clock is another one. What does not ask Python has the machine's clock: TLS,
whose certificates are dated an hour back, and etcd, which decides nothing by the wall clock.
"""

import os
import time
from pathlib import Path

_file = Path(os.environ["WALL_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _ahead() -> int:
    return int(_file.read_text() or 0)


time.time = lambda: _time() + _ahead()
time.time_ns = lambda: _time_ns() + _ahead() * 1_000_000_000
