"""A stream that runs as a task, for whoever hears how it ended instead of waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fairlead.base.errors import FairleadError
from fairlead.transport.connection import Ended
from fairlead.transport.refusals import lost


class Carried:
    """Runs *work*. *ended* hears once how it went, also when it was aborted before it began. Faults go to the loop."""

    def __init__(self, work: Coroutine[Any, Any, None], ended: Ended) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        self._ended = ended
        self._task.add_done_callback(self._done)

    def abort(self) -> None:
        """Reset both ends."""
        self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        error = lost() if task.cancelled() else task.exception()
        if error is None or isinstance(error, FairleadError):
            self._ended(error)
        else:
            self._ended(lost())
            task.get_loop().call_exception_handler({"message": "a stream failed", "exception": error, "task": task})
