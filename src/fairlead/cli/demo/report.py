"""What the demo prints: a line per check, and the count at the end."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from fairlead.base.errors import FairleadError, printable
from fairlead.cli.stage.processes import Failed


class Absent(Exception):
    """What a check needs is not installed here."""


@dataclass(slots=True)
class Report:
    """The checks so far."""

    passed: int = 0
    failed: int = 0

    def check(self, title: str, observe: Callable[[], str]) -> bool:
        """Print what *observe* returns, or why it raised; whether the demo may go on as if it had passed."""
        try:
            seen = observe()
        except Absent as absent:
            self.say(f"{absent}: not installed, not run")
        except Failed as reason:
            return self._fail(title, str(reason))
        except FairleadError as refused:
            return self._fail(title, refused.line())
        except Exception as error:  # noqa: BLE001 - a check that breaks has failed, and the next one is made
            return self._fail(title, f"{type(error).__name__}: {error}")
        else:
            self.passed += 1
            self.say(f"ok   {title}: {seen}")
        return True

    def _fail(self, title: str, reason: str) -> bool:
        self.failed += 1
        self.say(f"FAIL {title}: {reason}")
        return False

    def total(self) -> None:
        """The last line."""
        self.say(f"demo: {self.passed} checks passed, {self.failed} failed")

    def say(self, text: str) -> None:
        """A line, at once."""
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()
