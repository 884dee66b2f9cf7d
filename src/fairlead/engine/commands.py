"""What Controllers may ask an engine to do: a word each, and nothing else. Each has a deadline, and few run at once."""

import asyncio
import json
import platform
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from fairlead.base.errors import FairleadError, OperatorError, Refused, printable
from fairlead.link.messages import MOST_RESULT, Command, Outcome

MOST_AT_ONCE = 4

log = structlog.get_logger("fairlead.engine")

Work = Callable[[], Awaitable[Any]]


class Commands:
    """The catalogue: by word, what is done and what it returns, which goes back as JSON."""

    def __init__(self, catalogue: Mapping[str, Work], record: Callable[..., None]) -> None:
        """*record*: for the journal, an event and its details."""
        self._catalogue = catalogue
        self._record = record
        self._running = 0

    async def run(self, command: Command, controller: str) -> Outcome:
        """What *controller* is answered."""
        self._record("command", command=printable(command.command, 32), controller=controller)
        self._running += 1
        try:
            return Outcome(number=command.number, code="", words="", result=await self._result(command))
        except FairleadError as error:
            log.warning("command.refused", command=command.command, code=error.code, reason=error.message)
            return Outcome(number=command.number, code=error.code[:64], words=error.message[:1000], result="")
        finally:
            self._running -= 1

    async def _result(self, command: Command) -> str:
        work = self._catalogue.get(command.command)
        if work is None:
            raise Refused("FL-COMMAND-UNKNOWN", f"this engine knows no command {printable(command.command, 32)!r}",
                          "upgrade it")
        if self._running > MOST_AT_ONCE:
            raise OperatorError("FL-COMMAND-MANY", f"{MOST_AT_ONCE} commands run here", "try again")
        try:
            async with asyncio.timeout(command.deadline_s):
                result = json.dumps(await work())
        except TimeoutError:
            raise OperatorError("FL-COMMAND-LATE", f"not done within {command.deadline_s:g} seconds") from None
        if len(result) > MOST_RESULT:
            raise OperatorError("FL-COMMAND-ANSWER", f"the answer has more than {MOST_RESULT} bytes")
        return result


def machine() -> dict[str, Any]:
    """What is to be known of this machine when a fault is looked for."""
    def lines(path: str, *names: str) -> dict[str, str]:
        try:
            with Path(path).open(encoding="utf-8", errors="replace") as file:
                found = (line.partition(":") for line in file)
                return {key: value.strip() for key, _, value in found if key in names}
        except OSError:
            return {}

    return {"python": sys.version.split()[0], "system": platform.platform(),
            "memory": lines("/proc/meminfo", "MemTotal", "MemAvailable"),
            "process": lines("/proc/self/status", "VmRSS", "Threads", "FDSize")}
