"""What fairlead says when it refuses something.

    FairleadError
    |-- Refused         a peer, a token, a message: hostile or wrong input from the other side
    `-- OperatorError   this machine, this configuration, this command: the person in front of it can mend it

A bug is neither: it stays an ordinary Python exception. Every refusal carries a stable code (``FL-...``), says what
was refused and why, and what to do. Other people's scripts match the code, never the text.
"""


class FairleadError(Exception):
    """A refusal with a stable ``code``, a ``message`` (what and why) and a ``remedy`` (what to do, may be empty)."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def line(self) -> str:
        """One printable line: message, remedy, code. Control characters of hostile input are shown escaped."""
        text = f"{self.message}; {self.remedy}" if self.remedy else self.message
        return f"{printable(text)} [{printable(self.code)}]"


class Refused(FairleadError):
    """Input from the other side was refused."""


class OperatorError(FairleadError):
    """The machine, the configuration or the command is at fault."""


def printable(text: str, limit: int = 2000) -> str:
    """*text* with every control and non-printing character escaped, so that no name can move a terminal's cursor."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return shown if len(text) <= limit else shown + "..."
