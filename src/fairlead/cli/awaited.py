"""Looking on while Controllers carry something out: one that is started anew, or no longer leads, is asked again."""

import time
from collections.abc import Iterator
from typing import Any

from fairlead.base.errors import FairleadError

POLL_S = 0.5
AWAY_S = 60.0
"""For a Controller that does not answer."""


def awaited(api: Any, path: str, begun: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What stands at *path*, again and again, with the entry of what has *begun* in it; the last time when it is over.

    The answer has what is under way as ``current``, what is over as ``past``; each has an ``id`` and a ``phase``. Where
    a Controller knows nothing of it yet, as it has just started, the entry is *begun*. Raises FairleadError when nobody
    answers for `AWAY_S`.
    """
    heard = time.monotonic()
    while True:
        try:
            found = api.get(path)
        except FairleadError:
            if time.monotonic() - heard > AWAY_S:
                raise
        else:
            heard = time.monotonic()
            one = next((one for one in (found["current"], *found["past"]) if one and one["id"] == begun["id"]), begun)
            yield found, one
            if one["phase"] == "over":
                return
        time.sleep(POLL_S)
